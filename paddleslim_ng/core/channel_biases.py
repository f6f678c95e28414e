"""Biases of convolutions in the form that runtimes fuse: one axis, added along the channels.

Paddle builds a bias as ``reshape2`` to four axes and an addition, and PIR has no other. Paddle Lite takes such an
addition for one of two tensors and computes it, and the activation behind it, on its own after every convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy.typing as npt

from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.removal import remove_operators

__all__ = ['FlattenedBiases', 'flatten_biases']

_CONVOLUTIONS: Final = frozenset({'conv2d', 'depthwise_conv2d', 'conv2d_transpose', 'depthwise_conv2d_transpose'})


class FlattenedBiases(NamedTuple):
    """What :func:`flatten_biases` did.

    Attributes:
        additions: number of those that were rewritten.
        arrays: content of the parameters that have another shape now, by name.
    """

    additions: int
    arrays: dict[str, npt.NDArray[Any]]


def flatten_biases(graph: GraphWrapper, content: Callable[[str], npt.NDArray[Any]] | None = None) -> FlattenedBiases:
    """Give the biases of convolutions one axis, in a legacy inference program, in place.

    Args:
        graph: the wrapped program; wrap it anew afterwards.
        content: returns a parameter's array by its name. Where None, parameters that have four axes themselves keep
            them.
    """
    count = 0
    arrays: dict[str, npt.NDArray[Any]] = {}
    for op in graph.ops():
        if op.type() != 'elementwise_add' or not _is_convolution(op.inputs('X')[0]):
            continue
        term = op.inputs('Y')[0]
        source = _parameter_behind(term)
        if source is None or not _is_by_channel(term, op) or (source is term and content is None):
            continue
        op.raw._set_attr('axis', 1)
        if source is not term:
            Insertion(graph).redirect(term, source, [op])
        elif content is not None:
            arrays[term.name()] = content(term.name()).reshape(-1)
            term.set_shape((term.shape()[1],))
        count += 1
    _remove_unread(graph)
    return FlattenedBiases(count, arrays)


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
