"""Sparsity over the course of training: which ratio holds at which step, and when masks are made anew.

A schedule is a function of the step alone, so a resumed run needs nothing but the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['Constant', 'CubicSteps', 'OneShot', 'Polynomial', 'Schedule']


class Schedule(ABC):
    """A sparsity schedule."""

    @abstractmethod
    def ratio_at(self, step: int, target: float) -> float:
        """Return the ratio that holds from the ``step``-th call of the pruner on (counted from 0).

        Args:
            step: number of training steps done before this one.
            target: ratio that is to be reached.
        """

    def renews_at(self, step: int) -> bool:
        """Tell whether masks are made anew at this step even where the ratio stays: where weights may come back."""
        return False


@dataclass(frozen=True)
class Constant(Schedule):
    """The target from the first step on.

    Attributes:
        interval: steps between two renewals of masks in which weights may come back; never where 0.
    """

    interval: int = 0

    def __post_init__(self) -> None:
        _check(self.interval >= 0, f'interval is a number of steps, not {self.interval!r}')

    def ratio_at(self, step: int, target: float) -> float:
        """Return the ratio that holds at a step."""
        return target

    def renews_at(self, step: int) -> bool:
        """Tell whether masks are made anew at a step."""
        return self.interval > 0 and step % self.interval == 0


@dataclass(frozen=True)
class OneShot(Schedule):
    """Nothing before a step, the target from it on.

    Attributes:
        at: that step.
    """

    at: int = 0

    def __post_init__(self) -> None:
        _check(self.at >= 0, f'at is a step, not {self.at!r}')

    def ratio_at(self, step: int, target: float) -> float:
        """Return the ratio that holds at a step."""
        return target if step >= self.at else 0.0


@dataclass(frozen=True)
class CubicSteps(Schedule):
    """Gradual magnitude pruning (Zhu and Gupta, 2017) in steps, with PaddleSlim's phases.

    Nothing is pruned in the stable phase. In the pruning phase, the i-th of S steps holds the ratio
    ``initial + (target - initial) * (1 + (i / S - 1) ** 3)``; in the tuning phase and afterwards, the target holds.

    Attributes:
        stable_iterations: length of the stable phase.
        pruning_iterations: length of the pruning phase.
        tuning_iterations: length of the tuning phase, for callers that plan their training by it.
        pruning_steps: S; the pruning phase must last more than ten times as many iterations.
        initial_ratio: ratio of the first step.
    """

    stable_iterations: int
    pruning_iterations: int
    tuning_iterations: int
    pruning_steps: int
    initial_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ('stable_iterations', 'pruning_iterations', 'tuning_iterations', 'pruning_steps'):
            value = getattr(self, name)
            _check(isinstance(value, int) and value >= 0, f'{name} is a number of iterations, not {value!r}')
        _check(self.pruning_steps > 0, 'pruning_steps must be at least 1')
        _check(0 <= self.initial_ratio < 1, f'initial_ratio lies between 0 and 1, not {self.initial_ratio!r}')
        _check(
            self.pruning_iterations > 10 * self.pruning_steps,
            f'pruning_iterations ({self.pruning_iterations}) must be more than ten times pruning_steps '
            f'({self.pruning_steps}), or the network has no time to recover between two steps',
        )

    @classmethod
    def from_configs(cls, configs: Mapping[str, Any]) -> CubicSteps:
        """Read PaddleSlim's six keys; ``resume_iteration`` is the pruner's and ignored here.

        Args:
            configs: ``stable_iterations``, ``pruning_iterations``, ``tunning_iterations`` (or ``tuning_iterations``),
                ``pruning_steps``, ``initial_ratio``, ``resume_iteration``.

        Raises:
            ConfigError: a key is unknown, missing or given in both spellings, or a value is unusable.
        """
        given = dict(configs)
        if 'tunning_iterations' in given:
            _check('tuning_iterations' not in given, 'give tuning_iterations or tunning_iterations, not both')
            given['tuning_iterations'] = given.pop('tunning_iterations')
        given.pop('resume_iteration', None)
        known = list(cls.__dataclass_fields__)
        for key in given:
            _check(key in known, f'unknown key {key!r}; known: {", ".join(known)}{nearest_names(key, known)}')
        missing = [key for key in known if key not in given]
        _check(not missing, f'configs lacks {missing}')
        return cls(**given)

    @property
    def period(self) -> int:
        """Iterations for which one ratio holds."""
        return self.pruning_iterations // self.pruning_steps

    @property
    def stable_steps(self) -> int:
        """Periods of the stable phase."""
        return int(self.stable_iterations / self.pruning_iterations * self.pruning_steps)

    @property
    def total_iterations(self) -> int:
        """Length of the three phases together."""
        return self.stable_iterations + self.pruning_iterations + self.tuning_iterations

    def ratio_at(self, step: int, target: float) -> float:
        """Return the ratio that holds at a step."""
        place = step // self.period - self.stable_steps
        if place < 0:
            return 0.0
        if place >= self.pruning_steps:
            return target
        risen = (place / self.pruning_steps - 1.0) ** 3 + 1
        return risen * (target - self.initial_ratio) + self.initial_ratio


@dataclass(frozen=True)
class Polynomial(Schedule):
    """PocketFlow's dynamic sparsity: ``target * (1 - (1 - (t - begin) / (end - begin)) ** exponent)``.

    The ratio is renewed every ``interval`` steps from ``begin``, and a last time at ``end``; in between it holds.

    Attributes:
        begin: step up to which nothing is pruned.
        end: step from which the target holds.
        exponent: 1 rises evenly, 3 fast at first.
        interval: steps between two renewals.
    """

    begin: int
    end: int
    exponent: float = 3.0
    interval: int = 500

    def __post_init__(self) -> None:
        _check(0 <= self.begin < self.end, f'need 0 <= begin < end, not {self.begin!r} and {self.end!r}')
        _check(self.exponent > 0, f'exponent must be positive, not {self.exponent!r}')
        _check(self.interval > 0, f'interval is a number of steps, not {self.interval!r}')

    @classmethod
    def of_training(
        cls, iterations: int, begin: float = 0.1, end: float = 0.5, exponent: float = 3.0, interval: int = 500
    ) -> Polynomial:
        """Place begin and end at shares of a training of so many iterations, PocketFlow's way and defaults."""
        return cls(int(begin * iterations), int(end * iterations), exponent, interval)

    def ratio_at(self, step: int, target: float) -> float:
        """Return the ratio that holds at a step."""
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return target
        renewed = self.begin + (step - self.begin) // self.interval * self.interval
        passed = (renewed - self.begin) / (self.end - self.begin)
        return float(target * (1.0 - (1.0 - passed) ** self.exponent))

    def renews_at(self, step: int) -> bool:
        """Tell whether masks are made anew at a step."""
        return step == self.end or (self.begin <= step < self.end and (step - self.begin) % self.interval == 0)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
