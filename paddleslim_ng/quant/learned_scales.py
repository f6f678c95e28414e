"""Scales that are trained: where they start, and how they stay positive.

A learned scale is ``base * factor``. The base is found in the graph, from what the tensor holds at its first training
step, or given; then it stays. The factor is a parameter that starts at 1 and that an optimizer trains, so that
a learning rate means the same for tensors of every magnitude. Every training step writes the product to the scope,
which is what evaluation programs and exported files take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import add_state
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.spec import largest_integer

__all__ = ['STARTS', 'BuiltScale', 'LearnedScale']

Floats = npt.NDArray[np.float32]
# A factor beyond these bounds counts as the bound; its gradient still passes, so that it can come back.
_LEAST: Final = 2.0**-10
_MOST: Final = 2.0**10
# A base outside of this range is no magnitude to start from: nothing but zeros, infinity or NaN was seen.
_SMALLEST: Final = 2.0**-100
_LARGEST: Final = 2.0**100
# What the count holds once a training step was taken, and once a base was found.
_RUN: Final = 0.5
_FOUND: Final = 1.0


def _mean_magnitude(e: Expressions, x: VarWrapper, axes: list[int], limit: int) -> VarWrapper:
    return e.scale(e.mean(e.abs(x), axes), 2.0 / limit**0.5)


def _largest_magnitude(e: Expressions, x: VarWrapper, axes: list[int], limit: int) -> VarWrapper:
    return e.scale(e.max(e.abs(x), axes), 1.0 / limit)


Start = Callable[[Expressions, VarWrapper, 'list[int]', int], VarWrapper]
# How the first scale follows from a tensor, the axes to reduce, and the largest integer: Esser et al. 2020, or so that
# nothing is cut off.
STARTS: Final[Mapping[str, Start]] = {'mean': _mean_magnitude, 'max': _largest_magnitude}


class BuiltScale(NamedTuple):
    """A learned scale in a program, in a shape that is broadcast to the tensor's.

    Attributes:
        scale: the scale; no gradient passes.
        zero: zeros that the gradient of the factor passes through; None where there is no factor.
        rate: what a gradient of the scale is multiplied by, so that a step of the factor is the step that gradient
            descent would take on the scale itself.
    """

    scale: VarWrapper
    zero: VarWrapper | None
    rate: VarWrapper


class LearnedScale:
    """The scale of one tensor, or those of its channels, as state and parameter of a program.

    A scale is always finite and positive: the base is replaced only by magnitudes that are, and the factor is taken as
    at least 2**-10 and at most 2**10, and as 1 where it is NaN or infinite.

    Args:
        bits: width of the integers.
        axis: axis of the channels; None for one scale.
        start: one of :data:`STARTS`.
        scale: the scales to start from; found in the first training step where None.
        learns: False keeps them where they start; there is no parameter then.
        regularizer: Paddle's, for the factor; None for that of the optimizer.

    Attributes:
        bits, axis, learns: as given.
        limit: the largest integer.
        scale_name, count_name, factor_name, base_name: names of the scale in the scope, of a state that is 0 until
            a training step was taken, of the parameter, and of the base; once declared.
        initial: what the scope has to hold before the first run, by name; once declared.

    Raises:
        ConfigError: no such width or ``start``, or a ``scale`` that is not finite and positive.
    """

    def __init__(
        self,
        bits: int,
        axis: int | None = None,
        *,
        start: str = 'mean',
        scale: npt.ArrayLike | None = None,
        learns: bool = True,
        regularizer: Any = None,
    ) -> None:
        if start not in STARTS:
            raise ConfigError(f'a learned scale cannot start from {start!r}; known: {", ".join(STARTS)}')
        self.limit = largest_integer(bits)
        self.bits = bits
        self.axis = axis
        self.learns = learns
        self.channels = 1
        self.scale_name = self.count_name = self.factor_name = self.base_name = ''
        self.initial: dict[str, Floats] = {}
        self._start = STARTS[start]
        self._regularizer = regularizer
        self._given = None if scale is None else np.array(scale, np.float32).reshape(-1)
        if self._given is not None and not np.all(np.isfinite(self._given) & (self._given > 0)):
            raise ConfigError(f'scales to start from must be finite and positive, not {scale!r}')

    def declare(self, e: Expressions, x: VarWrapper, *, training: bool) -> None:
        """Add state, and for training the parameter, to a program. The scope is left alone.

        Raises:
            GraphError: the program has a learned scale of this tensor already, or other channels than were given.
        """
        graph, name = e.here.graph, x.name()
        self.scale_name, self.count_name = f'{name}.quant_scale', f'{name}.quant_count'
        self.base_name, self.factor_name = f'{name}.quant_base', f'{name}.quant_factor'
        self.channels = 1 if self.axis is None else x.shape()[self.axis]
        if graph.has_var(self.scale_name):
            raise GraphError(f'the program has {self.scale_name!r}: the quantization of {name!r} is learned already')
        if self._given is not None and self._given.size != self.channels:
            raise GraphError(f'{name!r} has {self.channels} scales, and {self._given.size} are given to start from')
        size = [self.channels]
        base = np.full(size, 1.0 / self.limit, np.float32) if self._given is None else self._given
        self.initial[self.scale_name] = base
        add_state(graph, self.scale_name, size, 'float32')
        if training:
            self.initial[self.base_name] = base
            self.initial[self.count_name] = np.full(size, 0.0 if self._given is None else _FOUND, np.float32)
            add_state(graph, self.base_name, size, 'float32')
            add_state(graph, self.count_name, size, 'float32')
        if training and self.learns:
            self.initial[self.factor_name] = np.ones(size, np.float32)
            add_parameter(graph, self.factor_name, size, 'float32', trainable=True, regularizer=self._regularizer)

    def read(self, e: Expressions, rank: int) -> VarWrapper:
        """Return the scale in the scope, for a tensor with this many axes."""
        return self._spread(e, e.here.graph.var(self.scale_name), rank)

    def build(self, e: Expressions, x: VarWrapper) -> BuiltScale:
        """Build the scale for training: what finds its start, and what writes it to the scope, clones for test drop."""
        graph = e.here.graph
        base, rank, zero = graph.var(self.base_name), len(x.shape()), None
        ones = e.constant(1.0, [self.channels])
        if self.learns:
            factor = graph.var(self.factor_name)
            finite = e.where(e.at_most(e.abs(factor), e.constant(_LARGEST)), factor, ones)
            held = e.stop(finite)
            zero = self._spread(e, e.subtract(finite, held), rank)
        with e.here.role('optimizer'):
            self._find_base(e, x)
            scale = e.multiply(base, e.clip(held, _LEAST, _MOST)) if self.learns else base
            e.here.op('assign', {'X': scale}, into=graph.var(self.scale_name))
        return BuiltScale(self.read(e, rank), zero, self._spread(e, e.divide(ones, base), rank))

    def reduce(self, e: Expressions, gradient: VarWrapper) -> VarWrapper:
        """Sum a gradient of the tensor's shape over everything but the channels, for the factor."""
        axes = [axis for axis in range(len(gradient.shape())) if axis != self.axis]
        return e.reshape(e.sum(gradient, axes) if axes else gradient, [self.channels])

    def _find_base(self, e: Expressions, x: VarWrapper) -> None:
        base, count = e.here.graph.var(self.base_name), e.here.graph.var(self.count_name)
        axes = [axis for axis in range(len(x.shape())) if axis != self.axis]
        found = e.reshape(self._start(e, x, axes, self.limit), [self.channels])
        found.raw.stop_gradient = True
        fits = e.multiply(e.at_most(e.constant(_SMALLEST), found), e.at_most(found, e.constant(_LARGEST)))
        is_open = e.at_most(count, e.constant(_RUN))
        e.here.op('assign', {'X': e.where(e.multiply(fits, is_open), found, base)}, into=base)
        e.here.op('elementwise_max', {'X': count, 'Y': e.scale(fits, _FOUND - _RUN, _RUN)}, into=count)

    def _spread(self, e: Expressions, var: VarWrapper, rank: int) -> VarWrapper:
        if self.axis is None or rank == 1:
            return var
        return e.reshape(var, [self.channels if axis == self.axis else 1 for axis in range(rank)])
