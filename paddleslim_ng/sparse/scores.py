"""Scores of weights: magnitudes, one by one or averaged over blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.sparse.selection import CHUNK, Floats

__all__ = ['BlockMeans', 'Blocks', 'Magnitudes', 'as_floats']

Mask = npt.NDArray[np.uint8]


def as_floats(values: npt.NDArray[Any]) -> Floats:
    """Return weights as numpy can compare them; 16-bit floats become 32-bit, exactly.

    numpy has no bfloat16: Paddle hands such weights over as their 16 bits.
    """
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32) if values.dtype == np.float16 else values


class Magnitudes:
    """Absolute values of weights, -1 where the mask is zero: what has left ranks below everything.

    Args:
        weights: any shape.
        mask: 0 or 1 per weight, or None where all count.
        dtype: element type of the scores.
    """

    def __init__(self, weights: npt.NDArray[Any], mask: Mask | None, dtype: Any = np.float32) -> None:
        self._weights = weights.reshape(-1)
        self._mask = None if mask is None else mask.reshape(-1)
        self._dtype = np.dtype(dtype).type

    def __len__(self) -> int:
        return int(self._weights.size)

    def chunks(self) -> Iterator[Floats]:
        """Yield the scores in order."""
        for start in range(0, len(self), CHUNK):
            yield self._scores(slice(start, start + CHUNK))

    def sample(self, stride: int) -> Floats:
        """Return every ``stride``-th score."""
        return self._scores(slice(None, None, stride))

    def _scores(self, where: slice) -> Floats:
        found = np.abs(as_floats(self._weights[where])).astype(self._dtype, copy=False)
        if self._mask is not None:
            # Arithmetic instead of a condition: five times as fast.
            mask = self._mask[where].astype(self._dtype)
            found *= mask
            mask -= 1
            found += mask
        return found


class Blocks:
    """Blocks of m x n over the first two axes of a parameter; further axes belong to the block whole.

    Blocks at the border may be smaller.

    Args:
        shape: the parameter's, of at least two axes.
        rows: block length along axis 0.
        columns: block length along axis 1.
    """

    def __init__(self, shape: tuple[int, ...], rows: int, columns: int) -> None:
        self.shape = shape
        self.rows, self.columns = rows, columns
        self.grid = (-(-shape[0] // rows), -(-shape[1] // columns))
        self._rest = int(np.prod(shape[2:], dtype=np.int64))

    def sizes(self) -> npt.NDArray[np.int64] | int:
        """Return the number of weights of each block, or one number where all have as many."""
        if self.shape[0] % self.rows == 0 and self.shape[1] % self.columns == 0:
            return self.rows * self.columns * self._rest
        height = _lengths(self.shape[0], self.rows)
        width = _lengths(self.shape[1], self.columns)
        return np.asarray(np.outer(height, width).reshape(-1) * self._rest, dtype=np.int64)

    def means(self, weights: npt.NDArray[Any], mask: Mask | None) -> Floats:
        """Return the mean magnitude of each block, in row-major order; what the mask drops counts as zero."""
        scores = np.abs(as_floats(weights))
        if mask is not None:
            scores *= mask
        cells: Floats = scores.reshape(self.shape[0], self.shape[1], self._rest)
        flat: Floats = cells.sum(axis=2) if self._rest > 1 else cells[:, :, 0]
        sums = _sum_runs(_sum_runs(flat, self.rows, 0), self.columns, 1)
        sizes = self.sizes()
        return np.asarray(sums.reshape(-1) / np.asarray(sizes, sums.dtype))

    def spread(self, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return, for every weight, whether its block is kept; ``keep`` has one entry per block."""
        rows = np.repeat(keep.reshape(self.grid), self.rows, axis=0)[: self.shape[0]]
        whole = np.repeat(rows, self.columns, axis=1)[:, : self.shape[1]]
        return np.broadcast_to(whole.reshape(*whole.shape, *(1,) * (len(self.shape) - 2)), self.shape)


class BlockMeans:
    """Scores of blocks that have been computed."""

    def __init__(self, means: Floats) -> None:
        self._means = means

    def __len__(self) -> int:
        return int(self._means.size)

    def chunks(self) -> Iterator[Floats]:
        """Yield the scores in order."""
        yield self._means

    def sample(self, stride: int) -> Floats:
        """Return every ``stride``-th score."""
        return self._means[::stride]


def _lengths(total: int, length: int) -> npt.NDArray[np.int64]:
    return np.asarray(np.minimum(length, total - np.arange(0, total, length)), dtype=np.int64)


def _sum_runs(values: Floats, length: int, axis: int) -> Floats:
    """Sum runs of ``length`` entries along an axis; the last run may be shorter."""
    if length == 1:
        return values
    total = values.shape[axis]
    if total % length:
        return np.add.reduceat(values, np.arange(0, total, length), axis=axis)
    shape = (*values.shape[:axis], total // length, length, *values.shape[axis + 1 :])
    return np.asarray(values.reshape(shape).sum(axis=axis + 1))
