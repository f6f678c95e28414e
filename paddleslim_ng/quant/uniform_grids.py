"""Grids of equal steps between the smallest and the largest number, in numpy and as a fake quantizer."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant.buckets import Buckets

__all__ = ['BITS', 'UniformCodes', 'UniformGrid', 'check_bits', 'uniform_codes', 'uniform_values']

BITS: Final = range(2, 9)
# So that a bucket of equal numbers has a step.
_SMALLEST_RANGE: Final = 1e-10
# The largest float32 below one half: added to what is not negative, it carries halves over, and nothing that is less.
_BELOW_HALF: Final = float(np.nextafter(np.float32(0.5), np.float32(0)))
_LOWEST: Final = float(np.finfo(np.float32).min)
Floats = npt.NDArray[np.float32]


def check_bits(bits: Any, what: str) -> int:
    """Return a width of low-bit quantization.

    Raises:
        ConfigError: it is no whole number from 2 to 8.
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or bits not in BITS:
        raise ConfigError(f'{what} must be a whole number from {BITS[0]} to {BITS[-1]}, not {bits!r}')
    return int(bits)


class UniformCodes(NamedTuple):
    """A tensor as integers from 0 to ``2**bits - 1``: each stands for ``(code - zero) * step + low``.

    Attributes:
        codes: uint8, in the shape of the tensor.
        low: float32 [buckets]; 0 where zeros are kept.
        step: float32 [buckets].
        zero: float32 [buckets], whole numbers: the code of zero; 0 where zeros are not kept.
    """

    codes: npt.NDArray[np.uint8]
    low: Floats
    step: Floats
    zero: Floats


def uniform_codes(
    array: npt.NDArray[Any], bits: int, buckets: Buckets | None = None, *, keep_zeros: bool = False
) -> UniformCodes:
    """Quantize a tensor: ``round((x - low) / step)``, ``step = (high - low + 1e-10) / (2**bits - 1)``.

    ``low`` and ``high`` are the smallest and the largest number of a bucket (PocketFlow's grid). Halves are rounded up.

    Args:
        array: finite numbers.
        bits: 2 to 8.
        buckets: what has a range of its own; the whole tensor where None.
        keep_zeros: zero is on the grid: the range is widened to hold it, and the grid moved by less than half a step
            (Jacob et al., 2018). What falls beyond its ends is cut off.

    Raises:
        ConfigError: another number of bits.
        DataError: numbers that are not finite, or whose range float32 does not hold.
    """
    largest = np.float32(2 ** check_bits(bits, 'bits') - 1)
    own = buckets if buckets is not None else Buckets(array.shape)
    x = own.arrange(np.asarray(array, np.float32))
    if not x.size:
        raise DataError('an empty tensor has no range to quantize')
    low, high = (f(x, axis=own.within, keepdims=True) for f in (np.min, np.max))
    if keep_zeros:
        low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    with np.errstate(over='ignore', invalid='ignore'):
        step = ((high - low) + np.float32(_SMALLEST_RANGE)) * (np.float32(1) / largest)
    if not np.isfinite(step).all():
        raise DataError('a tensor with NaN or infinity, or of a range beyond float32, cannot be quantized')
    zero = np.zeros_like(step)
    half = np.float32(_BELOW_HALF)
    if keep_zeros:
        zero, low = np.floor(low * np.float32(-1) / step + half), zero
        codes = np.clip(np.floor(x / step + zero + half), np.float32(0), largest)
    else:
        codes = np.floor((x - low) / step + half)
    flat = (part.reshape(-1) for part in (low, step, zero))
    return UniformCodes(own.restore(codes).astype(np.uint8), *flat)


def uniform_values(
    array: npt.NDArray[Any], bits: int, buckets: Buckets | None = None, *, keep_zeros: bool = False
) -> Floats:
    """Return what the codes of a tensor stand for; see :func:`uniform_codes`."""
    own = buckets if buckets is not None else Buckets(array.shape)
    found = uniform_codes(array, bits, own, keep_zeros=keep_zeros)
    shape = [1] * len(own.shape) if own.size is None else [1, own.count]
    if own.axis is not None:
        shape[own.axis] = own.count
    low, step, zero = (part.reshape(shape) for part in found[1:])
    values: Floats = own.restore((own.arrange(found.codes).astype(np.float32) - zero) * step + low)
    return values


class UniformGrid:
    """The fake quantizer of :func:`uniform_values`, with the range that the tensor has at every step.

    The gradient passes as if nothing was done (straight-through estimator, Bengio et al., 2013), the range included:
    no number but the ends decides on it.

    Args:
        bits: 2 to 8.
        buckets: of a weight; None for a tensor of any shape, which has one range.
        keep_zeros: whether zero is on the grid.
    """

    learns = False

    def __init__(self, bits: int, buckets: Buckets | None = None, *, keep_zeros: bool = False) -> None:
        self._bits = check_bits(bits, 'bits')
        self._largest = 2**self._bits - 1
        self._buckets = buckets
        self._keep_zeros = keep_zeros

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the operators."""
        given = e.stop(x)
        values = self._values(e, given)
        return values if given is x else e.add(values, e.subtract(x, given))  # x - x is 0 exactly

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Return the gradient."""
        return gradient

    def values(self, array: npt.NDArray[Any], scope: Any = None) -> Floats:
        """Return :func:`uniform_values` of a weight."""
        return uniform_values(array, self._bits, self._buckets, keep_zeros=self._keep_zeros)

    def side_bits(self) -> int:
        """Return the bits of the step and of the offset, or of the code of zero, of all buckets."""
        count = self._buckets.count if self._buckets is not None else 1
        return count * (32 + (self._bits if self._keep_zeros else 32))

    def backward_to(self, gradient: npt.NDArray[Any], array: npt.NDArray[Any], scope: Any) -> dict[str, Floats]:
        """Return the gradient of the weight."""
        return {'': gradient}

    def _values(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        own = self._buckets if self._buckets is not None else Buckets(x.shape())
        x = own.build_arrange(e, x)
        low, high = (f(x, own.within, keep=True) for f in (e.min, e.max))
        if self._keep_zeros:
            low, high = e.clip(low, _LOWEST, 0.0), e.clip(high, 0.0, -_LOWEST)
        span = e.scale(e.subtract(high, low), 1.0, _SMALLEST_RANGE)
        step = e.scale(span, 1.0 / self._largest)
        if not self._keep_zeros:
            codes = e.floor(e.scale(e.divide(e.subtract(x, low), step), 1.0, _BELOW_HALF))
            return own.build_restore(e, e.add(e.multiply(codes, step), low))
        zero = e.floor(e.scale(e.divide(e.scale(low, -1.0), step), 1.0, _BELOW_HALF))
        places = e.floor(e.scale(e.add(e.divide(x, step), zero), 1.0, _BELOW_HALF))
        codes = e.clip(places, 0.0, float(self._largest))
        return own.build_restore(e, e.multiply(e.subtract(codes, zero), step))
