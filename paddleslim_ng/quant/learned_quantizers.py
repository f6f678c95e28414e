"""Fake quantizers whose scale is trained: LSQ (Esser et al. 2020) and PACT (Choi et al. 2018).

With ``steps = x / scale`` cut off at the largest integer n, and ``q`` the nearest whole number, ``y = q * scale``. The
gradient of ``x`` is that of ``y`` where nothing is cut off, ends included, and else zero. The scale gets:

- LSQ: ``(q - steps)`` where nothing is cut off, and else ``q``, over the root of n times the count of numbers that
  share the scale (for activations: in one sample);
- PACT: the sign where something is cut off, and else zero, for the threshold ``n * scale``.
"""

from __future__ import annotations

import math
from typing import Any

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.learned_scales import LearnedScale

__all__ = ['LSQQuantizer', 'LearnedQuantizer', 'PACTQuantizer']


class LearnedQuantizer:
    """What LSQ and PACT share: the grid, the gradient of what is quantized, and the place of the scale's gradient.

    The values of ``forward`` lie exactly on the grid. The gradients of ``forward``, which differentiation finds, and
    of ``backward`` come from the same operators.

    Args:
        scale: what is learned.
        scope: where the scale starts.
        training: False for a program that only evaluates: it reads the scale and does not look for its start.
        learns: False keeps the scale where it started.
        signed: False cuts negative numbers off, too.

    Attributes:
        learns: as given.
        scale: as given.
    """

    def __init__(
        self, scale: LearnedScale, scope: Any, *, training: bool = True, learns: bool = True, signed: bool = True
    ) -> None:
        self.scale = scale
        self.learns = learns
        self._scope = scope
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
        self.scale.declare(e, self._scope)
        if self._training:
            self.scale.follow(e, x)
        limit = self.scale.limit
        scale, zero, rate = self.scale.build(e, len(x.shape()))
        steps = _constant(e.multiply(x, e.divide(e.constant(1.0), scale)))
        cut = e.clip(steps, -limit if self._signed else 0, limit)
        self._inside = e.at_most(e.abs(steps), e.abs(cut))
        q = e.round(cut)
        value = e.multiply(q, scale)
        kept = e.where(self._inside, x, value)
        y = e.add(value, e.subtract(kept, e.stop(kept)))
        if not self.learns:
            return y
        self._slope = e.multiply(self._scale_slope(e, q, cut), e.scale(rate, self._weight(x)))
        return e.add(y, e.multiply(self._slope, zero))

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
        return {self.scale.names.factor: total}

    def _scale_slope(self, e: Expressions, q: VarWrapper, cut: VarWrapper) -> VarWrapper:
        """Return the derivative of ``y`` by the scale, before weighting."""
        raise NotImplementedError

    def _weight(self, x: VarWrapper) -> float:
        """Return what the derivative is multiplied by."""
        raise NotImplementedError


class LSQQuantizer(LearnedQuantizer):
    """Learned step size quantization, per tensor or per channel."""

    def _scale_slope(self, e: Expressions, q: VarWrapper, cut: VarWrapper) -> VarWrapper:
        assert self._inside is not None
        return e.subtract(q, e.multiply(cut, self._inside))

    def _weight(self, x: VarWrapper) -> float:
        sizes = x.shape() if x.is_parameter() else x.shape()[1:]
        count = math.prod(size for size in sizes if size > 0) / self.scale.channels
        return 1.0 / math.sqrt(max(count, 1.0) * self.scale.limit)


class PACTQuantizer(LearnedQuantizer):
    """Parameterized clipping: the threshold is learned, and decays by the regularizer of the scale's factor."""

    def _scale_slope(self, e: Expressions, q: VarWrapper, cut: VarWrapper) -> VarWrapper:
        assert self._inside is not None
        return e.multiply(q, e.scale(self._inside, -1.0, 1.0))

    def _weight(self, x: VarWrapper) -> float:
        return 1.0 / self.scale.limit**2


def _constant(var: VarWrapper) -> VarWrapper:
    var.raw.stop_gradient = True
    return var
