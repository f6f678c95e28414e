"""A digest of a network, by which files know what they belong to."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, load_array

__all__ = ['fingerprint']

# Attributes that change what an operator computes without changing the shape of any parameter.
_TELLING = ('strides', 'paddings', 'dilations', 'groups', 'axis', 'ksize', 'pooling_type', 'global_pooling', 'epsilon')


def fingerprint(program: Any, scope: Any) -> str:
    """Return a hexadecimal digest of a program's operators and of the values of its parameters.

    Two runs that build the same network and load the same weights get the same digest, in whatever process.

    Args:
        program: a program of either IR.
        scope: the scope that holds its parameters.

    Raises:
        GraphError: the scope lacks a parameter.
    """
    graph = GraphWrapper(program)
    digest = hashlib.blake2b(digest_size=16)
    for op in graph.ops():
        digest.update(_describe(op).encode())
    for parameter in sorted(graph.all_parameters(), key=VarWrapper.name):
        array = np.ascontiguousarray(load_array(scope, parameter.name()))
        digest.update(f'{parameter.name()}|{array.dtype}|{array.shape}|'.encode())
        digest.update(array.tobytes() if array.ndim == 0 else array.view(np.uint8).data)
    return digest.hexdigest()


def _describe(op: OpWrapper) -> str:
    sources = [_source(var) for var in op.all_inputs()]
    attributes = [(name, op.attr(name)) for name in _TELLING]
    shown = [
        f'{name}={value!r}' for name, value in attributes if isinstance(value, (bool, int, float, str, list, tuple))
    ]
    return f'{op.type()}({",".join(sources)};{",".join(shown)})\n'


def _source(var: VarWrapper) -> str:
    """Name a parameter or input by its name, and an intermediate by the operators that make it."""
    producers = [str(op.idx()) for op in var.inputs()]
    return var.name() if var.persistable() or var.is_data or not producers else '+'.join(producers)
