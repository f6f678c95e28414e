"""The weight of a loss over the course of training.

A schedule is a function of the step alone, so that a resumed run needs nothing but the step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Union

from paddleslim_ng.dist.losses_program import check_number
from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['Constant', 'Decay', 'StepDecay', 'Warmup', 'WeightSchedule', 'Window']


class WeightSchedule(ABC):
    """The weight of a loss at each training step."""

    @abstractmethod
    def weight_at(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""


Weight = Union[float, WeightSchedule]


@dataclass(frozen=True)
class Constant(WeightSchedule):
    """One weight for ever; unlike a plain number, it is kept where a controller can reach it.

    Attributes:
        weight: the weight.
    """

    weight: float

    def __post_init__(self) -> None:
        check_number('weight', self.weight, least=0.0)

    def weight_at(self, step: int) -> float:
        """Return the weight."""
        return float(self.weight)


# Each goes from 0 to 1 while its argument does; ``ratio`` is that of the last weight to the first.
_SHAPES: Final[Mapping[str, Callable[[float, float], float]]] = {
    'cosine': lambda passed, ratio: (1.0 - math.cos(math.pi * passed)) / 2.0,
    'exponential': lambda passed, ratio: passed if ratio == 1.0 else (1.0 - ratio**passed) / (1.0 - ratio),
    'linear': lambda passed, ratio: passed,
}


@dataclass(frozen=True)
class Decay(WeightSchedule):
    """From one weight to another, which holds from then on.

    Attributes:
        weight: at step 0.
        steps: how many it takes.
        final: from step ``steps`` on.
        shape: ``'linear'``; ``'cosine'``, half a wave (Loshchilov and Hutter, 2017); or ``'exponential'``, the same
            factor at each step, for which both weights must be positive.
    """

    weight: float
    steps: int
    final: float = 0.0
    shape: str = 'cosine'

    def __post_init__(self) -> None:
        check_number('weight', self.weight, least=0.0)
        check_number('final', self.final, least=0.0)
        _check_count(self.steps, 'steps')
        if self.shape not in _SHAPES:
            raise ConfigError(
                f'unknown shape {self.shape!r}; known: {", ".join(_SHAPES)}{nearest_names(str(self.shape), _SHAPES)}'
            )
        if self.shape == 'exponential' and not (self.weight > 0 and self.final > 0):
            raise ConfigError(
                f'an exponential decay goes between positive weights, not from {self.weight!r} to {self.final!r}; '
                'give final= a small one'
            )

    def weight_at(self, step: int) -> float:
        """Return the weight at a step."""
        if step >= self.steps:
            return float(self.final)
        ratio = self.final / self.weight if self.weight else 1.0
        return self.weight + (self.final - self.weight) * _SHAPES[self.shape](step / self.steps, ratio)


@dataclass(frozen=True)
class StepDecay(WeightSchedule):
    """A weight that is multiplied by a factor at certain steps.

    Attributes:
        weight: at step 0.
        boundaries: the steps, or one number of steps after which it happens again and again.
        factor: what it is multiplied by.
    """

    weight: float
    boundaries: int | Sequence[int]
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_number('weight', self.weight, least=0.0)
        check_number('factor', self.factor, least=0.0)
        if isinstance(self.boundaries, int):
            _check_count(self.boundaries, 'boundaries')
            return
        given = tuple(self.boundaries)
        object.__setattr__(self, 'boundaries', given)  # a list would change with the caller's
        for boundary in given:
            _check_count(boundary, 'boundaries')
        if list(given) != sorted(set(given)):
            raise ConfigError(f'boundaries are steps in rising order, not {list(given)}')

    def weight_at(self, step: int) -> float:
        """Return the weight at a step."""
        if isinstance(self.boundaries, int):
            passed = step // self.boundaries
        else:
            passed = sum(boundary <= step for boundary in self.boundaries)
        return float(self.weight * self.factor**passed)


@dataclass(frozen=True)
class Warmup(WeightSchedule):
    """A linear rise (or fall) to the beginning of another schedule, which starts from its step 0 afterwards.

    Attributes:
        after: a schedule, or a weight.
        steps: how long the rise takes.
        initial: weight at step 0.
    """

    after: Weight
    steps: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'after', as_schedule(self.after, 'after'))
        _check_count(self.steps, 'steps')
        check_number('initial', self.initial, least=0.0)

    def weight_at(self, step: int) -> float:
        """Return the weight at a step."""
        after = as_schedule(self.after, 'after')
        if step >= self.steps:
            return after.weight_at(step - self.steps)
        return self.initial + (after.weight_at(0) - self.initial) * step / self.steps


@dataclass(frozen=True)
class Window(WeightSchedule):
    """A schedule between two steps, and nothing outside them.

    Attributes:
        inside: a schedule, which begins with its step 0 at ``start``, or a weight.
        start: first step at which it holds.
        stop: first step at which it no longer does; None: never.
    """

    inside: Weight
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'inside', as_schedule(self.inside, 'inside'))
        if self.start != 0:
            _check_count(self.start, 'start')
        if self.stop is not None:
            _check_count(self.stop, 'stop')
            if self.stop <= self.start:
                raise ConfigError(f'stop={self.stop} must come after start={self.start}')

    def weight_at(self, step: int) -> float:
        """Return the weight at a step."""
        if step < self.start or (self.stop is not None and step >= self.stop):
            return 0.0
        return as_schedule(self.inside, 'inside').weight_at(step - self.start)


def as_schedule(weight: Weight, name: str) -> WeightSchedule:
    """Return a schedule as it is, and a number as a constant one.

    Raises:
        ConfigError: it is neither, or no usable weight.
    """
    return weight if isinstance(weight, WeightSchedule) else Constant(check_number(name, weight, least=0.0))


def _check_count(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f'{name} is a number of steps, at least 1, not {value!r}')
