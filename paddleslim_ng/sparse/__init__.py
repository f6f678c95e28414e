"""Pruning of single weights: masks in the program, exact selection, schedules."""

from __future__ import annotations

from paddleslim_ng.sparse.factory import make_unstructured_pruner
from paddleslim_ng.sparse.gmp import GMPUnstructuredPruner
from paddleslim_ng.sparse.layer_ratios import layer_counts
from paddleslim_ng.sparse.masks import mask_program
from paddleslim_ng.sparse.prunable import get_skip_params
from paddleslim_ng.sparse.schedule import Constant, CubicSteps, OneShot, Polynomial, Schedule
from paddleslim_ng.sparse.statistics import LayerSparsity, Sparsity, measure_sparsity
from paddleslim_ng.sparse.unstructured_pruner import UnstructuredPruner

__all__ = [
    'Constant',
    'CubicSteps',
    'GMPUnstructuredPruner',
    'LayerSparsity',
    'OneShot',
    'Polynomial',
    'Schedule',
    'Sparsity',
    'UnstructuredPruner',
    'get_skip_params',
    'layer_counts',
    'make_unstructured_pruner',
    'mask_program',
    'measure_sparsity',
]
