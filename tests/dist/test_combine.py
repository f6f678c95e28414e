"""Sums of losses with weights: values, gradients and updates against numpy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, has_array, load_array
from paddleslim_ng.core.teachers import distillation_of
from paddleslim_ng.dist.combine import WeightController, combine
from paddleslim_ng.dist.schedule import Constant, Decay, Warmup, WeightSchedule
from paddleslim_ng.errors import CheckpointError, ConfigError, GraphError
from tests.conftest import Fresh

X = np.array([[1.0, 2.0], [3.0, -1.0]], 'float32')
START = np.array([[0.5], [-0.25]], 'float32')


def losses() -> tuple[Any, Any]:
    """Build ``mean(x w)`` and ``mean((x w) ** 2)``."""
    x = paddle.static.data('x', [-1, 2], 'float32')
    attr = paddle.ParamAttr(name='w', initializer=paddle.nn.initializer.Assign(START))
    y = paddle.nn.Linear(2, 1, weight_attr=attr, bias_attr=False)(x)
    return paddle.mean(y), paddle.mean(y * y)


def gradients(w: Any) -> tuple[Any, Any]:
    return X.mean(0, keepdims=True).T, X.T @ (X @ w)  # mean over two samples


def content(program: Any) -> list[str]:
    return [repr(op) for op in GraphWrapper(program).ops()]


def test_values_and_updates_follow_the_schedules(fresh: Fresh) -> None:
    first, second = losses()
    schedules = (Warmup(2.0, 3, 0.5), Decay(1.0, 4, shape='linear'))
    total, weights = combine([(first, schedules[0]), (second, schedules[1])])
    paddle.optimizer.SGD(0.1).minimize(total)
    fresh.exe.run(fresh.startup)
    exe, w = Executor(), START.astype('float64')
    for step in range(6):
        a, b = (schedule.weight_at(step) for schedule in schedules)
        y = X @ w
        found = exe.run(fresh.main, {'x': X}, [total, first, second])
        assert np.allclose(found[0], a * y.mean() + b * (y * y).mean(), atol=1e-6)
        grads = gradients(w)
        w = w - 0.1 * (a * grads[0] + b * grads[1])
        assert np.allclose(load_array(fresh.scope, 'w'), w, atol=1e-6)
        weights.step()
        assert weights.weights == {
            'loss_weight_0': schedules[0].weight_at(step + 1),
            'loss_weight_1': schedules[1].weight_at(step + 1),
        }


def test_numbers_are_part_of_the_program(fresh: Fresh) -> None:
    first, second = losses()
    total, weights = combine([(first, 3), (GraphWrapper(fresh.main).var(second), 1.0)])
    fresh.exe.run(fresh.startup)
    (found,) = Executor().run(fresh.main, {'x': X}, [total])
    y = X @ START
    assert np.allclose(found, 3 * y.mean() + (y * y).mean(), atol=1e-6)
    assert weights.schedules == {}
    weights.step()
    assert not any(var.name().startswith('loss_weight') for var in GraphWrapper(fresh.main).vars())


def test_scalars_of_both_ranks_add_up(fresh: Fresh) -> None:
    first, second = losses()
    shaped = paddle.reshape(second, [1])
    total, _ = combine([(first, 1.0), (shaped, Constant(2.0))])
    assert tuple(total.shape) == tuple(first.shape)
    paddle.optimizer.SGD(0.1).minimize(total)
    fresh.exe.run(fresh.startup)
    Executor().run(fresh.main, {'x': X}, [total])
    grads = gradients(START)
    assert np.allclose(load_array(fresh.scope, 'w'), START - 0.1 * (grads[0] + 2 * grads[1]), atol=1e-6)


def test_weights_are_state_and_no_parameters(fresh: Fresh) -> None:
    first, second = losses()
    total, _ = combine([(first, Constant(1.0)), (second, Constant(1.0))])
    before = [var.name() for var in GraphWrapper(fresh.main).all_parameters()]
    paddle.optimizer.Adam(0.1).minimize(total)
    graph = GraphWrapper(fresh.main)
    assert [var.name() for var in graph.all_parameters()] == before == ['w']
    assert graph.var('loss_weight_0').persistable()
    marked = [op.type() for op in graph.ops() if distillation_of(op) == 'combine' and not op.is_bwd_op()]
    assert marked == ['elementwise_mul', 'elementwise_mul', 'sum']
    assert not any('loss_weight' in var.name() and 'GRAD' in var.name() for var in graph.vars())
    fresh.exe.run(fresh.startup)
    assert load_array(fresh.scope, 'loss_weight_0') == 1.0


def test_two_sums_in_one_program_and_two_programs_with_one_startup(fresh: Fresh) -> None:
    first, second = losses()
    inner, one = combine([(first, Constant(1.0)), (second, 1.0)])
    _, two = combine([(inner, Constant(5.0))])
    other = paddle.static.Program()
    with paddle.static.program_guard(other, fresh.startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 2], 'float32')
        _, three = combine([(paddle.mean(x), Constant(7.0))])
    names = [name for controller in (one, two, three) for name in controller.weights]
    assert names == ['loss_weight_0', 'loss_weight_1', 'loss_weight_2']
    fresh.exe.run(fresh.startup)
    assert [float(load_array(fresh.scope, name)) for name in names] == [1.0, 5.0, 7.0]


def test_state_resumes_exactly(fresh: Fresh) -> None:
    first, second = losses()
    terms = [(first, Warmup(2.0, 5)), (second, 1.0)]
    total, weights = combine(terms)
    fresh.exe.run(fresh.startup)
    for _ in range(3):
        weights.step()
    state = json.loads(json.dumps(weights.state_dict()))
    scope = paddle.static.Scope()
    resumed = WeightController(weights.schedules, {'loss_weight_0': 'float32'}, {'loss_weight_0': tuple(total.shape)})
    resumed.load_state_dict(state, scope)
    assert resumed.iteration == 3
    assert np.array_equal(load_array(scope, 'loss_weight_0'), load_array(fresh.scope, 'loss_weight_0'))
    resumed.step(scope)
    assert np.allclose(load_array(scope, 'loss_weight_0'), 2.0 * 4 / 5)
    for wrong in ({}, {**state, 'weights': []}, {**state, 'iteration': -1}, {**state, 'format': 9}):
        with pytest.raises(CheckpointError):
            resumed.load_state_dict(wrong, scope)
    assert resumed.iteration == 4


def test_weights_reach_a_scope_that_no_startup_program_filled(fresh: Fresh) -> None:
    first, second = losses()
    fresh.exe.run(fresh.startup)
    total, weights = combine([(first, Constant(4.0)), (second, 1.0)])
    assert not has_array(fresh.scope, 'loss_weight_0')
    weights.apply(fresh.scope)
    y = X @ START
    assert np.allclose(Executor().run(fresh.main, {'x': X}, [total]), 4 * y.mean() + (y * y).mean(), atol=1e-6)


def test_checkpoints_of_paddle_hold_the_weights(fresh: Fresh, tmp_path: Path) -> None:
    total, weights = combine([(losses()[0], Warmup(2.0, 2, 0.5))])
    paddle.optimizer.SGD(0.1).minimize(total)
    fresh.exe.run(fresh.startup)
    weights.step()
    paddle.static.save(fresh.main, str(tmp_path / 'state'))
    fresh.exe.run(fresh.startup)
    assert load_array(fresh.scope, 'loss_weight_0') == 0.5
    paddle.static.load(fresh.main, str(tmp_path / 'state'), fresh.exe)
    assert load_array(fresh.scope, 'loss_weight_0') == 1.25


def test_schedule_of_ones_own_is_looked_at(fresh: Fresh) -> None:
    class Falling(WeightSchedule):
        def weight_at(self, step: int) -> float:
            return 1.0 - step

    _, weights = combine([(losses()[0], Falling())])
    weights.step(fresh.scope)
    with pytest.raises(ConfigError, match='at least 0'):
        weights.step(fresh.scope)
    assert (weights.iteration, load_array(fresh.scope, 'loss_weight_0')) == (1, 0.0)


def test_errors_leave_the_programs_alone(fresh: Fresh) -> None:
    first, second = losses()
    other = paddle.static.Program()
    with paddle.static.program_guard(other, paddle.static.Program()), paddle.utils.unique_name.guard():
        foreign = losses()[0]
    flag = paddle.cast(first, 'float64')
    before = content(fresh.main), content(fresh.startup)
    scheduled = Constant(1.0)
    for weight in (math.nan, -1.0, math.inf, 'x'):
        with pytest.raises(ConfigError, match='number'):
            combine([(first, scheduled), (second, weight)])
    for terms, error, words in (
        ([], ConfigError, 'no losses'),
        ([first], ConfigError, 'a pair'),
        ([(first, scheduled), (first, 1.0)], ConfigError, 'given twice'),
        ([(first, scheduled), (foreign, 1.0)], GraphError, 'another program'),
        ([(first, scheduled), ('reduce_maen', 1.0)], GraphError, 'no variable'),
        ([(first, scheduled), ('x', 1.0)], GraphError, 'no loss'),
        ([(first, scheduled), (flag, 1.0)], GraphError, 'float64'),
    ):
        with pytest.raises(error, match=words):
            combine(terms)  # type: ignore[arg-type]
    assert (content(fresh.main), content(fresh.startup)) == before
    copy = clone_program(fresh.main)
    name = GraphWrapper(fresh.main).name_of(first)
    combine([(name, 1.0)], copy)
    assert content(copy) != content(fresh.main)
