"""The sections of PaddleSlim's AutoCompression files that prune, with its keys and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Optional, Union

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.plugin_options import Criterion
from paddleslim_ng.compress.configuration.values import (
    Count,
    Epoch,
    FieldError,
    Fraction,
    MaybeTexts,
    NonNegative,
    Options,
    Share,
)

__all__ = ['ASPPrune', 'ChannelPrune', 'GmpConfig', 'UnstructurePrune']

_Ratios = Union[Share, list[Share]]
_Strategy = Optional[Literal['base', 'gmp']]
_ParamsType = Optional[Literal['conv1x1_only']]


class ChannelPrune(Options):
    """Channel pruning by given ratios."""

    pruned_ratio: _Ratios = Field(
        description='Share of its channels that every layer loses, or one for each of prune_params_name.'
    )
    prune_params_name: MaybeTexts = Field(None, description='Weights of the layers to prune; all by default.')
    criterion: Criterion = Field('l1_norm', description='How channels are scored.')

    @model_validator(mode='after')
    def _one_for_each(self) -> Any:
        if isinstance(self.pruned_ratio, list) and len(self.pruned_ratio) != len(self.prune_params_name or ()):
            raise FieldError('pruned_ratio', 'is a list, so it must have one entry for each of prune_params_name')
        return self


class ASPPrune(Options):
    """Two of every four weights."""

    prune_params_name: MaybeTexts = Field(None, description='Weights to prune; all by default.')


class GmpConfig(Options):
    """Phases of gradual magnitude pruning."""

    stable_iterations: Epoch = Field(0, description='Batches before the first weight leaves.')
    pruning_iterations: Count = Field(description='Batches over which the ratio rises.')
    tunning_iterations: Epoch = Field(description='Batches at the full ratio, up to which the plan counts.')
    resume_iteration: int = Field(-1, description='-1: a job goes on from its checkpoints.')
    pruning_steps: Count = Field(description='Number of steps in which the ratio rises.')
    initial_ratio: Fraction = Field(description='Ratio of the first step.')


_MaybeGmp = Optional[GmpConfig]


class UnstructurePrune(Options):
    """Pruning of single weights."""

    former_keys: ClassVar[Mapping[str, str]] = {'pruned_ratio': 'write ratio'}

    prune_strategy: _Strategy = Field(None, description='gmp: the ratio rises while the network trains.')
    prune_mode: Literal['ratio', 'threshold'] = Field('ratio', description='Drop a share, or what is small.')
    threshold: NonNegative = Field(0.01, description='Magnitude below which weights leave.')
    ratio: Share = Field(0.55, description='Share of the weights that become zero.')
    gmp_config: _MaybeGmp = Field(None, description='Phases, for prune_strategy: gmp.')
    prune_params_type: _ParamsType = Field(
        'conv1x1_only', description='conv1x1_only, or none for all weights but norms.'
    )
    local_sparsity: bool = Field(False, description='Every parameter reaches the ratio by itself.')

    @model_validator(mode='after')
    def _choices_fit(self) -> Any:
        if self.prune_strategy == 'gmp' and self.prune_mode != 'ratio':
            raise FieldError('prune_mode', 'must be ratio beside prune_strategy: gmp')
        if self.prune_strategy != 'gmp' and self.gmp_config is not None:
            raise FieldError('gmp_config', 'needs prune_strategy: gmp')
        if self.prune_mode == 'threshold' and self.local_sparsity:
            raise FieldError('local_sparsity', 'needs prune_mode: ratio')
        return self
