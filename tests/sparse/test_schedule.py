"""Schedules equal their formulas."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse import Constant, CubicSteps, OneShot, Polynomial

CONFIGS = {
    'stable_iterations': 0,
    'pruning_iterations': 44,
    'tunning_iterations': 22,
    'resume_iteration': 0,
    'pruning_steps': 4,
    'initial_ratio': 0.15,
}


def gmp_list(stable: int, pruning: int, tuning: int, steps: int, initial: float, target: float) -> list[float]:
    """The ratio of every iteration, by building the list of PaddleSlim's documentation."""
    ratios = [0.0] * int(stable / pruning * steps)
    ratios += [((i / steps - 1) ** 3 + 1) * (target - initial) + initial for i in range(steps)]
    ratios += [target] * int(tuning / pruning * steps)
    return [ratio for ratio in ratios for _ in range(pruning // steps)]


@given(st.integers(0, 200), st.integers(1, 8), st.integers(0, 100), st.floats(0, 0.5), st.floats(0.5, 1), st.data())
def test_cubic_steps(stable: int, steps: int, tuning: int, initial: float, target: float, data: Any) -> None:
    pruning = data.draw(st.integers(10 * steps + 1, 300))
    schedule = CubicSteps(stable, pruning, tuning, steps, initial)
    expected = gmp_list(stable, pruning, tuning, steps, initial, target)
    assert [schedule.ratio_at(step, target) for step in range(len(expected))] == expected
    assert schedule.ratio_at(len(expected) + 1000, target) == target


def test_cubic_steps_by_hand() -> None:
    schedule = CubicSteps.from_configs(CONFIGS)
    rows = [schedule.ratio_at(step, 0.75) for step in (0, 10, 11, 22, 33, 43, 44, 500)]
    assert rows == pytest.approx([0.15, 0.15, 0.496875, 0.675, 0.740625, 0.740625, 0.75, 0.75], abs=1e-12)
    assert schedule.total_iterations == 66


def test_configs_are_checked() -> None:
    renamed = {('tuning_iterations' if key == 'tunning_iterations' else key): value for key, value in CONFIGS.items()}
    assert CubicSteps.from_configs(renamed) == CubicSteps.from_configs(CONFIGS)
    for change, message in (
        ({'tuning_iterations': 1}, 'not both'),
        ({'pruning_step': 1}, "unknown key 'pruning_step'.*did you mean 'pruning_steps'"),
        ({'pruning_steps': 5}, 'more than ten times'),
        ({'pruning_steps': 0}, 'at least 1'),
        ({'initial_ratio': 1.5}, 'between 0 and 1'),
        ({'stable_iterations': -1}, 'number of iterations'),
    ):
        with pytest.raises(ConfigError, match=message):
            CubicSteps.from_configs({**CONFIGS, **change})
    with pytest.raises(ConfigError, match=r"lacks \['pruning_steps'\]"):
        CubicSteps.from_configs({key: value for key, value in CONFIGS.items() if key != 'pruning_steps'})


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.5, 4), st.integers(1, 20), st.floats(0, 1))
def test_polynomial(begin: int, length: int, exponent: float, interval: int, target: float) -> None:
    schedule = Polynomial(begin, begin + length, exponent, interval)
    last = 0.0
    for step in range(begin + length + 5):
        ratio = schedule.ratio_at(step, target)
        assert last - 1e-12 <= ratio <= target
        last = ratio
        if schedule.renews_at(step):
            share = min(1.0, max(0.0, (step - begin) / length))
            assert ratio == pytest.approx(target * (1 - (1 - share) ** exponent), abs=1e-12)
    assert last == target
    assert [s for s in range(begin + length + 5) if schedule.renews_at(s)] == [
        *range(begin, begin + length, interval),
        begin + length,
    ]


def test_the_others() -> None:
    assert [OneShot(2).ratio_at(step, 0.5) for step in range(4)] == [0, 0, 0.5, 0.5]
    assert Constant().ratio_at(0, 0.5) == 0.5 and not Constant().renews_at(0)
    assert [Constant(3).renews_at(step) for step in range(5)] == [True, False, False, True, False]
    assert Polynomial.of_training(1000) == Polynomial(100, 500, 3.0, 500)
    for make in (
        lambda: Polynomial(5, 5),
        lambda: Polynomial(0, 5, 0),
        lambda: Polynomial(0, 5, 3, 0),
        lambda: OneShot(-1),
    ):
        with pytest.raises(ConfigError):
            make()
