"""Adaptive rounding: for every weight, a number between the integer below and the one above, that learns to be one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant.quantizers import dequantize, integer_type, quantize, spread_scale
from paddleslim_ng.quant.spec import TensorQuantization

__all__ = ['Adam', 'SoftRounding', 'exact_weight']

Floats = npt.NDArray[np.float32]
# The rectified sigmoid reaches 0 and 1 at finite arguments (Louizos et al., 2018).
_STRETCH: Final = 1.2
_BELOW: Final = 0.1
# What is nearer than this to an integer starts here, where a gradient still passes.
_EDGE: Final = 0.01


class SoftRounding:
    """The weights of one layer, each between two integers (AdaRound, Nagel et al., 2020).

    With ``h(v) = clip(1.2 * sigmoid(v) - 0.1, 0, 1)``, a weight is ``scale * clip(floor(w / scale) + h(v), -n, n)``. It
    starts where it is in float, and the penalty ``1 - |2h - 1|**beta`` draws ``h`` to 0 or 1, the more the smaller
    ``beta`` becomes.

    Args:
        array: the float weight.
        tensor: its quantization.

    Raises:
        DataError: numbers that are not finite.
        ConfigError: the array has not the channels of the scales, or the integers have a zero point.

    Attributes:
        logits: ``v``, in the shape of the weight.
    """

    def __init__(self, array: npt.NDArray[Any], tensor: TensorQuantization) -> None:
        if tensor.zero_point:
            raise ConfigError(f'{tensor.name!r} has a zero point; adaptive rounding is for symmetric integers')
        values = np.asarray(array, np.float32)
        if not np.isfinite(values).all():
            raise DataError(f'{tensor.name!r} has NaN or infinity, which no integer stands for')
        self._tensor = tensor
        self._scale = spread_scale(tensor, values.shape)
        steps = values.astype(np.float64) / self._scale
        # A weight that is cut off has but one integer to go to.
        self._floor = np.clip(np.floor(steps), -tensor.limit, tensor.limit).astype(np.float32)
        fraction = np.clip(steps - self._floor, _EDGE, 1 - _EDGE)
        stretched = (fraction + _BELOW) / _STRETCH
        self.logits = np.log(stretched / (1 - stretched)).astype(np.float32)

    def rounding(self) -> Floats:
        """Return ``h``."""
        found: Floats = np.clip(self._stretched(), 0, 1)
        return found

    def weight(self) -> Floats:
        """Return the weight in between."""
        limit = self._tensor.limit
        found: Floats = (np.clip(self._floor + self.rounding(), -limit, limit) * self._scale).astype(np.float32)
        return found

    def gradient(self, of_weight: Floats, strength: float = 0.0, beta: float = 2.0) -> Floats:
        """Return the gradient of a loss and of the penalty with respect to :attr:`logits`.

        Args:
            of_weight: gradient of the loss with respect to :meth:`weight`.
            strength: factor of the sum of the penalties.
            beta: their exponent.
        """
        sigmoid = (self._stretched() + _BELOW) / _STRETCH
        slope = _STRETCH * sigmoid * (1 - sigmoid)
        h = self.rounding()
        total = of_weight * self._scale * (self._floor + h <= self._tensor.limit)
        if strength:
            away = 2 * h - 1
            total = total - np.float32(2 * beta * strength) * np.sign(away) * np.abs(away) ** np.float32(beta - 1)
        found: Floats = np.where((h > 0) & (h < 1), total * slope, 0).astype(np.float32)
        return found

    def penalty(self, beta: float = 2.0) -> float:
        """Return the sum of ``1 - |2h - 1|**beta``: 0 where every weight is an integer."""
        return float(np.sum(1 - np.abs(2.0 * self.rounding() - 1) ** beta))

    def integers(self) -> npt.NDArray[Any]:
        """Return the integers that the weights are nearest to now."""
        limit = self._tensor.limit
        rounded = np.clip(self._floor + (self.rounding() >= 0.5), -limit, limit)
        found: npt.NDArray[Any] = rounded.astype(integer_type(self._tensor.bits))
        return found

    def undecided(self) -> float:
        """Return the fraction of the weights that are not within 0.05 of an integer."""
        h = self.rounding()
        return float(np.mean((h > 0.05) & (h < 0.95)))

    def _stretched(self) -> Floats:
        found: Floats = (np.float32(_STRETCH) / (1 + np.exp(-self.logits)) - np.float32(_BELOW)).astype(np.float32)
        return found


def exact_weight(integers: npt.NDArray[Any], tensor: TensorQuantization) -> Floats:
    """Return floats that :func:`~paddleslim_ng.quant.quantize` makes exactly these integers of.

    They are ``integer * scale``. Product and quotient in float32 are off by less than 2**-22 of an integer of at most
    15 bits, far from a half, so that any scale gives the integers back; this is checked all the same.

    Raises:
        DataError: an integer is out of range.
    """
    found = dequantize(integers, tensor)
    if not np.array_equal(quantize(found, tensor), integers):
        raise DataError(f'{tensor.name!r} cannot hold these integers, of {integers.min()} to {integers.max()}')
    return found


@dataclass(frozen=True)
class _Moments:
    first: Floats
    second: Floats


class Adam:
    """Steps of Adam (Kingma and Ba, 2015) on named arrays, in numpy.

    Args:
        lr: step size.
    """

    def __init__(self, lr: float) -> None:
        self._lr = lr
        self._count = 0
        self._moments: dict[str, _Moments] = {}

    def steps(self, gradients: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return what is to be added to each array."""
        self._count += 1
        found = {}
        for name, gradient in gradients.items():
            old = self._moments.get(name, _Moments(np.zeros_like(gradient), np.zeros_like(gradient)))
            first = np.float32(0.9) * old.first + np.float32(0.1) * gradient
            second = np.float32(0.999) * old.second + np.float32(0.001) * gradient * gradient
            self._moments[name] = _Moments(first, second)
            scale = np.float32(self._lr / (1 - 0.9**self._count))
            root = np.sqrt(second / np.float32(1 - 0.999**self._count))
            found[name] = -scale * first / (root + np.float32(1e-12))
        return found
