"""Biases of convolutions in the form that runtimes fuse: one axis, added along the channels.

Paddle builds a bias as ``reshape2`` to four axes and an addition, and PIR has no other. Paddle Lite takes such an
addition for one of two tensors and computes it in float, on its own, after every int8 convolution.
"""

from __future__ import annotations

from typing import Any, Final

import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, load_array
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.removal import remove_operators

__all__ = ['flatten_biases']

_CONVOLUTIONS: Final = frozenset({'conv2d', 'depthwise_conv2d', 'conv2d_transpose', 'depthwise_conv2d_transpose'})


def flatten_biases(graph: GraphWrapper, scope: Any) -> dict[str, npt.NDArray[Any]]:
    """Give the biases of convolutions one axis, in a legacy inference program, in place.

    Args:
        graph: the wrapped program; wrap it anew afterwards.
        scope: its parameters, which are not changed.

    Returns:
        The biases that have another shape now.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for op in graph.ops():
        if op.type() != 'elementwise_add' or not _is_convolution(op.inputs('X')[0]):
            continue
        term = op.inputs('Y')[0]
        source = _parameter_behind(term)
        if source is None or not _is_by_channel(term, op):
            continue
        op.raw._set_attr('axis', 1)
        if source is not term:
            Insertion(graph).redirect(term, source, [op])
        elif len(term.shape()) > 1:
            arrays[term.name()] = load_array(scope, term.name()).reshape(-1)
            term.set_shape((term.shape()[1],))
    _remove_unread(graph)
    return arrays


def _is_convolution(var: VarWrapper) -> bool:
    makers = var.inputs()
    return len(makers) == 1 and makers[0].type() in _CONVOLUTIONS and makers[0].attr('data_format') in (None, 'NCHW')


def _parameter_behind(term: VarWrapper) -> VarWrapper | None:
    """Return the parameter that nobody else reads and that is a bias as it is, or reshaped."""
    makers = term.inputs()
    source = term
    if len(makers) == 1 and makers[0].type() == 'reshape2' and len(term.outputs()) == 1:
        source = makers[0].inputs('X')[0]
        if len(source.shape()) != 1:
            return None
    return source if source.is_parameter() and len(source.outputs()) == 1 and not source.inputs() else None


def _is_by_channel(term: VarWrapper, addition: OpWrapper) -> bool:
    """Tell whether a term of four axes has one number for each channel."""
    shape = term.shape()
    channels = addition.inputs('X')[0].shape()[1]
    return len(shape) == 4 and shape == (1, channels, 1, 1) and channels > 0


def _remove_unread(graph: GraphWrapper) -> None:
    """Take out the operators that reshaped biases."""
    fresh = GraphWrapper(graph.program)
    remove_operators(fresh, [op for op in fresh.ops() if op.type() == 'reshape2' and _is_idle_bias(op)])


def _is_idle_bias(op: OpWrapper) -> bool:
    return op.inputs('X')[0].is_parameter() and not any(var.outputs() for var in op.all_outputs())
