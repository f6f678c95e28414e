"""What cases, workers and the report share: who is measured, how, and what is to be reached."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar('T')

PADDLESLIM, PADDLE26, LEGACY, PIR = 'paddleslim', 'paddle26', 'legacy', 'pir'
OURS = (PADDLE26, LEGACY, PIR)


@dataclass(frozen=True)
class Side:
    """One of the parties: an environment and what is called in it.

    Attributes:
        key: short name.
        title: column heading.
        venv: directory of its virtual environment, relative to the repository.
        pir: whether programs are built on PIR.
    """

    key: str
    title: str
    venv: str
    pir: bool = False


SIDES = (
    Side(PADDLESLIM, 'PaddleSlim', '.venv-paddleslim'),
    Side(PADDLE26, 'Paddle 2.6.2', '.venv-paddle26'),
    Side(LEGACY, 'Paddle 3.3.1, legacy', '.venv'),
    Side(PIR, 'Paddle 3.3.1, PIR', '.venv', pir=True),
)


@dataclass
class Outcome:
    """What one side measured.

    Attributes:
        samples: CPU seconds (or another number) of each repetition, by metric.
        facts: other findings; those of the last round count.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, metric: str, value: float) -> None:
        self.samples.setdefault(metric, []).append(value)

    def merge(self, other: Outcome) -> None:
        for metric, values in other.samples.items():
            self.samples.setdefault(metric, []).extend(values)
        self.facts.update(other.facts)

    def median(self, metric: str) -> float | None:
        values = self.samples.get(metric)
        return statistics.median(values) if values else None


Results = Mapping[str, Outcome]


@dataclass(frozen=True)
class Metric:
    """A row of a case's table.

    Attributes:
        key: as in :class:`Outcome`.
        title: row heading.
        unit: of what is shown.
        scale: from the measured number to the unit.
        compare: show how many times PaddleSlim's figure is as large.
    """

    key: str
    title: str
    unit: str = 's'
    scale: float = 1.0
    compare: bool = True


@dataclass(frozen=True)
class Target:
    """Something to reach.

    Attributes:
        what: in words.
        sides: who has to.
        measure: the figure, or None where it was not measured.
        limit: what it is compared with.
        unit: of both.
        at_least: the figure must not be below the limit, rather than not above.
    """

    what: str
    sides: tuple[str, ...]
    measure: Callable[[Results, str], float | None]
    limit: float
    unit: str
    at_least: bool = False

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Case:
    """One benchmark.

    Attributes:
        key: name on the command line.
        title: heading in the report.
        text: what is measured, in one paragraph.
        measure: ``measure(side, quick)`` runs in the side's environment.
        metrics: rows of the table.
        targets: what is to be reached.
        rounds: how often all sides take turns.
        notes: sentences about the results, for the report.
    """

    key: str
    title: str
    text: str
    measure: Callable[[str, bool], Outcome]
    metrics: Sequence[Metric]
    targets: Sequence[Target]
    rounds: int = 3
    notes: Callable[[Results], list[str]] = lambda results: []


def median_of(metric: str, scale: float = 1.0) -> Callable[[Results, str], float | None]:
    """Return a target's figure: the median of one metric."""

    def measure(results: Results, side: str) -> float | None:
        value = results[side].median(metric) if side in results else None
        return None if value is None else value * scale

    return measure


def ratio_of(results: Results, metric: str, side: str) -> float | None:
    """Return how many times as long PaddleSlim took."""
    if side not in results or PADDLESLIM not in results:
        return None
    ours, theirs = results[side].median(metric), results[PADDLESLIM].median(metric)
    return None if ours is None or theirs is None or not ours else theirs / ours


def cpu_seconds(work: Callable[[], T]) -> tuple[float, T]:
    """Run ``work`` and return the CPU seconds that this process and finished children spent on it, and its result.

    Objects that were there before are kept out of Python's garbage collections, which would otherwise add a walk over
    all of Paddle to one measurement in a few.
    """
    gc.collect()
    gc.freeze()
    try:
        start = _spent()
        result = work()
        return _spent() - start, result
    finally:
        gc.unfreeze()


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
