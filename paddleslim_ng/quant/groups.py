"""Scales for groups: blocks of neighbouring inputs, within each output channel of a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError

__all__ = ['check_group_size', 'group_abs_max', 'group_count', 'spread_groups']


def check_group_size(size: Any) -> int:
    """Return the number of inputs in a group.

    Raises:
        ConfigError: it is no positive whole number.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ConfigError(f'group_size must be a positive whole number of inputs, not {size!r}')
    return int(size)


def group_count(length: int, size: int) -> int:
    """Return how many groups there are along an axis; the last one may be smaller."""
    return -(-length // size)


def group_abs_max(array: npt.NDArray[Any], axis: int, group_axis: int, size: int) -> npt.NDArray[Any]:
    """Return the largest magnitude in every group, ``[channels, groups]``.

    Args:
        array: numbers.
        axis: of the output channels.
        group_axis: of the inputs, ``size`` neighbours of which are a group; all other axes belong to the group.
        size: of a group.
    """
    moved = np.moveaxis(np.abs(array), (axis, group_axis), (0, 1))
    flat = moved.reshape(*moved.shape[:2], -1).max(axis=2)
    found: npt.NDArray[Any] = np.maximum.reduceat(flat, np.arange(0, flat.shape[1], size), axis=1)
    return found


def spread_groups(
    scale: npt.NDArray[np.float32], shape: tuple[int, ...], axis: int, group_axis: int, size: int
) -> npt.NDArray[np.float32]:
    """Return scales ``[channels, groups]`` in a shape that numpy broadcasts over an array of ``shape``."""
    wide = np.repeat(scale, size, axis=1)[:, : shape[group_axis]]
    sizes = [1] * len(shape)
    sizes[axis], sizes[group_axis] = shape[axis], shape[group_axis]
    return (wide if axis < group_axis else wide.T).reshape(sizes)
