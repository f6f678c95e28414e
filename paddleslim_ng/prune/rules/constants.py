"""Values of tensors that the program itself fixes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper, VarWrapper

__all__ = ['constant_of', 'scalar_of']

_LITERALS = ('values', 'int64_values', 'int32_values', 'fp32_values', 'float_values', 'bool_values')
# Operators that a constant goes through on its way, changing the shape or the element type only.
_PASSING = ('cast', 'assign', 'share_data', 'reshape2', 'unsqueeze2', 'squeeze2', 'flatten_contiguous_range')


def constant_of(var: VarWrapper) -> npt.NDArray[Any] | None:
    """Return the value of ``var`` where the program makes it from literals, else None; the shape is that of ``var``."""
    makers = var.inputs()
    if len(makers) != 1 or var.persistable():
        return None
    (op,) = makers
    if op.type() == 'assign_value':
        return _literal(op, var)
    if op.type() == 'fill_constant' and not op.all_inputs():
        return _filled(op, var)
    if op.type() == 'range':
        return _range(op)
    if op.type() in _PASSING:
        inner = constant_of(op.all_inputs()[0])
        return inner.reshape(var.shape()) if inner is not None and inner.size == np.prod(var.shape()) else None
    return None


def scalar_of(var: VarWrapper) -> float | None:
    """Return the value of a constant of one element, else None."""
    value = constant_of(var)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _literal(op: OpWrapper, var: VarWrapper) -> npt.NDArray[Any] | None:
    for name in _LITERALS:
        values = op.attr(name)
        if isinstance(values, (list, tuple)) and len(values):
            array = np.asarray(values)
            return array.reshape(var.shape()) if array.size == np.prod(var.shape(), dtype=np.int64) else None
    return None


def _filled(op: OpWrapper, var: VarWrapper) -> npt.NDArray[Any] | None:
    value = op.attr('value')
    if value is None or any(size < 0 for size in var.shape()):
        return None
    if isinstance(value, (list, tuple)):
        return np.asarray(value)
    return np.full(var.shape(), float(value))


def _range(op: OpWrapper) -> npt.NDArray[Any] | None:
    bounds = [scalar_of(group[0]) if group else None for group in map(op.inputs, ('Start', 'End', 'Step'))]
    if any(bound is None for bound in bounds):
        return None
    return np.arange(*[bound for bound in bounds if bound is not None])
