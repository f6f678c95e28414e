"""Which weights leave: exactly k of the least, ties included, without sorting all of them.

A sample brackets the k-th least score; one pass counts what lies below the bracket and collects what lies inside, and
only that is ordered (Floyd and Rivest, SELECT, 1975). Should the sample mislead, everything is ordered: the result is
exact either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ['CHUNK', 'Cut', 'Part', 'Scores', 'count_of', 'select']

Floats = npt.NDArray[Any]
CHUNK = 1 << 16
_SAMPLES = 1 << 16
_DEVIATIONS = 5.0


class Cut(NamedTuple):
    """What is dropped: all scores below a value, and the first few that equal it.

    Attributes:
        value: the bound.
        ties: how many of those that equal it, in the order of the scores.
    """

    value: float
    ties: int = 0


class Scores(Protocol):
    """Scores that are made piece by piece, because keeping all of them would cost as much memory as the weights."""

    def chunks(self) -> Iterator[Floats]:
        """Yield the scores in order, in pieces that may share one buffer."""

    def sample(self, stride: int) -> Floats:
        """Return every ``stride``-th score."""

    def __len__(self) -> int:
        """Return how many there are."""


class Part(NamedTuple):
    """Scores of one parameter.

    Attributes:
        scores: one per weight or block.
        sizes: weights behind each score, or one number where all have as many.
    """

    scores: Scores
    sizes: npt.NDArray[np.int64] | int = 1

    def total(self) -> int:
        """Return the number of weights behind all scores."""
        return int(self.sizes.sum()) if isinstance(self.sizes, np.ndarray) else self.sizes * len(self.scores)


def count_of(ratio: float, total: int) -> int:
    """Return how many of ``total`` weights a ratio means: the nearest whole number."""
    return min(total, max(0, round(ratio * total)))


def select(parts: Sequence[Part], count: int) -> Cut:
    """Find the cut that drops ``count`` weights.

    Args:
        parts: scores of all parameters that are ranked together.
        count: weights to drop. Where a score stands for several weights, the nearest number that is possible.

    Returns:
        The cut; equal scores go in the order of the parts.
    """
    if count <= 0 or not parts:
        return Cut(0.0)
    for low, high in (_bracket(parts, count), (-np.inf, np.inf)):
        below, scores, sizes = _gather(parts, low, high)
        inside = int(sizes.sum()) if isinstance(sizes, np.ndarray) else sizes * len(scores)
        if below <= count <= below + inside and len(scores):
            return _cut_inside(scores, sizes, count - below, low)
    return Cut(np.inf)


def _bracket(parts: Sequence[Part], count: int) -> tuple[float, float]:
    """Return bounds between which the last score to drop very likely lies."""
    entries = sum(len(part.scores) for part in parts)
    stride = max(1, entries // _SAMPLES)
    if stride == 1:
        return -np.inf, np.inf
    drawn = [(part.scores.sample(stride), part.sizes) for part in parts]
    scores = np.concatenate([found for found, _ in drawn])
    weights = np.concatenate(
        [
            sizes[::stride][: len(found)].astype(np.float64)
            if isinstance(sizes, np.ndarray)
            else np.full(len(found), sizes, np.float64)
            for found, sizes in drawn
        ]
    )
    order = np.argsort(scores, kind='stable')
    reached = np.cumsum(weights[order])
    share = count / sum(part.total() for part in parts)
    place = int(np.searchsorted(reached, share * reached[-1]))
    uneven = float(weights.max() / weights.mean())
    slack = int(_DEVIATIONS * uneven * np.sqrt(len(scores) * max(share * (1 - share), 1e-6))) + 16
    low = float(scores[order[place - slack]]) if place - slack >= 0 else -np.inf
    high = float(scores[order[place + slack]]) if place + slack < len(scores) else np.inf
    return low, high


def _gather(parts: Sequence[Part], low: float, high: float) -> tuple[int, Floats, npt.NDArray[np.int64] | int]:
    """Return the number of weights below a bracket, and the scores inside with their sizes."""
    even = all(not isinstance(part.sizes, np.ndarray) and part.sizes == parts[0].sizes for part in parts)
    below, scores, sizes = 0, [], []
    for part in parts:
        start = 0
        for chunk in part.scores.chunks():
            own = part.sizes[start : start + len(chunk)] if isinstance(part.sizes, np.ndarray) else part.sizes
            start += len(chunk)
            under = chunk < low
            inside = chunk <= high
            inside &= ~under
            below += int(own[under].sum()) if isinstance(own, np.ndarray) else own * int(np.count_nonzero(under))
            found = chunk[inside]
            scores.append(found)
            if not even:
                sizes.append(own[inside] if isinstance(own, np.ndarray) else np.full(len(found), own, np.int64))
    held = np.concatenate(scores) if scores else np.zeros(0)
    return below, held, np.concatenate(sizes) if sizes else int(parts[0].sizes if even else 0)


def _cut_inside(scores: Floats, sizes: npt.NDArray[np.int64] | int, count: int, low: float) -> Cut:
    """Find the cut among the scores inside the bracket, of whose weights ``count`` leave."""
    if isinstance(sizes, np.ndarray):
        order = np.argsort(scores, kind='stable')
        reached = np.concatenate([[0], np.cumsum(sizes[order])])
        number = int(np.argmin(np.abs(reached - count)))
    else:
        number = round(count / sizes)
    if number == 0:
        return Cut(max(low, 0.0))
    value = np.partition(scores, number - 1)[number - 1]
    return Cut(float(value), number - int(np.count_nonzero(scores < value)))
