"""Several compression methods in one training job, driven by code or by a YAML file."""

from __future__ import annotations

from paddleslim_ng.compress.budget import Budget
from paddleslim_ng.compress.compressor import CompressionResult, Compressor
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.evaluation import EvalResult
from paddleslim_ng.compress.journal import JournalEntry
from paddleslim_ng.compress.optimizers import OptimizerSource
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.compress.trainer import Observer, Trainer
from paddleslim_ng.compress.trainer_options import EpochRecord, TrainerOptions

__all__ = [
    'Budget',
    'CompressionResult',
    'Compressor',
    'Context',
    'EpochRecord',
    'EvalResult',
    'JournalEntry',
    'Observer',
    'OptimizerSource',
    'Strategy',
    'Trainer',
    'TrainerOptions',
]
