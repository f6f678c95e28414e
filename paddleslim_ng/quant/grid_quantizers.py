"""Fake quantizers on fixed grids: symmetric integers whose scale follows from the tensor, not from learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import add_state
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.spec import largest_integer
from paddleslim_ng.quant.straight_through import steps_to_grid

__all__ = [
    'AbsMaxQuantizer',
    'BatchQuantizer',
    'MovingAverageQuantizer',
    'RangeQuantizer',
    'largest_magnitude',
    'positive_scale',
]


Array = npt.NDArray[Any]
_SMALLEST: Final = float(np.finfo(np.float32).tiny)
# What lies less than half a step beyond the largest integer is rounded to it, and only what lies further is cut off.
_EDGE: Final = 0.499


def largest_magnitude(e: Expressions, x: VarWrapper, axis: int | None = None) -> VarWrapper:
    """Return the largest magnitude: ``[1]``, or for every position along an axis, with the other axes of size 1.

    No gradient passes.
    """
    rank = len(x.shape())
    axes = [place for place in range(rank) if place != axis]
    magnitude = e.abs(x)
    magnitude.raw.stop_gradient = True
    if axis is None:
        return e.reshape(e.max(magnitude, list(range(rank))), [1])
    return e.max(magnitude, axes, keep=True) if axes else magnitude


def positive_scale(e: Expressions, magnitude: VarWrapper, bits: int) -> VarWrapper:
    """Return the scale at which the largest integer stands for a magnitude, which is positive where that is 0, too.

    The same as :func:`paddleslim_ng.quant.quantizers.scale_of_threshold`, bit for bit.
    """
    limit = largest_integer(bits)
    scale = e.divide(magnitude, e.constant(limit))
    is_zero = e.at_most(scale, e.constant(_SMALLEST))
    return e.add(scale, e.scale(is_zero, 1.0 / limit))


class _Grid:
    """What quantizers on a fixed grid have in common.

    Attributes:
        bits: width of the integers.
        axis: axis along which scales differ, or None.
        scale_name: name of the state that holds the scale, once built; None where the tensor itself gives it.
        count_name: name of the state that is 0 until a training step has updated the scale; None where no step has to.
        initial: values that the scope has to hold before the first run, by name, once built.
    """

    learns = False

    def __init__(self, bits: int, axis: int | None = None) -> None:
        self._limit = largest_integer(bits)
        self.bits = bits
        self.axis = axis
        self.scale_name: str | None = None
        self.count_name: str | None = None
        self.initial: dict[str, Array] = {}

    def _state(self, e: Expressions, name: str, value: float, shape: Sequence[int] = (1,)) -> VarWrapper:
        self.initial[name] = np.full(shape, value, np.float32)
        return add_state(e.here.graph, name, shape, 'float32')

    def _scale_state(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        self.scale_name = f'{x.name()}.quant_scale'
        self.count_name = f'{x.name()}.quant_count'
        return self._state(e, self.scale_name, 1.0 / self._limit)

    def _on_grid(self, e: Expressions, steps: VarWrapper, scale: VarWrapper) -> VarWrapper:
        rounded = steps_to_grid(e, steps)
        return e.multiply(rounded, scale) if self.axis is not None else e.scale_by(rounded, scale)

    def _steps(self, e: Expressions, x: VarWrapper, scale: VarWrapper) -> VarWrapper:
        inverse = e.divide(e.constant(1.0), scale)
        return e.multiply(x, inverse) if self.axis is not None else e.scale_by(x, inverse)


class AbsMaxQuantizer(_Grid):
    """Scales from the largest magnitude of the very tensor, at every step: nothing is cut off.

    The gradient passes as it is.

    Args:
        bits: width of the integers, 2 to 16.
        axis: axis along which scales differ; None for one scale.

    Raises:
        ConfigError: a width that does not exist.
    """

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the quantizer; see :class:`FakeQuantizer`."""
        scale = positive_scale(e, largest_magnitude(e, x, self.axis), self.bits)
        return self._on_grid(e, self._steps(e, x, scale), scale)

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Return the gradient as it is."""
        return gradient


class _Kept(_Grid):
    """A scale that is kept in the scope, follows the batches in training, and is read in test.

    What lies more than half a step beyond the largest integer is cut off and gets no gradient.
    """

    def __init__(self, bits: int, *, updates: bool = True) -> None:
        super().__init__(bits)
        self._updates = updates
        self._steps_built: VarWrapper | None = None

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the quantizer; see :class:`FakeQuantizer`."""
        scale = self._scale_state(e, x)
        counts = self._state(e, str(self.count_name), 0.0) if self._updates else None
        if counts is not None:
            with e.here.role('optimizer'):
                magnitude = self._follow(e, x, counts)
                self._write(e, positive_scale(e, magnitude, self.bits), scale)
        steps = self._steps_built = self._steps(e, x, scale)
        return self._on_grid(e, e.clip(steps, -self._limit - _EDGE, self._limit + _EDGE), scale)

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Return the gradient, zero where ``x`` is cut off."""
        steps = self._steps_built
        if steps is None:
            raise GraphError(f'the quantizer of {x.name()!r} is not built yet')
        return e.multiply(gradient, e.at_most(e.abs(steps), e.constant(self._limit + _EDGE)))

    def _follow(self, e: Expressions, x: VarWrapper, counts: VarWrapper) -> VarWrapper:
        """Build the update of the state, and return the magnitude that the largest integer stands for."""
        raise NotImplementedError

    @staticmethod
    def _write(e: Expressions, value: VarWrapper, state: VarWrapper) -> None:
        e.here.op('assign', {'X': value}, into=state)


class MovingAverageQuantizer(_Kept):
    """A scale from a moving average of the batches' largest magnitudes ``m``, this batch's included.

    ``sum = rate * sum + m``, ``count = rate * count + 1`` and ``scale = sum / count / (2**(bits-1) - 1)``, from zeros,
    so that the first batch alone gives the first scale.

    Args:
        bits: width of the integers, 2 to 16.
        rate: how much of the past is kept at every step.
        updates: False for evaluation programs, which read the scale alone.

    Raises:
        ConfigError: a width that does not exist, or a rate that is not in [0, 1).
    """

    def __init__(self, bits: int, rate: float = 0.9, *, updates: bool = True) -> None:
        super().__init__(bits, updates=updates)
        if not 0 <= rate < 1:
            raise ConfigError(f'moving_rate must be at least 0 and less than 1, not {rate!r}')
        self._rate = float(rate)

    def _follow(self, e: Expressions, x: VarWrapper, counts: VarWrapper) -> VarWrapper:
        total = self._state(e, f'{x.name()}.quant_sum', 0.0)
        sums = e.add(e.scale(total, self._rate), largest_magnitude(e, x))
        count = e.scale(counts, self._rate, 1.0)
        self._write(e, sums, total)
        self._write(e, count, counts)
        return e.divide(sums, count)


class RangeQuantizer(_Kept):
    """A scale from the largest magnitude of the last batches, this one included.

    Args:
        bits: width of the integers, 2 to 16.
        window: how many batches are looked back at.
        updates: False for evaluation programs, which read the scale alone.

    Raises:
        ConfigError: a width that does not exist, or a window that is no positive whole number.
    """

    def __init__(self, bits: int, window: int = 10000, *, updates: bool = True) -> None:
        super().__init__(bits, updates=updates)
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ConfigError(f'window_size must be a positive whole number, not {window!r}')
        self._window = window

    def _follow(self, e: Expressions, x: VarWrapper, counts: VarWrapper) -> VarWrapper:
        recent = self._state(e, f'{x.name()}.quant_window', 0.0, [self._window])
        place = self._state(e, f'{x.name()}.quant_place', 0.0)
        slots = {'X': recent, 'Ids': e.cast(place, 'int64'), 'Updates': largest_magnitude(e, x)}
        seen = e.here.op('scatter', slots)
        largest = e.reshape(e.max(seen, [0]), [1])
        following = e.scale(place, 1.0, 1.0)
        self._write(e, e.multiply(following, e.at_most(following, e.constant(self._window - 1))), place)
        self._write(e, seen, recent)
        self._write(e, e.scale(counts, 1.0, 1.0), counts)
        return largest


class BatchQuantizer(_Kept):
    """In training, a scale from the very batch; in test, from the largest magnitude of all batches of the training.

    Nothing is cut off in training.
    """

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the quantizer; see :class:`FakeQuantizer`."""
        if not self._updates:
            return super().forward(e, x)
        kept = self._scale_state(e, x)
        magnitude = largest_magnitude(e, x)
        with e.here.role('optimizer'):
            largest = self._state(e, f'{x.name()}.quant_largest', 0.0)
            counts = self._state(e, str(self.count_name), 0.0)
            self._write(e, e.maximum(largest, magnitude), largest)
            self._write(e, positive_scale(e, largest, self.bits), kept)
            self._write(e, e.scale(counts, 1.0, 1.0), counts)
        scale = positive_scale(e, magnitude, self.bits)
        return self._on_grid(e, self._steps(e, x, scale), scale)

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Return the gradient as it is."""
        return gradient
