"""Fake quantizers whose scale is trained: LSQ (Esser et al. 2020) and PACT (Choi et al. 2018).

With ``steps = x / scale`` cut off at the largest integer n, and ``q`` the nearest whole number, ``y = q * scale``. The
gradient of ``x`` is that of ``y`` where nothing is cut off, ends included, and else zero. The scale gets:

- LSQ: ``(q - steps)`` where nothing is cut off, and else ``q``, over the root of n times the count of numbers that
  share the scale (for activations: in one sample);
- PACT: the sign where something is cut off, and else zero, for the threshold ``n * scale``.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.learned_scales import LearnedScale

__all__ = ['LSQQuantizer', 'LearnedQuantizer', 'Learner', 'PACTQuantizer']


@runtime_checkable
class Learner(Protocol):
    """A fake quantizer with parameters of its own."""

    def parameter_gradients(self, e: Expressions) -> dict[str, VarWrapper]:
        """Return the gradients of its parameters that ``backward`` has built, by name; none where it was not built."""


class LearnedQuantizer:
    """What LSQ and PACT share: the grid, the gradient of what is quantized, and the place of the scale's gradient.

    The values of ``forward`` lie exactly on the grid. The gradients of ``forward``, which differentiation finds, and
    of ``backward`` come from the same operators.

    Args:
        scale: what is learned.
        training: False for a program that only evaluates: it reads the scale alone.
        signed: False cuts negative numbers off, too.

    Attributes:
        scale: as given.
        learns: whether the scale is trained.
        bits: width of the integers.
        axis: axis along which scales differ, or None.
        scale_name: name of the scale in the scope, once built.
        count_name: name of the state that is 0 until a training step was taken, once built for training.
        initial: what the scope has to hold before the first run, by name, once built.
    """

    def __init__(self, scale: LearnedScale, *, training: bool = True, signed: bool = True) -> None:
        self.scale = scale
        self.learns = scale.learns and training
        self.bits = scale.bits
        self.axis = scale.axis
        self.scale_name: str | None = None
        self.count_name: str | None = None
        self.initial = scale.initial
        self._training = training
        self._signed = signed
        self._inside: VarWrapper | None = None
        self._slope: VarWrapper | None = None
        self._parts: list[VarWrapper] = []

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the quantizer and return its result; see :class:`~paddleslim_ng.quant.straight_through.FakeQuantizer`.

        Raises:
            GraphError: the program has a learned scale for this tensor already.
        """
        self.scale.declare(e, x, training=self._training)
        self.scale_name, self.count_name = self.scale.scale_name, self.scale.count_name
        built = self.scale.build(e, x) if self._training else None
        scale = self.scale.read(e, len(x.shape())) if built is None else built.scale
        limit = self.scale.limit
        steps = e.multiply(x, e.divide(e.constant(1.0), scale))
        steps.raw.stop_gradient = True
        cut = e.clip(steps, -limit if self._signed else 0, limit)
        q = e.round(cut)
        value = e.multiply(q, scale)
        if built is None:
            return value
        self._inside = e.at_most(e.abs(steps), e.abs(cut))
        kept = e.where(self._inside, x, value)
        y = e.add(value, e.subtract(kept, e.stop(kept)))
        if built.zero is None:
            return y
        slope = self._scale_slope(e, q, cut, self._inside)
        self._slope = e.multiply(slope, e.scale(built.rate, self._weight(x)))
        return e.add(y, e.multiply(self._slope, built.zero))

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Build the gradient of ``x``, and a part of that of the scale's factor.

        Raises:
            GraphError: ``forward`` has not been built.
        """
        if self._inside is None:
            raise GraphError('the gradient of a quantizer is built after the quantizer itself')
        if self._slope is not None:
            self._parts.append(self.scale.reduce(e, e.multiply(gradient, self._slope)))
        return e.multiply(gradient, self._inside)

    def parameter_gradients(self, e: Expressions) -> dict[str, VarWrapper]:
        """Add up the parts of the gradient of the factor that ``backward`` has built.

        Args:
            e: behind all of them.

        Returns:
            ``{name of the factor: its gradient}``; empty where nothing is learned.
        """
        if not self._parts:
            return {}
        total = self._parts[0]
        for part in self._parts[1:]:
            total = e.add(total, part)
        return {self.scale.factor_name: total}

    def _scale_slope(self, e: Expressions, q: VarWrapper, cut: VarWrapper, inside: VarWrapper) -> VarWrapper:
        """Return the derivative of ``y`` by the scale, before weighting."""
        raise NotImplementedError

    def _weight(self, x: VarWrapper) -> float:
        """Return what the derivative is multiplied by."""
        raise NotImplementedError


class LSQQuantizer(LearnedQuantizer):
    """Learned step size quantization, per tensor or per channel."""

    def _scale_slope(self, e: Expressions, q: VarWrapper, cut: VarWrapper, inside: VarWrapper) -> VarWrapper:
        return e.subtract(q, e.multiply(cut, inside))

    def _weight(self, x: VarWrapper) -> float:
        sizes = x.shape() if x.is_parameter() else x.shape()[1:]
        count = math.prod(size for size in sizes if size > 0) / self.scale.channels
        return 1.0 / math.sqrt(max(count, 1.0) * self.scale.limit)


class PACTQuantizer(LearnedQuantizer):
    """Parameterized clipping: the threshold is learned, and decays by the regularizer of the scale's factor."""

    def _scale_slope(self, e: Expressions, q: VarWrapper, cut: VarWrapper, inside: VarWrapper) -> VarWrapper:
        return e.multiply(q, e.scale(inside, -1.0, 1.0))

    def _weight(self, x: VarWrapper) -> float:
        return 1.0 / self.scale.limit**2
