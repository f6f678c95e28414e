"""Figures of an error that come in piece by piece: signal to noise, cosine, histograms."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import DataError

__all__ = ['ErrorFigures', 'ErrorSums', 'Histogram']

Array = npt.NDArray[Any]
_BINS: Final = 64


@dataclass(frozen=True)
class ErrorFigures:
    """How far a tensor is from what it should be.

    Attributes:
        sqnr: signal to noise in decibels: ten times the logarithm of the mean squares of signal and error; infinite
            where there is no error, and minus infinity where there is an error and no signal.
        cosine: of both tensors as vectors; 1 where both are zero.
        relative: root of the mean square of the error as a fraction of that of the signal.
        largest: largest magnitude of the error.
    """

    sqnr: float
    cosine: float
    relative: float
    largest: float


@dataclass(frozen=True)
class Histogram:
    """How the values of a tensor are distributed in float and quantized.

    Attributes:
        edges: of the bins, one more than there are bins.
        exact: elements of the float tensor in each bin.
        found: the same of the quantized tensor; what lies outside counts to the outermost bins.
    """

    edges: Array
    exact: Array
    found: Array


@dataclass
class ErrorSums:
    """Adds up what the figures are made of."""

    _signal: float = 0.0
    _noise: float = 0.0
    _found: float = 0.0
    _product: float = 0.0
    _largest: float = 0.0
    _histogram: Histogram | None = field(default=None)

    def add(self, name: str, exact: Array, found: Array) -> None:
        """Take note of a tensor of one batch.

        Raises:
            DataError: the quantized tensor has another shape, or either is not finite.
        """
        if exact.shape != found.shape:
            raise DataError(f'{name!r} has the shape {found.shape} where it has {exact.shape} in float')
        a, b = exact.astype(np.float64), found.astype(np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise DataError(f'{name!r} is not finite: it holds NaN or infinity')
        self._signal += float(np.sum(a * a))
        self._found += float(np.sum(b * b))
        self._product += float(np.sum(a * b))
        self._noise += float(np.sum(np.square(a - b)))
        self._largest = max(self._largest, float(np.max(np.abs(a - b), initial=0.0)))
        self._histogram = _counted(self._histogram, a, b)

    def figures(self) -> ErrorFigures:
        """Return the figures so far."""
        scale = math.sqrt(self._signal) * math.sqrt(self._found)
        if not self._noise:
            return ErrorFigures(math.inf, 1.0, 0.0, 0.0)
        sqnr = 10 * math.log10(self._signal / self._noise) if self._signal else -math.inf
        cosine = self._product / scale if scale else 0.0
        relative = math.sqrt(self._noise / self._signal) if self._signal else math.inf
        return ErrorFigures(sqnr, cosine, relative, self._largest)

    def histogram(self) -> Histogram:
        """Return the histogram so far.

        Raises:
            DataError: nothing has been added.
        """
        if self._histogram is None:
            raise DataError('there is no histogram of nothing')
        return self._histogram


def _counted(before: Histogram | None, exact: Array, found: Array) -> Histogram:
    """Add counts; the edges are those of the first batch."""
    edges = np.linspace(*_limits(exact, found), _BINS + 1) if before is None else before.edges
    counts = [np.histogram(np.clip(a, edges[0], edges[-1]), edges)[0].astype(np.int64) for a in (exact, found)]
    if before is not None:
        counts = [counts[0] + before.exact, counts[1] + before.found]
    return Histogram(edges, *counts)


def _limits(exact: Array, found: Array) -> tuple[float, float]:
    low = min(float(exact.min(initial=0.0)), float(found.min(initial=0.0)))
    high = max(float(exact.max(initial=0.0)), float(found.max(initial=0.0)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
