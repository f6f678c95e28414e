"""Calibration data for many trials: read once, kept, and calibrated with no more often than needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from paddleslim_ng.core import Executor
from paddleslim_ng.errors import DataError
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.statistics import CalibrationStatistics
from paddleslim_ng.runtime import InferenceModel

__all__ = ['SharedCalibration', 'StoredFeeds', 'joined_feeds']


class StoredFeeds:
    """Units of calibration data, samples or batches, that are read when they are first needed, and kept.

    Args:
        source: the units, as feeds.
    """

    def __init__(self, source: Iterable[Feed]) -> None:
        self._source = iter(source)
        self._kept: list[Feed] = []
        self.ended = False

    def first(self, count: int) -> list[Feed]:
        """Return so many units from the first on, or all where there are fewer.

        Raises:
            DataError: there is none at all, or one that cannot be used.
        """
        while len(self._kept) < count and not self.ended:
            feed = next(self._source, None)
            if feed is None:
                self.ended = True
            else:
                self._kept.append(dict(feed))
        if not self._kept:
            raise DataError('there is no batch to calibrate with: the source of data is empty')
        return self._kept[:count]


def joined_feeds(units: list[Feed], size: int) -> Iterator[Feed]:
    """Yield batches of so many units each, joined along axis 0; the last one may be smaller."""
    for start in range(0, len(units), size):
        part = units[start : start + size]
        yield {
            name: np.concatenate([unit[name] for unit in part]) if len(part) > 1 else part[0][name] for name in part[0]
        }


class SharedCalibration:
    """Statistics of the first units of data. What was seen of some of them is not run again for more of them.

    Statistics are sums and maxima over images: parts can be added. Units are always run in the same batches, whatever
    was asked for before, so that the last bit of an activation, which depends on the batch, is the same as well.

    Args:
        model: the float model.
        tensors: names of the activations to observe.
        feeds: the data.
        batch_size: units that are run at once.
        place: device; the CPU where None.

    Attributes:
        units_run: how many units were run so far.
    """

    def __init__(
        self, model: InferenceModel, tensors: list[str], feeds: StoredFeeds, batch_size: int, place: Any = None
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._feeds = feeds
        self._size = batch_size
        self._runner = Executor(place)
        self._seen: dict[int, CalibrationStatistics] = {}
        self.units_run = 0

    def statistics(self, count: int) -> CalibrationStatistics:
        """Return the statistics of the first ``count`` units, or of all where there are fewer.

        Raises:
            DataError: data that cannot be used.
        """
        units = self._feeds.first(count)
        whole = len(units) // self._size * self._size
        for end in (whole, len(units)):
            if end and end not in self._seen:
                start = max((known for known in self._seen if known < end and not known % self._size), default=0)
                found = self._run(units[start:end])
                self._seen[end] = _added(self._seen[start], found) if start else found
        return self._seen[len(units)]

    def _run(self, units: list[Feed]) -> CalibrationStatistics:
        batches = joined_feeds(units, self._size)
        self.units_run += len(units)
        return calibrate(self._model.program, batches, self._tensors, self._model.scope, executor=self._runner)


def _added(one: CalibrationStatistics, two: CalibrationStatistics) -> CalibrationStatistics:
    tensors = {name: seen.merge(two[name]) for name, seen in one.tensors.items()}
    return CalibrationStatistics(tensors, one.batches + two.batches, one.images + two.images)
