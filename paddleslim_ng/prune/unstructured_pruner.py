"""PaddleSlim's module path for pruning of single weights; see :mod:`paddleslim_ng.sparse`."""

from __future__ import annotations

from paddleslim_ng.sparse.factory import make_unstructured_pruner
from paddleslim_ng.sparse.gmp import GMPUnstructuredPruner
from paddleslim_ng.sparse.prunable import get_skip_params as _get_skip_params
from paddleslim_ng.sparse.unstructured_pruner import UnstructuredPruner

__all__ = ['GMPUnstructuredPruner', 'UnstructuredPruner', '_get_skip_params', 'make_unstructured_pruner']
