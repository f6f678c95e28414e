"""Which layers of a network Paddle Lite computes with kernels that skip zeros, and what that does to the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper

__all__ = ['SparseLayer', 'sparse_layers', 'sparsity_warnings']

# Bytes that the file takes: a weight in a dense kernel; in a sparse one, a weight that is not zero, a row, and the
# descriptions of tensors. Measured, as the format is not documented.
_DENSE, _NONZERO, _ROW, _LAYER = 4, 8, 16, 850
_CONVOLUTIONS = frozenset({'conv2d', 'depthwise_conv2d'})


@dataclass(frozen=True)
class SparseLayer:
    """A convolution with zeros among its weights, and what Paddle Lite makes of it on Arm.

    Attributes:
        weight: name of its filter.
        weights: how many it has.
        zeros: how many of them are zero.
        obstacle: why its kernel is dense; ``''`` where it is sparse.
        bytes_added: about how much larger (smaller where negative) the file is than with a dense kernel.
    """

    weight: str
    weights: int
    zeros: int
    obstacle: str
    bytes_added: int

    @property
    def sparse(self) -> bool:
        """Whether the kernel skips zeros."""
        return not self.obstacle

    def __str__(self) -> str:
        share = f'{self.weight}: {self.zeros / self.weights:.1%} zeros'
        if self.obstacle:
            return f'{share}, dense kernel ({self.obstacle})'
        return f'{share}, sparse kernel, {self.bytes_added:+d} bytes'


def sparse_layers(program: Any, weights: Mapping[str, npt.NDArray[Any]], threshold: float) -> tuple[SparseLayer, ...]:
    """Tell, for every convolution that has a zero weight, whether Paddle Lite takes its sparse kernel on Arm.

    Its pass takes convolutions of 1x1 with stride 1, without padding and groups, of whose weights at least the
    threshold is zero.

    Args:
        program: the legacy program that is converted, or a GraphWrapper of one.
        weights: ``{parameter: array}``.
        threshold: share of zeros from which a convolution is sparse.

    Returns:
        The layers in the order of execution.
    """
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    found = []
    for op in graph.ops():
        name = op.inputs('Filter')[0].name() if op.type() in _CONVOLUTIONS and op.inputs('Filter') else ''
        if name in weights:
            values = weights[name]
            zeros = int(values.size - np.count_nonzero(values))
            if zeros:
                found.append(_layer(op, name, values.shape, zeros, threshold))
    return tuple(found)


def _layer(op: OpWrapper, name: str, shape: tuple[int, ...], zeros: int, threshold: float) -> SparseLayer:
    count = int(np.prod(shape))
    share = zeros / count
    reasons = [
        reason
        for wrong, reason in (
            (tuple(shape[2:]) != (1, 1), f'a filter of {shape[2]}x{shape[3]}'),
            (any(n != 1 for n in op.attr('strides') or ()), f'stride {op.attr("strides")}'),
            (any(n != 0 for n in op.attr('paddings') or ()), f'padding {op.attr("paddings")}'),
            ((op.attr('groups') or 1) != 1, f'{op.attr("groups")} groups'),
            (share < threshold, f'below {threshold:g}'),
        )
        if wrong
    ]
    added = 0 if reasons else (count - zeros) * _NONZERO + shape[0] * _ROW + _LAYER - count * _DENSE
    return SparseLayer(name, count, zeros, ', '.join(reasons), added)


def sparsity_warnings(layers: Sequence[SparseLayer], kernels: int) -> list[str]:
    """List what to know of sparse kernels before the file is used.

    Args:
        layers: from :func:`sparse_layers`.
        kernels: number of sparse kernels that the file has.
    """
    found = []
    expected = sum(layer.sparse for layer in layers)
    if kernels != expected:
        found.append(
            f'{expected} layers should have sparse kernels and the file has {kernels}: the list of layers is not exact'
        )
    grown = [layer for layer in layers if layer.bytes_added > 0]
    if grown:
        names = ', '.join(f'{layer.weight} {layer.bytes_added:+d}' for layer in grown[:5])
        found.append(
            f'{len(grown)} sparse layers take more bytes than dense ones ({names}{", ..." if len(grown) > 5 else ""}): '
            'a weight that is not zero is stored with its place; from about half the weights on, it pays'
        )
    return found
