"""The program as data: one view over both of Paddle's IRs, and one small editor for each."""

from __future__ import annotations

from paddleslim_ng.core.cloning import clone_program, cut_program, lookup
from paddleslim_ng.core.executor import Executor
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.naming import set_name
from paddleslim_ng.core.paddle_compat import is_legacy_program, is_pir_program
from paddleslim_ng.core.parameters import has_array, load_array, shape_of, store_array, view_array
from paddleslim_ng.core.translate import translate_program
from paddleslim_ng.core.translate_to_pir import translate_to_pir

__all__ = [
    'Executor',
    'GraphWrapper',
    'OpWrapper',
    'VarWrapper',
    'clone_program',
    'cut_program',
    'has_array',
    'is_legacy_program',
    'is_pir_program',
    'load_array',
    'lookup',
    'set_name',
    'shape_of',
    'store_array',
    'translate_program',
    'translate_to_pir',
    'view_array',
]
