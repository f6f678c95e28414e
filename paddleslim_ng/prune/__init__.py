"""Structured pruning: remove channels, prove the result equal to the original with the same channels zeroed."""

from __future__ import annotations

from paddleslim_ng.prune.criterion import CRITERION, Random
from paddleslim_ng.prune.equivalence import verify_equivalence
from paddleslim_ng.prune.evaluation import EngineReport, Evaluator
from paddleslim_ng.prune.global_ranking import GlobalRanking
from paddleslim_ng.prune.idx_selector import IDX_SELECTOR
from paddleslim_ng.prune.prune_io import load_model, save_model
from paddleslim_ng.prune.pruner import Pruner
from paddleslim_ng.prune.report import EquivalenceFigures, ParameterReport, PruneReport
from paddleslim_ng.prune.sensitive import get_ratios_by_loss, load_sensitivities, merge_sensitive, sensitivity
from paddleslim_ng.prune.session import Explanation, PruningSession
from paddleslim_ng.prune.taylor import Taylor
from paddleslim_ng.prune.unstructured_pruner import (
    GMPUnstructuredPruner,
    UnstructuredPruner,
    make_unstructured_pruner,
)

__all__ = [
    'CRITERION',
    'IDX_SELECTOR',
    'EngineReport',
    'EquivalenceFigures',
    'Evaluator',
    'Explanation',
    'GMPUnstructuredPruner',
    'GlobalRanking',
    'ParameterReport',
    'PruneReport',
    'Pruner',
    'PruningSession',
    'Random',
    'Taylor',
    'UnstructuredPruner',
    'get_ratios_by_loss',
    'load_model',
    'load_sensitivities',
    'make_unstructured_pruner',
    'merge_sensitive',
    'save_model',
    'sensitivity',
    'verify_equivalence',
]
