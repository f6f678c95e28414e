"""Metrics of a batch: named ones, and functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['METRICS', 'BatchMetric', 'make_metric']

Outputs = Sequence[npt.NDArray[Any]]
Feed = Mapping[str, npt.NDArray[Any]]
BatchMetric = Callable[[Outputs, Feed], Any]


def _top(count: int, outputs: Outputs, labels: npt.NDArray[Any]) -> float:
    """Share of samples whose label is among the ``count`` largest scores; of equal scores the first class counts."""
    scores = np.asarray(outputs[0])
    if scores.ndim != 2 or len(scores) != labels.size:
        raise DataError(
            f'top{count} needs scores of shape [N, classes] as the first fetch, and N labels; '
            f'got {list(scores.shape)} and {list(labels.shape)}'
        )
    best = np.argsort(-scores, axis=1, kind='stable')[:, :count]
    return float((best == labels.reshape(-1, 1)).any(axis=1).mean())


def _mean(outputs: Outputs, _labels: object) -> float:
    return float(np.asarray(outputs[0], dtype=np.float64).mean())


# name -> (needs labels, function of outputs and labels)
METRICS: Mapping[str, tuple[bool, Callable[[Outputs, Any], float]]] = MappingProxyType(
    {
        'mean': (False, _mean),
        'top1': (True, lambda outputs, labels: _top(1, outputs, labels)),
        'top5': (True, lambda outputs, labels: _top(5, outputs, labels)),
    }
)


def make_metric(metric: str | BatchMetric, label: str | None, names: Sequence[str]) -> BatchMetric:
    """Return a function of outputs and feed.

    Args:
        metric: a name of :data:`METRICS`, or the function itself.
        label: name of the feed with the labels, for metrics that need them; ``'label'`` where None.
        names: names of the feeds.

    Raises:
        ConfigError: an unknown name, or no feed with the labels.
    """
    if callable(metric):
        return metric
    if metric not in METRICS:
        raise ConfigError(f'unknown metric {metric!r}; known: {", ".join(METRICS)}, or pass a function')
    needs_labels, function = METRICS[metric]
    key = label or 'label'
    if needs_labels and key not in names:
        raise ConfigError(
            f'metric {metric!r} needs labels: no feed is called {key!r}; pass label= (feeds: {list(names)})'
        )
    return lambda outputs, feed: function(outputs, feed.get(key))
