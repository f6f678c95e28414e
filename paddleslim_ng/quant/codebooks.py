"""Codebooks: a few numbers, the nearest of which stands for every element of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DataError, nearest_names

__all__ = ['STARTS', 'cluster', 'nearest', 'start_codebook']

_ITERATIONS: Final = 100
Array = npt.NDArray[Any]


def cluster(values: Array, count: int) -> Array:
    """Return the points that k-means (Lloyd, 1982) finds on a line, from the quantiles of the values on.

    On sorted values a step costs ``count`` searches, whatever their number.

    Args:
        values: numbers, at least one.
        count: number of points.

    Returns:
        float64, ascending: at most ``count`` points; the values themselves where there are no more.
    """
    ordered = np.sort(np.asarray(values, np.float64).reshape(-1))
    distinct = np.unique(ordered)
    if distinct.size <= count:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    points = np.unique(np.quantile(ordered, (np.arange(count) + 0.5) / count))
    for _ in range(_ITERATIONS):
        edges = np.searchsorted(ordered, (points[1:] + points[:-1]) / 2)
        edges = np.concatenate([[0], edges, [ordered.size]])
        sizes = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(sizes, 1)
        moved = np.where(sizes > 0, means, points)
        if np.array_equal(moved, points):
            break
        points = moved
    found: Array = points
    return found


def nearest(values: Array, points: Array) -> Array:
    """Return for every number the place (int64) of the nearest of some ascending points, the lower one of two."""
    points = np.asarray(points)
    middle = (points[1:] + points[:-1]) * points.dtype.type(0.5)
    found: Array = np.searchsorted(middle, values.reshape(-1)).reshape(values.shape)
    return found


def _evenly(values: Array, count: int) -> Array:
    return np.linspace(values.min(), values.max(), count)


def _quantiles(values: Array, count: int) -> Array:
    return np.quantile(values, np.arange(1, count + 1) / (count + 1))


# How the points of a bucket start -> from its values and their number.
STARTS: Final[Mapping[str, Callable[[Array, int], Array]]] = {
    'uniform': _evenly,
    'quantile': _quantiles,
    'kmeans': cluster,
}


def start_codebook(rows: Array, bits: int, start: str, *, keep_zeros: bool = False) -> npt.NDArray[np.float32]:
    """Return a codebook for every bucket.

    Args:
        rows: finite numbers ``[buckets, elements]``.
        bits: there are ``2**bits`` points.
        start: ``'uniform'``: at equal distances from the smallest to the largest number; ``'quantile'``: the quantiles
            ``i / (2**bits + 1)``; ``'kmeans'``: where k-means puts them.
        keep_zeros: one more point is zero; the others, one less, are found for what is not zero.

    Returns:
        float32 ``[buckets, 2**bits]``, or one column less where zero is a point besides, ascending; points that are not
        needed are copies of the last one.

    Raises:
        ConfigError: an unknown start.
        DataError: numbers that are not finite, or none.
    """
    if start not in STARTS:
        raise ConfigError(f'unknown start {start!r} of codebooks; known: {list(STARTS)}{nearest_names(start, STARTS)}')
    if not rows.size or not np.isfinite(rows).all():
        raise DataError('a codebook needs finite numbers: the tensor is empty, or has NaN or infinity')
    count = 2**bits - keep_zeros
    found = np.empty((len(rows), count), np.float32)
    for row, book in zip(rows, found):
        values = row[row != 0] if keep_zeros else row
        points = STARTS[start](values.astype(np.float64), count) if values.size else np.zeros(1)
        book[: points.size] = points
        book[points.size :] = points[-1]
    return found
