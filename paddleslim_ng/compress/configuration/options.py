"""The options of all strategies: which keys a strategy has in a file, of what type, in which range, and what they mean.

A strategy is given its options as one immutable object, whose references (``pruner``, ``distillers``) are the objects
themselves by then.
"""

from __future__ import annotations

from paddleslim_ng.compress.configuration.alternation_options import AlternationOptions
from paddleslim_ng.compress.configuration.distillation_options import DistillationOptions, TeacherModel
from paddleslim_ng.compress.configuration.prune_options import (
    GreedyPruneOptions,
    PruneOptions,
    SensitivePruneOptions,
    UniformPruneOptions,
)
from paddleslim_ng.compress.configuration.quantization_options import (
    PostTrainingQuantOptions,
    QuantizationOptions,
    QuantizationSearch,
    Reconstruction,
)
from paddleslim_ng.compress.configuration.sparse_options import GMPOptions, SparseOptions, UnstructuredPruneOptions
from paddleslim_ng.compress.configuration.strategy_options import StrategyOptions

__all__ = [
    'AlternationOptions',
    'DistillationOptions',
    'GMPOptions',
    'GreedyPruneOptions',
    'PostTrainingQuantOptions',
    'PruneOptions',
    'QuantizationOptions',
    'QuantizationSearch',
    'Reconstruction',
    'SensitivePruneOptions',
    'SparseOptions',
    'StrategyOptions',
    'TeacherModel',
    'UniformPruneOptions',
    'UnstructuredPruneOptions',
]
