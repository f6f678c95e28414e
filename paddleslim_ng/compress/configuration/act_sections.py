"""The sections of PaddleSlim's AutoCompression files as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paddleslim_ng.compress.configuration.act_prune_sections import ASPPrune, ChannelPrune, GmpConfig, UnstructurePrune
from paddleslim_ng.compress.configuration.act_quantization_sections import (
    HyperParameterOptimization,
    QuantAware,
    QuantPost,
)
from paddleslim_ng.compress.configuration.act_training_sections import (
    Distillation,
    MultiTeacherDistillation,
    OptimizerBuilder,
    TrainConfig,
)
from paddleslim_ng.compress.configuration.values import Options

__all__ = [
    'ACT_MODELS',
    'FORMER_SECTIONS',
    'ASPPrune',
    'ChannelPrune',
    'Distillation',
    'GmpConfig',
    'HyperParameterOptimization',
    'MultiTeacherDistillation',
    'OptimizerBuilder',
    'QuantAware',
    'QuantPost',
    'TrainConfig',
    'UnstructurePrune',
]

ACT_MODELS: Final[Mapping[str, type[Options]]] = {
    model.__name__: model
    for model in (
        QuantAware,
        Distillation,
        MultiTeacherDistillation,
        HyperParameterOptimization,
        QuantPost,
        ChannelPrune,
        ASPPrune,
        UnstructurePrune,
        TrainConfig,
    )
}
# What sections were called in older releases.
FORMER_SECTIONS: Final[Mapping[str, str]] = {'Quantization': 'QuantAware'}
