"""Means over samples of what batches gave, and whether they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddleslim_ng.distributed import Ranks
from paddleslim_ng.errors import DataError

__all__ = ['WeightedMeans', 'check_finite']


class WeightedMeans:
    """Means of what batches gave, each weighted by its number of samples.

    Attributes:
        sums: weighted sums by name.
        samples: how many samples went in.
        batches: how many batches.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.samples = 0
        self.batches = 0

    def add(self, values: Mapping[str, Any], size: int) -> None:
        """Add a batch: the mean of each array counts ``size`` times.

        Raises:
            DataError: a value is no number, or an array without elements.
        """
        for name, value in values.items():
            array = np.asarray(value)
            if not array.size or array.dtype.kind not in 'biuf':
                raise DataError(f'{name!r} is {value!r}, of which there is no mean')
            self.sums[name] = self.sums.get(name, 0.0) + float(np.mean(array, dtype=np.float64)) * size
        self.samples += size
        self.batches += 1

    def means(self, ranks: Ranks | None = None) -> dict[str, float]:
        """Return the means, over all ranks where some are given; a collective call then."""
        names, sums, samples = list(self.sums), np.array(list(self.sums.values())), float(self.samples)
        if ranks is not None and ranks.size > 1:
            shared = ranks.mean(np.array([*sums, samples]))
            sums, samples = shared[:-1], float(shared[-1])
        return {name: float(total / samples) for name, total in zip(names, sums)} if samples else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint in the midst of an epoch."""
        return {'sums': dict(self.sums), 'samples': self.samples, 'batches': self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums."""
        self.sums = {name: float(value) for name, value in state['sums'].items()}
        self.samples, self.batches = int(state['samples']), int(state['batches'])


def check_finite(metrics: Mapping[str, float], when: str) -> None:
    """Raise DataError where a metric is NaN or infinite, after which nothing that a job decides can be trusted."""
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        raise DataError(
            f'{when}: {", ".join(f"{name} is {value}" for name, value in bad.items())}. Training has diverged, or the '
            'metric divides by zero; the last checkpoint is kept'
        )
