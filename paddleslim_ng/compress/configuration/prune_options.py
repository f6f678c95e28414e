"""Options of the strategies that remove channels."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.strategy_options import StrategyOptions
from paddleslim_ng.compress.configuration.values import (
    Count,
    FieldError,
    MaybeFloat,
    MaybeFraction,
    MaybePattern,
    MaybeText,
    Pattern,
    Positive,
    PrunerReference,
    Share,
    Text,
)

__all__ = [
    'GreedyPruneOptions',
    'PruneOptions',
    'SensitivePruneOptions',
    'UniformPruneOptions',
]

_MaybeShare = Optional[Share]
_ChannelRatios = Union[Share, dict[Text, Share], None]


class PruneOptions(StrategyOptions):
    """What the channel pruning strategies have in common."""

    pruner: PrunerReference = Field(
        None, description='Instance of `pruners` that scores and chooses channels; a StructurePruner by default.'
    )
    target: Literal['flops', 'params'] = Field(
        'flops', description='What `target_ratio` counts: multiply-accumulates, or parameters.'
    )
    pruned_params: Pattern = Field(
        '.*', description='Regular expression that the whole name of a parameter to prune matches.'
    )
    excluded_params: MaybePattern = Field(
        None, description='Regular expression of names that are left alone although `pruned_params` matches.'
    )
    max_ratio: Share = Field(0.9, description='Largest share of the channels that any one layer loses.')
    round_to: Count = Field(
        8, description='Channel counts are brought to a multiple of this, because devices run odd counts slowly.'
    )


class UniformPruneOptions(PruneOptions):
    """Options of ``UniformPruneStrategy``: the same ratio for all layers, found by bisection, or given ratios."""

    target_ratio: Share = Field(0.5, description='Share of the FLOPs, or parameters, to remove.')
    channel_ratios: _ChannelRatios = Field(
        None,
        description=(
            'Instead of `target_ratio`: the share of its channels that every layer loses, or {parameter: share}.'
        ),
    )

    @model_validator(mode='after')
    def _has_one_aim(self) -> Any:
        if self.channel_ratios is not None and 'target_ratio' in self.model_fields_set:
            raise FieldError('channel_ratios', 'give target_ratio or channel_ratios, not both')
        return self


class SensitivePruneOptions(PruneOptions):
    """Options of ``SensitivePruneStrategy``: every layer by how much the metric suffers when it is pruned alone."""

    target_ratio: Share = Field(0.5, description='Share of the FLOPs, or parameters, to remove.')
    metric_name: Text = Field(
        'top1_acc', description='Readable name of the metric in eval_fetch_list or eval_func; the larger the better.'
    )
    delta_rate: Share = Field(
        0.2, description='Step of the ratios that are measured for every parameter: 0.2 measures 0.2, 0.4, 0.6 and 0.8.'
    )
    sensitivities_file: MaybeText = Field(
        None, description='JSON file that keeps what was measured and is read again; by default in the checkpoints.'
    )
    num_steps: Count = Field(
        1, description='Number of steps; the next one is taken when the metric has converged after the one before.'
    )
    convergence: Positive = Field(
        0.001, description='Relative change of the metric from one epoch to the next below which it has converged.'
    )
    eval_rate: MaybeFraction = Field(
        None, description='Share of the evaluation batches on which sensitivities are measured; all by default.'
    )


class GreedyPruneOptions(PruneOptions):
    """Options of ``GreedyPruneStrategy``: step by step the cheapest loss, never below a floor of the metric."""

    target_ratio: _MaybeShare = Field(
        None, description='Share of the FLOPs, or parameters, at which to stop; by default the floor alone decides.'
    )
    metric_name: Text = Field(
        'top1_acc', description='Readable name of the metric in eval_fetch_list or eval_func; the larger the better.'
    )
    accuracy_floor: MaybeFloat = Field(None, description='The metric must not end below this value.')
    max_loss: MaybeFraction = Field(
        None, description='Instead of `accuracy_floor`: the share of the metric before pruning that may be lost.'
    )
    step_ratio: Share = Field(0.1, description='Share of the FLOPs, or parameters, that one step removes.')
    retrain_epochs: Count = Field(1, description='Epochs of training between two steps.')
    eval_rate: MaybeFraction = Field(
        None, description='Share of the evaluation batches on which candidates are measured; all by default.'
    )

    @model_validator(mode='after')
    def _has_one_floor(self) -> Any:
        if (self.accuracy_floor is None) == (self.max_loss is None):
            found = 'both are' if self.max_loss is not None else 'neither is'
            raise FieldError(
                'max_loss' if self.max_loss is not None else '',
                f'give accuracy_floor, a value of the metric, or max_loss, a share of it: {found} given',
            )
        return self
