"""What tensors hold in float and quantized: rows of a table, samples and histograms, batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.error_figures import ErrorSums, Histogram

__all__ = ['COLUMNS', 'TensorSummary']

Array = npt.NDArray[Any]
_SAMPLE: Final = 1000
_PARTS: Final = ('FP32', 'Quantized', 'Diff')
_FIGURES: Final = ('Min', 'Max', 'Mean', 'Std')
#: Columns of PaddleSlim's table.
COLUMNS: Final = (
    'Var Name',
    'Var Type',
    'Corresponding Weight Name',
    *(f'{part} {figure}' for part in _PARTS for figure in _FIGURES),
)


@dataclass
class _Moments:
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, x: Array) -> None:
        self.count += x.size
        self.total += float(x.sum())
        self.squares += float(np.square(x).sum())
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))

    def row(self) -> tuple[float, float, float, float]:
        mean = self.total / self.count
        return self.low, self.high, mean, math.sqrt(max(self.squares / self.count - mean * mean, 0.0))


class TensorSummary:
    """Minimum, maximum, mean and deviation of a tensor, of its quantized form and of the difference.

    Args:
        name: of the tensor.
        weight: the weight of the layer that reads the activation, or None where the tensor is a weight itself.
        axis: boxes show the largest magnitude for every position along this axis; single elements where None.

    Attributes:
        exact_sample: up to 1000 values for a box plot, evenly taken from the first batch.
        found_sample: the same of the quantized tensor.
    """

    def __init__(self, name: str, weight: str | None = None, axis: int | None = None) -> None:
        self.name, self.weight = name, weight
        self._axis = axis
        self._moments = {part: _Moments() for part in _PARTS}
        self._sums = ErrorSums()
        self.exact_sample: Array = np.zeros(0)
        self.found_sample: Array = np.zeros(0)

    def add(self, exact: Array, found: Array) -> None:
        """Take note of a batch.

        Raises:
            ConfigError: the tensor lacks the axis.
            DataError: values that are not finite.
        """
        a, b = exact.astype(np.float64), found.astype(np.float64)
        self._sums.add(self.name, a, b)
        for part, values in zip(_PARTS, (a, b, a - b)):
            self._moments[part].add(values)
        if not self.exact_sample.size:
            self.exact_sample, self.found_sample = (self._sample(values) for values in (a, b))

    def row(self) -> dict[str, Any]:
        """Return the row of the table, by column."""
        figures = [value for part in _PARTS for value in self._moments[part].row()]
        kind = 'Weight' if self.weight is None else 'Activation'
        return dict(zip(COLUMNS, [self.name, kind, self.weight or '', *figures]))

    def histogram(self) -> Histogram:
        """Return how values are distributed in both forms."""
        return self._sums.histogram()

    def _sample(self, values: Array) -> Array:
        if self._axis is None:
            flat = values.reshape(-1)
        elif -values.ndim <= self._axis < values.ndim:
            flat = np.abs(np.moveaxis(values, self._axis, 0)).reshape(values.shape[self._axis], -1).max(axis=1)
        else:
            raise ConfigError(f'{self.name!r} of shape {list(values.shape)} has no axis {self._axis} to analyse')
        places = np.linspace(0, len(flat) - 1, min(len(flat), _SAMPLE)).astype(np.int64)
        return np.asarray(flat[places])
