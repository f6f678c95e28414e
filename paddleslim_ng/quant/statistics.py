"""What calibration keeps of an activation: a histogram that merges exactly, and the largest magnitudes.

A histogram spans ``[-2**k, 2**k]``, where ``2**k`` is the smallest power of two that holds its data. Data that needs a
larger range doubles it, and pairs of neighbouring bins become one: counts stay exact whatever the order of the batches,
and nobody has to know a range beforehand. On each side of zero, half of the bins or more lie within the largest
magnitude, which sets the resolution: the width of a bin is no more than about ``abs_max / (BINS / 2)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, GraphError, nearest_names

__all__ = ['BINS', 'SMALLEST_RANGE', 'CalibrationStatistics', 'TensorStatistics', 'range_for']

# On either side of zero.
BINS: Final = 4096
SMALLEST_RANGE: Final = 2.0**-100
Counts = npt.NDArray[np.int64]


def range_for(abs_max: float) -> float:
    """Return the smallest power of two, :data:`SMALLEST_RANGE` or more, that is not below a magnitude."""
    mantissa, exponent = np.frexp(max(abs_max, SMALLEST_RANGE))
    return float(np.ldexp(1.0, int(exponent) - (1 if mantissa == 0.5 else 0)))


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What was seen of one tensor.

    Attributes:
        name: of the tensor.
        counts: ``[2 * BINS]`` int64: how many elements fell into each of the equal bins of ``[-range, range]``.
        range: a power of two that no magnitude exceeds.
        abs_max: largest magnitude.
        rows: how many positions along axis 0, images as a rule, were seen.
        row_abs_max: sum over the rows of the largest magnitude in each.
    """

    name: str
    counts: Counts
    range: float
    abs_max: float
    rows: int
    row_abs_max: float

    @classmethod
    def of_array(cls, name: str, array: npt.NDArray[Any]) -> TensorStatistics:
        """Return the statistics of an array, whose axis 0 are the rows, by numpy.

        Raises:
            ConfigError: the array is empty, or holds NaN or infinity.
        """
        values = np.asarray(array, np.float32).reshape(np.shape(array)[0] if np.ndim(array) else 1, -1)
        if not values.size or not np.isfinite(values).all():
            raise ConfigError(f'{name!r} has no statistics: it is empty, or holds NaN or infinity')
        limit = range_for(float(np.max(np.abs(values))))
        counts, _ = np.histogram(values / np.float32(limit), 2 * BINS, (-1.0, 1.0))
        rows = np.max(np.abs(values), axis=1).astype(np.float64)
        return cls(name, counts.astype(np.int64), limit, float(rows.max()), len(values), float(rows.sum()))

    @property
    def minimum(self) -> float:
        """Lower edge of the lowest bin in use: a bound on the elements, at most a bin below the smallest."""
        lowest = int(np.flatnonzero(self.counts)[0])
        return max((lowest - BINS) * self.bin_width, -self.abs_max)

    @property
    def maximum(self) -> float:
        """Upper edge of the highest bin in use: a bound on the elements, at most a bin above the largest."""
        highest = int(np.flatnonzero(self.counts)[-1])
        return min((highest + 1 - BINS) * self.bin_width, self.abs_max)

    @property
    def mean_abs_max(self) -> float:
        """Mean over the rows of the largest magnitude in each."""
        return self.row_abs_max / self.rows

    @property
    def elements(self) -> int:
        """Number of elements seen."""
        return int(self.counts.sum())

    @property
    def bin_width(self) -> float:
        """Width of a bin; a power of two."""
        return self.range / BINS

    def magnitudes(self) -> Counts:
        """Return the counts of ``|x|`` in bins of :attr:`bin_width` from 0, up to the one that holds the largest."""
        folded = self.counts[BINS:] + self.counts[BINS - 1 :: -1]
        used = min(max(int(np.ceil(self.abs_max / self.bin_width)), 1), BINS)
        folded[used - 1] += folded[used:].sum()  # float32 may round the largest ones up
        return folded[:used]

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Return the statistics of what was seen here and there; counts are exact.

        Raises:
            ConfigError: the other one is of another tensor.
        """
        if other.name != self.name:
            raise ConfigError(f'statistics of {self.name!r} and {other.name!r} cannot be merged')
        limit = max(self.range, other.range)
        return TensorStatistics(
            self.name,
            widened(self.counts, self.range, limit) + widened(other.counts, other.range, limit),
            limit,
            max(self.abs_max, other.abs_max),
            self.rows + other.rows,
            self.row_abs_max + other.row_abs_max,
        )


def widened(counts: Counts, old: float, new: float) -> Counts:
    """Return the counts over ``[-new, new]`` for those over ``[-old, old]``; both are powers of two, ``new >= old``."""
    factor = int(min(new / old, 2 * BINS))
    if factor == 1:
        return counts
    halves = [counts[:BINS][::-1], counts[BINS:]]  # from zero outwards
    wide = np.zeros_like(counts)
    for side, half in enumerate(halves):
        padded = np.zeros(-(-BINS // factor) * factor, np.int64)
        padded[:BINS] = half
        merged = padded.reshape(-1, factor).sum(1)
        if side:
            wide[BINS : BINS + len(merged)] = merged
        else:
            wide[BINS - len(merged) : BINS] = merged[::-1]
    return wide


@dataclass(frozen=True)
class CalibrationStatistics(Mapping[str, TensorStatistics]):
    """The statistics of all tensors, by name, from one pass over the data.

    Attributes:
        tensors: by name.
        batches: how many were run.
        images: how many positions along axis 0 of the first input they had together.
    """

    tensors: Mapping[str, TensorStatistics]
    batches: int
    images: int

    def __getitem__(self, name: str) -> TensorStatistics:
        """Return the statistics of a tensor.

        Raises:
            GraphError: it was not observed.
        """
        found = self.tensors.get(name)
        if found is None:
            raise GraphError(f'{name!r} was not observed in calibration{nearest_names(name, self.tensors)}')
        return found

    def __contains__(self, name: object) -> bool:
        """Tell whether a tensor was observed."""
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)
