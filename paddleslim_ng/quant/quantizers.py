"""Integers for arrays and back, in numpy: what :class:`TensorQuantization` means."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant.groups import group_abs_max, spread_groups
from paddleslim_ng.quant.spec import TensorQuantization, largest_integer

__all__ = [
    'abs_max_scale',
    'dequantize',
    'fake_quantize',
    'integer_type',
    'quantize',
    'scale_of_threshold',
    'spread_scale',
]

Floats = npt.NDArray[np.float32]


def scale_of_threshold(threshold: npt.ArrayLike, bits: int) -> Floats:
    """Return the scale at which the largest integer stands for ``threshold``, in float32: ``threshold / (2**(b-1)-1)``.

    Where the threshold is zero, everything seen was zero. The scale is that of the threshold 1 then, which keeps zeros
    exact; so it is where the threshold is too small for float32 to hold its scale.

    Args:
        threshold: largest magnitude, or one for each channel.
        bits: width of the integers.

    Raises:
        DataError: a threshold that is negative or not finite.
    """
    limit = largest_integer(bits)
    values = np.asarray(threshold, np.float64).reshape(-1)
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise DataError(f'thresholds of quantization must be finite and not negative, not {values.tolist()[:8]}')
    scale = values / limit
    smallest = np.finfo(np.float32).tiny
    largest = np.finfo(np.float32).max / largest_integer(16)  # so that wider integers have a threshold on this scale
    found: Floats = np.where(scale < smallest, 1.0 / limit, np.minimum(scale, largest)).astype(np.float32)
    return found


def abs_max_scale(
    array: npt.NDArray[Any],
    bits: int,
    axis: int | None = None,
    *,
    group_axis: int | None = None,
    group_size: int | None = None,
) -> Floats:
    """Return the scale that cuts nothing off: of the array, for every position along an axis, or for groups there.

    Args:
        array: numbers.
        bits: width of the integers.
        axis: axis of the channels; None for one scale.
        group_axis: axis along which neighbours are a group; see :class:`TensorQuantization`.
        group_size: how many.

    Returns:
        float32 ``[1]``, ``[channels]`` or ``[channels, groups]``.

    Raises:
        DataError: numbers that are not finite, or none at all.
        ConfigError: the array has no such axis.
    """
    values = np.asarray(array)
    for place in (axis, group_axis):
        if place is not None and not 0 <= place < values.ndim:
            raise ConfigError(f'an array of shape {list(values.shape)} has no axis {place}')
    if not values.size or not np.all(np.isfinite(values)):
        raise DataError('the array has no finite largest magnitude: it is empty, or has NaN or infinity')
    if axis is not None and group_axis is not None and group_size is not None:
        largest = group_abs_max(values, axis, group_axis, group_size)
        return scale_of_threshold(largest, bits).reshape(largest.shape)
    others = None if axis is None else tuple(n for n in range(values.ndim) if n != axis)
    return scale_of_threshold(np.max(np.abs(values), axis=others), bits)


def integer_type(bits: int) -> str:
    """Return the element type, in numpy's spelling, that holds integers of this width."""
    largest_integer(bits)
    return 'int8' if bits <= 8 else 'int16'


def quantize(array: npt.NDArray[Any], tensor: TensorQuantization) -> npt.NDArray[Any]:
    """Return the integers of an array, int8 or int16; halves are rounded away from zero.

    Raises:
        DataError: numbers that are not finite.
        ConfigError: the array does not have the channels that the scales are for.
    """
    values = np.asarray(array, np.float32)
    if not np.all(np.isfinite(values)):
        raise DataError(f'{tensor.name!r} has NaN or infinity, which no integer stands for')
    steps = values * (np.float32(1) / spread_scale(tensor, values.shape))
    rounded = np.sign(steps) * np.floor(np.abs(steps) + np.nextafter(np.float32(0.5), np.float32(0)))
    codes = np.clip(rounded + tensor.zero_point, -tensor.limit, tensor.limit)
    integers: npt.NDArray[Any] = codes.astype(integer_type(tensor.bits))
    return integers


def dequantize(codes: npt.NDArray[Any], tensor: TensorQuantization) -> Floats:
    """Return what integers stand for.

    Raises:
        ConfigError: the array does not have the channels that the scales are for.
    """
    scale = spread_scale(tensor, codes.shape)
    return ((codes.astype(np.float32) - np.float32(tensor.zero_point)) * scale).astype(np.float32)


def fake_quantize(array: npt.NDArray[Any], tensor: TensorQuantization) -> Floats:
    """Return the nearest numbers to those of an array that integers stand for; errors are those of :func:`quantize`."""
    return dequantize(quantize(array, tensor), tensor)


def spread_scale(tensor: TensorQuantization, shape: tuple[int, ...]) -> Floats:
    """Return the scales in a shape that numpy broadcasts over an array."""
    if tensor.axis is None:
        return tensor.scale.reshape([1] * len(shape))
    if not tensor.fits(shape):
        groups = (
            '' if tensor.group_axis is None else f', in groups of {tensor.group_size} along axis {tensor.group_axis}'
        )
        raise ConfigError(
            f'{tensor.name!r} has {tensor.scale.size} scales along axis {tensor.axis}{groups}, and the array the shape '
            f'{list(shape)}'
        )
    if tensor.group_axis is not None and tensor.group_size is not None:
        return spread_groups(tensor.scale, shape, tensor.axis, tensor.group_axis, tensor.group_size)
    sizes = [1] * len(shape)
    sizes[tensor.axis] = tensor.scale.size
    return tensor.scale.reshape(sizes)
