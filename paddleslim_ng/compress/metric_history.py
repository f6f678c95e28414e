"""What evaluations have found, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

from paddleslim_ng.errors import ConfigError, DataError, nearest_names

__all__ = ['CONVERGENCE', 'append_metrics', 'has_converged', 'metric_history']

CONVERGENCE: Final = 0.001
"""Relative change below which a metric has converged by default."""


def append_metrics(results: MutableMapping[str, list[float]], metrics: Mapping[str, float]) -> None:
    """Add what has been found to the history, in place."""
    for name, value in metrics.items():
        results.setdefault(name, []).append(value)


def metric_history(results: Mapping[str, Sequence[float]], name: str) -> Sequence[float]:
    """Return the values of a metric, of which there is at least one.

    Raises:
        ConfigError: no evaluation has found a metric of that name.
    """
    if not results.get(name):
        known = list(results)
        raise ConfigError(f'there is no metric {name!r}; evaluated are {known}{nearest_names(name, known)}')
    return results[name]


def has_converged(results: Mapping[str, Sequence[float]], name: str, delta: float) -> bool:
    """Tell whether a metric changed by less than ``delta``, relatively, between the last two evaluations.

    Raises:
        ConfigError: there is no metric of that name.
        DataError: the metric is not finite, or was 0, from which no relative change can be told.
    """
    if not results:
        return False
    history = metric_history(results, name)
    if len(history) < 2:
        return False
    before, now = history[-2:]
    where = f'whether {name!r} has converged cannot be told: it was {before} and is now {now}'
    if not (math.isfinite(before) and math.isfinite(now)):
        raise DataError(f'{where}. Training has diverged')
    if before == 0:
        raise DataError(f'{where}. Start later, when the network has learned something, or choose another metric')
    return abs(now - before) / abs(before) < delta
