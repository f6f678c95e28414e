"""Several compression methods in one training job, driven by code or by a YAML file.

The names below are loaded at first use: a configuration is checked without Paddle, and a job without a configuration
needs nothing that reads one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddleslim_ng.compress import configuration, strategies
    from paddleslim_ng.compress.auto_compression import AutoCompressed, auto_compress
    from paddleslim_ng.compress.budget import Budget
    from paddleslim_ng.compress.compressor import Compressor
    from paddleslim_ng.compress.configuration import CompressionConfig, ConfigurationError, Registry, load_config
    from paddleslim_ng.compress.context import Context
    from paddleslim_ng.compress.evaluation import EvalResult
    from paddleslim_ng.compress.job_folder import JobFolder, job_record
    from paddleslim_ng.compress.journal import JournalEntry
    from paddleslim_ng.compress.observer import Observer
    from paddleslim_ng.compress.optimizers import OptimizerSource
    from paddleslim_ng.compress.plugins import (
        Distiller,
        FSPDistiller,
        L2Distiller,
        LossDistiller,
        LSQQuantizer,
        MovingAverageQuantizer,
        PACTQuantizer,
        Quantizer,
        SoftLabelDistiller,
        StructurePruner,
    )
    from paddleslim_ng.compress.result import CompressionResult
    from paddleslim_ng.compress.strategy import Strategy
    from paddleslim_ng.compress.trainer import Trainer
    from paddleslim_ng.compress.trainer_options import EpochRecord, TrainerOptions

__all__ = [
    'AutoCompressed',
    'Budget',
    'CompressionConfig',
    'CompressionResult',
    'Compressor',
    'ConfigurationError',
    'Context',
    'Distiller',
    'EpochRecord',
    'EvalResult',
    'FSPDistiller',
    'JobFolder',
    'JournalEntry',
    'L2Distiller',
    'LSQQuantizer',
    'LossDistiller',
    'MovingAverageQuantizer',
    'Observer',
    'OptimizerSource',
    'PACTQuantizer',
    'Quantizer',
    'Registry',
    'SoftLabelDistiller',
    'Strategy',
    'StructurePruner',
    'Trainer',
    'TrainerOptions',
    'auto_compress',
    'configuration',
    'job_record',
    'load_config',
    'strategies',
]

_SUBPACKAGES = frozenset({'configuration', 'strategies'})
# The module of each name.
_HOMES = {
    'AutoCompressed': 'auto_compression',
    'Budget': 'budget',
    'CompressionConfig': 'configuration',
    'CompressionResult': 'result',
    'Compressor': 'compressor',
    'ConfigurationError': 'configuration',
    'Context': 'context',
    'Distiller': 'plugins',
    'EpochRecord': 'trainer_options',
    'EvalResult': 'evaluation',
    'FSPDistiller': 'plugins',
    'JobFolder': 'job_folder',
    'JournalEntry': 'journal',
    'L2Distiller': 'plugins',
    'LSQQuantizer': 'plugins',
    'LossDistiller': 'plugins',
    'MovingAverageQuantizer': 'plugins',
    'Observer': 'observer',
    'OptimizerSource': 'optimizers',
    'PACTQuantizer': 'plugins',
    'Quantizer': 'plugins',
    'Registry': 'configuration',
    'SoftLabelDistiller': 'plugins',
    'Strategy': 'strategy',
    'StructurePruner': 'plugins',
    'Trainer': 'trainer',
    'TrainerOptions': 'trainer_options',
    'auto_compress': 'auto_compression',
    'job_record': 'job_folder',
    'load_config': 'configuration',
}


def __getattr__(name: str) -> object:
    """Load a name at first use."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f'{__name__}.{name}')
    if name in _HOMES:
        return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
