"""Arithmetic on the tensors of a program of either IR, in verbs: what losses and quantizers are written in.

Paddle's own functions refuse to build legacy graphs on Paddle 3 in part, and take no place to build at; these verbs
build canonical operators through an :class:`~paddleslim_ng.core.insertion.Insertion`. Broadcasting is numpy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.core.insertion import Insertion

__all__ = ['Expressions']

# The largest float32 below one half: added to a magnitude, it carries halves over, and nothing that is less.
_BELOW_HALF: Final = 0.4999999701976776


class Expressions:
    """Builds expressions at a place, one operator for each verb.

    Every verb takes variables of the wrapped program and returns the result, which a gradient passes through where one
    passes through an operand. Axes may be negative. Errors are those of :meth:`Insertion.op`.

    Args:
        here: where the operators go.

    Example:
        >>> e = Expressions(Insertion(graph))
        >>> loss = e.mean(e.square(e.subtract(graph.var('y'), graph.var('x'))))
    """

    def __init__(self, here: Insertion) -> None:
        self.here = here

    def add(self, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return ``x + y``."""
        return self.here.op('elementwise_add', {'X': x, 'Y': y})

    def subtract(self, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return ``x - y``."""
        return self.here.op('elementwise_sub', {'X': x, 'Y': y})

    def multiply(self, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return ``x * y``."""
        return self.here.op('elementwise_mul', {'X': x, 'Y': y})

    def divide(self, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return ``x / y``."""
        return self.here.op('elementwise_div', {'X': x, 'Y': y})

    def constant(self, value: float, shape: Sequence[int] = (1,)) -> VarWrapper:
        """Return a float32 tensor with the same number everywhere."""
        return self.here.op('fill_constant', {}, {'shape': list(shape), 'value': float(value), 'dtype': 'float32'})

    def maximum(self, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return the larger one of ``x`` and ``y`` at every place."""
        return self.here.op('elementwise_max', {'X': x, 'Y': y})

    def scale(self, x: VarWrapper, factor: float = 1.0, shift: float = 0.0) -> VarWrapper:
        """Return ``x * factor + shift``."""
        return self.here.op('scale', {'X': x}, {'scale': float(factor), 'bias': float(shift), 'bias_after_scale': True})

    def scale_by(self, x: VarWrapper, factor: VarWrapper) -> VarWrapper:
        """Return ``x`` times the one number in ``factor``, which no gradient passes to; faster than multiplying."""
        return self.here.op('scale', {'X': x, 'ScaleTensor': factor})

    def square(self, x: VarWrapper) -> VarWrapper:
        """Return ``x ** 2``."""
        return self.here.op('square', {'X': x})

    def sqrt(self, x: VarWrapper) -> VarWrapper:
        """Return the square root; its gradient at zero is infinite."""
        return self.here.op('sqrt', {'X': x})

    def exp(self, x: VarWrapper) -> VarWrapper:
        """Return ``e ** x``."""
        return self.here.op('exp', {'X': x})

    def abs(self, x: VarWrapper) -> VarWrapper:
        """Return ``|x|``."""
        return self.here.op('abs', {'X': x})

    def sign(self, x: VarWrapper) -> VarWrapper:
        """Return -1, 0 or 1; no gradient but zeros passes."""
        return self.here.op('sign', {'X': x})

    def floor(self, x: VarWrapper) -> VarWrapper:
        """Return the largest whole numbers that do not exceed ``x``; no gradient but zeros passes."""
        return self.here.op('floor', {'X': x})

    def round(self, x: VarWrapper) -> VarWrapper:
        """Return the nearest whole numbers, halves away from zero, unlike Paddle; no gradient but zeros passes."""
        return self.multiply(self.sign(x), self.floor(self.scale(self.abs(x), 1.0, _BELOW_HALF)))

    def power(self, x: VarWrapper, exponent: float) -> VarWrapper:
        """Return ``x ** exponent``."""
        return self.here.op('pow', {'X': x}, {'factor': float(exponent)})

    def clip(self, x: VarWrapper, low: float, high: float) -> VarWrapper:
        """Return ``x``, held between two numbers."""
        return self.here.op('clip', {'X': x}, {'min': float(low), 'max': float(high)})

    def mean(self, x: VarWrapper, axes: Sequence[int] | None = None, *, keep: bool = False) -> VarWrapper:
        """Return the mean over some axes, kept with size 1 or not, or over all of them."""
        return self.here.op('mean', {'X': x}) if axes is None else self._reduce('reduce_mean', x, axes, keep)

    def sum(self, x: VarWrapper, axes: Sequence[int], *, keep: bool = False) -> VarWrapper:
        """Return the sum over some axes, kept with size 1 or not."""
        return self._reduce('reduce_sum', x, axes, keep)

    def max(self, x: VarWrapper, axes: Sequence[int], *, keep: bool = False) -> VarWrapper:
        """Return the maximum over some axes, kept with size 1 or not."""
        return self._reduce('reduce_max', x, axes, keep)

    def min(self, x: VarWrapper, axes: Sequence[int], *, keep: bool = False) -> VarWrapper:
        """Return the minimum over some axes, kept with size 1 or not."""
        return self._reduce('reduce_min', x, axes, keep)

    def cumulated(self, x: VarWrapper, axis: int = 0) -> VarWrapper:
        """Return at every position the sum of what stands up to it along an axis, itself included."""
        # Paddle's attribute ``exclusive`` gives zeros where its executor lets the operator work in place.
        return self.here.op('cumsum', {'X': x}, {'axis': axis})

    def softmax(self, x: VarWrapper, axis: int = -1) -> VarWrapper:
        """Return the softmax along an axis."""
        return self.here.op('softmax', {'X': x}, {'axis': axis})

    def log_softmax(self, x: VarWrapper, axis: int = -1) -> VarWrapper:
        """Return the logarithm of the softmax along an axis; Paddle's own operator ends at -64, this one does not."""
        shifted = self.subtract(x, self.stop(self.max(x, [axis], keep=True)))
        return self.subtract(shifted, self.log_sum_exp(shifted, axis, keep=True))

    def log_sum_exp(self, x: VarWrapper, axis: int = -1, *, keep: bool = False) -> VarWrapper:
        """Return ``log(sum(exp(x)))`` along an axis, without overflow."""
        return self.here.op('logsumexp', {'X': x}, {'axis': [axis], 'keepdim': keep, 'reduce_all': False})

    def argmax(self, x: VarWrapper, axis: int = -1) -> VarWrapper:
        """Return the position (int64) of the maximum along an axis, the first one among equals."""
        return self.here.op('arg_max', {'X': x}, {'axis': axis})

    def argsort(self, x: VarWrapper, axis: int = -1) -> VarWrapper:
        """Return the positions (int64) of the numbers along an axis in ascending order."""
        return self.here.op('argsort', {'X': x}, {'axis': axis})

    def search(self, ascending: VarWrapper, x: VarWrapper) -> VarWrapper:
        """Return for each number in a row how many of the same row of ``ascending`` are smaller (int64).

        Args:
            ascending: ``[rows, bounds]``.
            x: ``[rows, numbers]``.
        """
        return self.here.op('searchsorted', {'SortedSequence': ascending, 'Values': x})

    def take(self, x: VarWrapper, index: VarWrapper) -> VarWrapper:
        """Return the elements of a vector at some places, given as a vector of int64."""
        return self.here.op('gather', {'X': x, 'Index': index})

    def sum_at(self, index: VarWrapper, x: VarWrapper, size: int) -> VarWrapper:
        """Return the vector of ``size`` sums of those elements of a vector that have the same place in ``index``."""
        zeros = self.constant(0.0, [size])
        return self.here.op('scatter', {'X': zeros, 'Ids': index, 'Updates': x}, {'overwrite': False})

    def one_hot(self, index: VarWrapper, depth: int) -> VarWrapper:
        """Return integers as rows of zeros with a one (float32), along a new last axis of ``depth`` entries."""
        return self.here.op('one_hot_v2', {'X': index}, {'depth': depth})

    def at_most(self, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return 1 where ``x <= y`` and else 0, in the element type of ``x``; no gradient passes."""
        return self.cast(self.here.op('less_equal', {'X': x, 'Y': y}), x.dtype())

    def where(self, condition: VarWrapper, x: VarWrapper, y: VarWrapper) -> VarWrapper:
        """Return ``x`` where ``condition`` is true or not 0, and else ``y``, all of one shape."""
        return self.here.op('where', {'X': x, 'Y': y, 'Condition': self.cast(condition, 'bool')})

    def matmul(self, x: VarWrapper, y: VarWrapper, *, transpose_y: bool = False) -> VarWrapper:
        """Return the product of matrices, or of stacks of them."""
        return self.here.op('matmul_v2', {'X': x, 'Y': y}, {'trans_x': False, 'trans_y': transpose_y})

    def reshape(self, x: VarWrapper, shape: Sequence[int]) -> VarWrapper:
        """Return ``x`` in another shape; 0 keeps the size at that place and one -1 follows from the others."""
        return self.here.op('reshape2', {'X': x}, {'shape': list(shape)})

    def unsqueeze(self, x: VarWrapper, axis: int) -> VarWrapper:
        """Return ``x`` with a new axis of size 1."""
        return self.here.op('unsqueeze2', {'X': x}, {'axes': [axis]})

    def transpose(self, x: VarWrapper, axes: Sequence[int]) -> VarWrapper:
        """Return ``x`` with its axes in another order."""
        return self.here.op('transpose2', {'X': x}, {'axis': list(axes)})

    def concat(self, parts: Sequence[VarWrapper], axis: int = 0) -> VarWrapper:
        """Return some tensors behind each other along an axis."""
        return self.here.op('concat', {'X': list(parts)}, {'axis': axis})

    def tile(self, x: VarWrapper, times: Sequence[int]) -> VarWrapper:
        """Return ``x`` repeated along each of its axes."""
        return self.here.op('tile', {'X': x}, {'repeat_times': list(times)})

    def slice(self, x: VarWrapper, axis: int, start: int, end: int) -> VarWrapper:
        """Return the positions from ``start`` up to ``end`` (without it) along an axis, counted from 0."""
        attrs: dict[str, Any] = {'axes': [axis], 'starts': [start], 'ends': [end], 'decrease_axis': []}
        return self.here.op('slice', {'Input': x}, {**attrs, 'infer_flags': [1]})

    def cast(self, x: VarWrapper, dtype: str) -> VarWrapper:
        """Return ``x`` in another element type, in numpy's spelling; ``x`` itself where it has that type."""
        return x if x.dtype() == dtype else self.here.op('cast', {'X': x}, {'out_dtype': dtype})

    def average_pool(self, x: VarWrapper, window: Sequence[int]) -> VarWrapper:
        """Return the means of the disjoint windows (height, width) of maps in NCHW."""
        sizes = list(window)
        attrs: dict[str, Any] = {'ksize': sizes, 'strides': sizes, 'paddings': [0, 0], 'pooling_type': 'avg'}
        return self.here.op('pool2d', {'X': x}, attrs)

    def convolve(self, x: VarWrapper, weight: VarWrapper) -> VarWrapper:
        """Return the convolution of maps in NCHW, without padding, at every place."""
        return self.here.op('conv2d', {'Input': x, 'Filter': weight}, {'strides': [1, 1], 'paddings': [0, 0]})

    def stop(self, x: VarWrapper) -> VarWrapper:
        """Return ``x`` as a constant that no gradient passes through; ``x`` itself where none does already."""
        if x.raw.stop_gradient:
            return x
        copy = self.here.op('assign', {'X': x})
        copy.raw.stop_gradient = True
        return copy

    def _reduce(self, type: str, x: VarWrapper, axes: Sequence[int], keep: bool) -> VarWrapper:
        return self.here.op(type, {'X': x}, {'dim': list(axes), 'keep_dim': keep})
