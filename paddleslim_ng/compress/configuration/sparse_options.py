"""Options of the strategies that zero single weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from pydantic import BeforeValidator, Field, model_validator

from paddleslim_ng.compress.configuration.strategy_options import StrategyOptions
from paddleslim_ng.compress.configuration.values import (
    Count,
    Epoch,
    FieldError,
    Fraction,
    LayerRatios,
    MaybeCount,
    MaybePattern,
    MaybePositive,
    NonNegative,
    Pattern,
    Share,
)

__all__ = ['GMPOptions', 'SparseOptions', 'UnstructuredPruneOptions']


def _check_n_of_m(given: Any) -> Any:
    if given is None:
        return None
    kept, colon, of = given.partition(':') if isinstance(given, str) else ('', '', '')
    if not (colon and kept.isdecimal() and of.isdecimal() and 0 < int(kept) < int(of)):
        raise ValueError(
            "is N:M with 0 < N < M in quotes, such as '2:4'; without quotes, YAML reads 2:4 as the number 124"
        )
    return given


_Block = Annotated[list[Count], Field(min_length=2, max_length=2)]
_ParamsType = Optional[Literal['conv1x1_only']]
_MaybeNofM = Annotated[Optional[str], BeforeValidator(_check_n_of_m)]
_MaybeEpoch = Optional[Epoch]
# Of CubicSteps.
_LEAST_PERIOD = 10
_PROTOCOLS = ('uniform', 'heuristic')


class SparseOptions(StrategyOptions):
    """What pruning at once and pruning step by step have in common."""

    ratio: Share = Field(0.55, description='Share of the prunable weights that become zero.')
    prune_params_type: _ParamsType = Field(None, description='`conv1x1_only`, or none for all weights but norms.')
    pruned_params: Pattern = Field(
        '.*', description='Regular expression that the whole name of a parameter to prune matches.'
    )
    excluded_params: MaybePattern = Field(
        None, description='Regular expression of names that are left alone although `pruned_params` matches.'
    )
    local_sparsity: bool = Field(False, description='Every parameter reaches the ratio by itself.')
    sparse_block: _Block = Field(
        [1, 1], description='Rows and columns of the blocks of weights that stay or leave whole.'
    )
    layer_ratios: LayerRatios = Field(
        None, description='`uniform` or `heuristic` (larger layers lose more), or {parameter: ratio}.'
    )
    regrowth: bool = Field(False, description='Weights that have left keep their value aside and may come back.')

    @model_validator(mode='after')
    def _ratios_fit(self) -> Any:
        if isinstance(self.layer_ratios, str) and self.layer_ratios not in _PROTOCOLS:
            raise FieldError(
                'layer_ratios', f'is uniform, heuristic, or a mapping of ratios by parameter, not {self.layer_ratios!r}'
            )
        if self.local_sparsity and self.layer_ratios is not None:
            raise FieldError('layer_ratios', 'give local_sparsity or layer_ratios, not both')
        return self


class UnstructuredPruneOptions(SparseOptions):
    """Options of ``UnstructuredPruneStrategy``: from ``start_epoch`` on, the weights of least magnitude are zero."""

    mode: Literal['ratio', 'threshold', 'static'] = Field(
        'ratio',
        description='Drop a share, or what is below `threshold`, or only keep at zero what is zero already.',
    )
    threshold: NonNegative = Field(0.01, description="Magnitude below which weights leave, for mode: 'threshold'.")
    pattern: _MaybeNofM = Field(
        None, description="'N:M', such as '2:4': of every M weights along the input channels at most N stay."
    )

    @model_validator(mode='after')
    def _choices_fit(self) -> Any:
        """Follow what UnstructuredPruner accepts."""
        given = self.model_fields_set
        by_layer = self.local_sparsity or self.layer_ratios is not None
        for wrong, field, message in (
            (self.mode != 'ratio' and 'ratio' in given, 'ratio', f'has no meaning beside mode: {self.mode}'),
            (self.mode != 'ratio' and by_layer, 'mode', 'local_sparsity and layer_ratios need mode: ratio'),
            (self.mode != 'ratio' and self.regrowth, 'regrowth', 'needs mode: ratio'),
            (self.mode != 'threshold' and 'threshold' in given, 'threshold', 'needs mode: threshold'),
            (self.pattern and self.mode != 'ratio', 'pattern', 'needs mode: ratio'),
            (self.pattern and 'ratio' in given, 'ratio', 'the pattern says it: 1 - N/M; leave ratio out'),
            (
                self.pattern and (self.sparse_block != [1, 1] or by_layer),
                'pattern',
                'excludes sparse_block, local_sparsity and layer_ratios',
            ),
        ):
            if wrong:
                raise FieldError(field, message)
        return self


class GMPOptions(SparseOptions):
    """Options of ``GMPStrategy``: the ratio rises in cubic steps while the network trains (Zhu and Gupta, 2017)."""

    stable_iterations: Epoch = Field(
        0, description='Batches from the start before the first weight leaves; whole steps count.'
    )
    pruning_iterations: _MaybeEpoch = Field(
        None, description='Batches over which the ratio rises; by default 45 % of those that the strategy has.'
    )
    tuning_iterations: _MaybeEpoch = Field(
        None, description='Batches at the full ratio, up to which the plan counts; the ratio stays afterwards, too.'
    )
    pruning_steps: MaybeCount = Field(
        None, description='Number of steps in which the ratio rises; by default 100, or as many as the batches allow.'
    )
    initial_ratio: Fraction = Field(0.15, description='Ratio of the first step.')
    stable_epochs: MaybePositive = Field(
        None, description='Instead of `stable_iterations`: the same in epochs, which need not be whole.'
    )
    pruning_epochs: MaybePositive = Field(
        None, description='Instead of `pruning_iterations`: epochs over which the ratio rises.'
    )
    tuning_epochs: MaybePositive = Field(
        None, description='Instead of `tuning_iterations`: epochs at the full ratio, up to which the plan counts.'
    )

    @model_validator(mode='after')
    def _rises(self) -> Any:
        if self.initial_ratio > self.ratio:
            raise FieldError('initial_ratio', f'must not exceed ratio ({self.ratio}), but is {self.initial_ratio}')
        steps, batches = self.pruning_steps, self.pruning_iterations
        if steps is not None and batches is not None and batches <= _LEAST_PERIOD * steps:
            raise FieldError(
                'pruning_steps',
                f'pruning_iterations ({batches}) must be more than {_LEAST_PERIOD} times pruning_steps ({steps}), or '
                'the network has no time to recover between two steps',
            )
        return self

    @model_validator(mode='after')
    def _phases_fit(self) -> Any:
        for name in ('stable', 'pruning', 'tuning'):
            if getattr(self, f'{name}_iterations') and getattr(self, f'{name}_epochs') is not None:
                raise FieldError(f'{name}_epochs', f'give {name}_iterations or {name}_epochs, not both')
        rising = (self.stable_epochs or 0) + (self.pruning_epochs or 0)
        epochs = self.end_epoch - self.start_epoch
        if self.end_epoch and rising > epochs:
            raise FieldError(
                'pruning_epochs' if self.pruning_epochs is not None else 'stable_epochs',
                f'the ratio would be reached after {rising:g} epochs, and the strategy has {epochs}, up to end_epoch',
            )
        return self
