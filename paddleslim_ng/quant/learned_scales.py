"""Scales that are trained: where they start, how they stay positive, and how they are read back.

A learned scale is ``base * factor``. The base is found in the graph, from what the tensor holds at its first training
step, or given; then it stays. The factor is a parameter that starts at 1 and that an optimizer trains, so that
a learning rate means the same for tensors of every magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper, has_array, load_array, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import add_state
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.spec import largest_integer

__all__ = ['STARTS', 'LearnedScale', 'ScaleNames']

Floats = npt.NDArray[np.float32]
# A factor beyond these bounds counts as the bound; its gradient still passes, so that it can come back.
_LEAST: Final = 2.0**-10
_MOST: Final = 2.0**10
# A base outside of this range is no magnitude to start from: nothing but zeros, infinity or NaN was seen.
_SMALLEST: Final = 2.0**-100
_LARGEST: Final = 2.0**100
# What ``seen`` holds once a step was taken, and once a base was found.
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


@dataclass(frozen=True)
class ScaleNames:
    """Names of what a learned scale keeps in program and scope.

    Attributes:
        base: where the scale started, float32, one for each channel or one.
        factor: the parameter.
        seen: for each base 0 before the first training step, and 1 once it was found.
    """

    base: str
    factor: str
    seen: str

    @classmethod
    def of(cls, tensor: str) -> ScaleNames:
        """Return the names for a tensor."""
        return cls(f'{tensor}.scale_base', f'{tensor}.scale_factor', f'{tensor}.scale_seen')


class LearnedScale:
    """The scale of one tensor, or those of its channels, as state and parameter of a program.

    A scale is always finite and positive: the base is replaced only by magnitudes that are, and the factor is read as
    at least 2**-10 and at most 2**10, and as 1 where it is NaN or infinite.

    Args:
        tensor: name of what is quantized.
        bits: width of the integers.
        channels: number of scales, along ``axis``.
        axis: axis of the channels; None for one scale.
        start: one of :data:`STARTS`.
        scale: the scales to start from; found in the first training step where None.
        regularizer: Paddle's, for the factor; None for that of the optimizer.

    Raises:
        ConfigError: no such ``start``, or a ``scale`` that is not finite and positive.
    """

    def __init__(
        self,
        tensor: str,
        bits: int,
        *,
        channels: int = 1,
        axis: int | None = None,
        start: str = 'mean',
        scale: npt.ArrayLike | None = None,
        regularizer: Any = None,
    ) -> None:
        if start not in STARTS:
            raise ConfigError(f'a learned scale cannot start from {start!r}; known: {", ".join(STARTS)}')
        self.names = ScaleNames.of(tensor)
        self.limit = largest_integer(bits)
        self.axis = axis
        self.channels = channels if axis is not None else 1
        self._start = STARTS[start]
        self._regularizer = regularizer
        self._given = None if scale is None else np.array(scale, np.float32).reshape(-1)
        if self._given is not None and (
            self._given.size != self.channels or not np.all(np.isfinite(self._given) & (self._given > 0))
        ):
            raise ConfigError(
                f'the scale to start from of {tensor!r} must be {self.channels} finite and positive numbers, '
                f'not {scale!r}'
            )

    def declare(self, e: Expressions, scope: Any) -> None:
        """Add state and parameter to a program, and to the scope where it lacks them.

        Raises:
            GraphError: a name is taken.
        """
        graph, size = e.here.graph, [self.channels]
        taken = [name for name in vars(self.names).values() if graph.has_var(name)]
        if taken:
            raise GraphError(f'the program already learns a scale: it has a variable {taken[0]!r}')
        add_state(graph, self.names.base, size, 'float32')
        add_state(graph, self.names.seen, size, 'float32')
        add_parameter(graph, self.names.factor, size, 'float32', trainable=True, regularizer=self._regularizer)
        given = self._given
        base = np.full(size, 1.0 / self.limit, np.float32) if given is None else given
        first = {
            self.names.base: base,
            self.names.seen: np.full(size, 0.0 if given is None else _FOUND, np.float32),
            self.names.factor: np.ones(size, np.float32),
        }
        for name, array in first.items():
            if not has_array(scope, name):
                store_array(scope, name, array)

    def follow(self, e: Expressions, x: VarWrapper) -> None:
        """Build what finds the base in the first training step; clones for test drop it."""
        graph, names = e.here.graph, self.names
        axes = [axis for axis in range(len(x.shape())) if axis != self.axis]
        with e.here.role('optimizer'):
            found = _constant(self._start(e, x, axes, self.limit))
            found = e.reshape(found, [self.channels])
            fits = e.multiply(e.at_most(e.constant(_SMALLEST), found), e.at_most(found, e.constant(_LARGEST)))
            is_open = e.at_most(graph.var(names.seen), e.constant(_RUN))
            base = e.where(e.multiply(fits, is_open), found, graph.var(names.base))
            e.here.op('assign', {'X': base}, into=graph.var(names.base))
            now = e.scale(fits, _FOUND - _RUN, _RUN)
            e.here.op('elementwise_max', {'X': graph.var(names.seen), 'Y': now}, into=graph.var(names.seen))

    def build(self, e: Expressions, rank: int) -> tuple[VarWrapper, VarWrapper, VarWrapper]:
        """Build the scale.

        Args:
            e: where.
            rank: number of axes of the tensor that is scaled.

        Returns:
            The scale, which no gradient passes; zeros that the gradient of the factor passes through; and what a
            gradient of the scale is multiplied by so that a step of the factor is the step that gradient descent would
            take on the scale itself. They are broadcast over the channels.
        """
        graph = e.here.graph
        factor, base = graph.var(self.names.factor), graph.var(self.names.base)
        ones = e.constant(1.0, [self.channels])
        finite = e.where(e.at_most(e.abs(factor), e.constant(_LARGEST)), factor, ones)
        held = e.stop(finite)
        scale = e.multiply(base, e.clip(held, _LEAST, _MOST))
        zero = e.subtract(finite, held)
        return tuple(self._spread(e, var, rank) for var in (scale, zero, e.divide(ones, base)))  # type: ignore[return-value]

    def reduce(self, e: Expressions, gradient: VarWrapper) -> VarWrapper:
        """Sum a gradient of the tensor's shape over everything but the channels, for the factor."""
        axes = [axis for axis in range(len(gradient.shape())) if axis != self.axis]
        return e.reshape(e.sum(gradient, axes), [self.channels])

    def read(self, scope: Any) -> Floats:
        """Return the scales as the program computes them, float32 ``[channels]``.

        Raises:
            GraphError: the scope lacks them, or no training step has been taken.
            DataError: a base in the scope is not finite and positive.
        """
        if not np.all(load_array(scope, self.names.seen) >= _RUN):
            raise GraphError(
                f'the scale {self.names.base!r} has not been found yet: run a training step of the quantized program '
                'in this scope first'
            )
        base, factor = load_array(scope, self.names.base), load_array(scope, self.names.factor)
        if not np.all(np.isfinite(base) & (base > 0)):
            raise DataError(f'{self.names.base!r} in the scope must be finite and positive')
        usable = np.abs(np.nan_to_num(factor, nan=np.inf)) <= np.float32(_LARGEST)
        held = np.clip(np.where(usable, factor, np.float32(1)), np.float32(_LEAST), np.float32(_MOST))
        scale: Floats = (base * held).astype(np.float32)
        return scale

    def _spread(self, e: Expressions, var: VarWrapper, rank: int) -> VarWrapper:
        if self.axis is None or rank == 1:
            return var
        return e.reshape(var, [self.channels if axis == self.axis else 1 for axis in range(rank)])


def _constant(var: VarWrapper) -> VarWrapper:
    var.raw.stop_gradient = True
    return var
