"""Weights of losses by step, against formulas and figures of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paddleslim_ng.dist.schedule import Constant, Decay, StepDecay, Warmup, WeightSchedule, Window
from paddleslim_ng.errors import ConfigError


def course(schedule: WeightSchedule, steps: int) -> list[float]:
    return [schedule.weight_at(step) for step in range(steps)]


def test_linear_cosine_and_exponential_decay() -> None:
    steps = np.arange(12)
    passed = np.minimum(steps / 10, 1)
    assert np.allclose(course(Decay(2.0, 10, 0.5, 'linear'), 12), np.interp(steps, [0, 10], [2.0, 0.5]))
    assert np.allclose(course(Decay(2.0, 10, 0.5), 12), 0.5 + 0.75 * (1 + np.cos(math.pi * passed)))
    assert np.allclose(
        course(Decay(2.0, 10, 0.5, 'exponential'), 12), np.geomspace(2.0, 0.5, 11)[np.minimum(steps, 10)]
    )


@pytest.mark.parametrize('shape', ['linear', 'cosine', 'exponential'])
def test_decay_may_rise_or_stay(shape: str) -> None:
    rising = course(Decay(0.5, 8, 4.0, shape), 10)
    assert rising[0] == 0.5
    assert rising[8:] == [4.0, 4.0]
    assert rising == sorted(rising)
    assert course(Decay(3.0, 4, 3.0, shape), 6) == [3.0] * 6


def test_step_decay() -> None:
    assert np.allclose(course(StepDecay(1.0, 3, 0.5), 7), [1, 1, 1, 0.5, 0.5, 0.5, 0.25])
    assert np.allclose(course(StepDecay(1.0, [2, 3]), 5), [1, 1, 0.1, 0.01, 0.01])


def test_warmup_ends_in_what_comes_after_it() -> None:
    assert course(Warmup(4.0, 4), 6) == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert course(Warmup(StepDecay(4.0, 2, 0.5), 2, 2.0), 7) == [2.0, 3.0, 4.0, 4.0, 2.0, 2.0, 1.0]


def test_window() -> None:
    assert course(Window(Decay(2.0, 2, 0.0, 'linear'), 2, 5), 7) == [0, 0, 2.0, 1.0, 0, 0, 0]
    assert course(Window(3, start=2), 4) == [0, 0, 3.0, 3.0]
    assert course(Window(Constant(3), stop=2), 4) == [3.0, 3.0, 0, 0]


def test_boundaries_do_not_change_behind_the_schedule() -> None:
    boundaries = [2]
    schedule = StepDecay(1.0, boundaries)
    boundaries.append(3)
    assert schedule == StepDecay(1.0, (2,))


@pytest.mark.parametrize('weight', [math.nan, math.inf, -0.1, True, '1', None])
def test_unusable_weights(weight: object) -> None:
    for make in (Constant, lambda w: Decay(w, 3), lambda w: Decay(1.0, 3, w), lambda w: StepDecay(w, 3)):
        with pytest.raises(ConfigError, match='number'):
            make(weight)  # type: ignore[arg-type]
    for wrapped in (lambda w: Warmup(w, 3), lambda w: Warmup(1.0, 3, w), Window):
        with pytest.raises(ConfigError, match='number'):
            wrapped(weight)  # type: ignore[arg-type]


def test_unusable_steps_and_shapes() -> None:
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match='number of steps'):
            Decay(1.0, steps)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        Decay(1.0, 3, shape='linaer')
    with pytest.raises(ConfigError, match='positive weights'):
        Decay(1.0, 3, shape='exponential')
    with pytest.raises(ConfigError, match='rising order'):
        StepDecay(1.0, [3, 2])
    with pytest.raises(ConfigError, match='must come after'):
        Window(1.0, 3, 3)
