"""Frozen batch norm is a fixed affine function with numpy's gradient, and its statistics stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array
from paddleslim_ng.core.gradients import gradient_of
from paddleslim_ng.errors import CheckpointError, ConfigError, GraphError, UnsupportedOpError
from paddleslim_ng.quant.batch_norm_freezing import BatchNormFreezing, freeze_batch_norm
from tests.conftest import Fresh
from tests.core.support import refusals_skip

EPSILON = 1e-5
RATE = 0.1


def batch(seed: int) -> dict[str, Any]:
    return {'x': np.random.default_rng(seed).normal(0.5, 2.0, size=[8, 3, 4, 4]).astype('float32')}


def build(fresh: Fresh, *, minimize: bool = True, layer: Any = None) -> Any:
    """Build ``mean(batch_norm(conv(x)) ** 2)`` with SGD, from fixed parameters."""
    x = paddle.static.data('x', [None, 3, 4, 4])
    weight = np.random.default_rng(9).normal(size=[3, 3, 1, 1]).astype('float32')
    attr = paddle.ParamAttr(name='w', initializer=paddle.nn.initializer.Assign(weight))
    conv = paddle.nn.Conv2D(3, 3, 1, bias_attr=False, weight_attr=attr)
    norm = (layer or paddle.nn.BatchNorm2D)(
        3,
        weight_attr=paddle.ParamAttr(name='scale', initializer=paddle.nn.initializer.Constant(1.5)),
        bias_attr=paddle.ParamAttr(name='shift', initializer=paddle.nn.initializer.Constant(0.25)),
    )
    y = norm(conv(x))
    loss = (y**2).mean()
    if minimize:
        paddle.optimizer.SGD(RATE).minimize(loss)
    return loss


def statistics(fresh: Fresh) -> tuple[Any, Any]:
    op = next(op for op in GraphWrapper(fresh.main).ops() if op.type() == 'batch_norm')
    mean, variance = op.inputs('Mean')[0], op.inputs('Variance')[0]
    return load_array(fresh.scope, mean.name()), load_array(fresh.scope, variance.name())


def affine(fresh: Fresh, x: Any) -> tuple[float, dict[str, Any]]:
    """Return the loss and the gradients that numpy gives for the fixed affine transform, in double precision."""
    w, scale, shift = (load_array(fresh.scope, name).astype('float64') for name in ('w', 'scale', 'shift'))
    mean, variance = (array.astype('float64')[:, None, None] for array in statistics(fresh))
    normal = (np.einsum('oc,nchw->nohw', w[:, :, 0, 0], x) - mean) / np.sqrt(variance + EPSILON)
    y = normal * scale[:, None, None] + shift[:, None, None]
    dy = 2 * y / y.size
    dh = dy * scale[:, None, None] / np.sqrt(variance + EPSILON)
    grads = {
        'w': np.einsum('nohw,nchw->oc', dh, x)[:, :, None, None],
        'scale': (dy * normal).sum((0, 2, 3)),
        'shift': dy.sum((0, 2, 3)),
    }
    return float((y**2).mean()), grads


@pytest.mark.parametrize('executor', ['paddle', 'slim'])
@pytest.mark.parametrize('order', ['before', 'after'])
def test_frozen_batch_norm_is_a_fixed_affine_function(fresh: Fresh, executor: str, order: str) -> None:
    loss = build(fresh, minimize=False)
    if order == 'before':
        assert freeze_batch_norm(fresh.main) == [GraphWrapper(fresh.main).var('batch_norm_0.tmp_2').name()]
    paddle.optimizer.SGD(RATE).minimize(loss)
    exe: Any = fresh.exe if executor == 'paddle' else Executor()
    fresh.exe.run(fresh.startup)
    if order == 'after':
        first = statistics(fresh)[0]
        for seed in range(3):
            exe.run(fresh.main, feed=batch(seed), fetch_list=[loss])
        assert not np.array_equal(first, statistics(fresh)[0])
        assert len(freeze_batch_norm(fresh.main)) == 1
    for seed in range(3, 5):
        before = {name: load_array(fresh.scope, name) for name in ('w', 'scale', 'shift')}
        kept = statistics(fresh)
        wanted, grads = affine(fresh, batch(seed)['x'])
        (found,) = exe.run(fresh.main, feed=batch(seed), fetch_list=[loss])
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        for name, grad in grads.items():
            moved = before[name] - load_array(fresh.scope, name)
            np.testing.assert_allclose(moved, RATE * grad, rtol=1e-4, atol=1e-6)
        for old, new in zip(kept, statistics(fresh)):
            np.testing.assert_array_equal(old, new)
    assert freeze_batch_norm(fresh.main) == []


def test_gradient_operators_stay_connected(fresh: Fresh) -> None:
    build(fresh)
    freeze_batch_norm(fresh.main)
    graph = GraphWrapper(fresh.main)
    grad = gradient_of(graph, graph.var('w'))
    fresh.exe.run(fresh.startup)
    assert grad is not None
    (found,) = fresh.exe.run(fresh.main, feed=batch(0), fetch_list=[grad.raw])
    np.testing.assert_allclose(found, affine_gradient_at_start(batch(0)['x']), rtol=1e-4, atol=1e-6)


def affine_gradient_at_start(x: Any) -> Any:
    """Return the gradient of the weight while mean is 0 and variance 1."""
    w = np.random.default_rng(9).normal(size=[3, 3, 1, 1]).astype('float32').astype('float64')
    factor = 1.5 / np.sqrt(1 + EPSILON)
    y = np.einsum('oc,nchw->nohw', w[:, :, 0, 0], x) * factor + 0.25
    return np.einsum('nohw,nchw->oc', 2 * y / y.size * factor, x)[:, :, None, None]


def test_batch_norms_in_test_mode_are_left_alone(fresh: Fresh) -> None:
    build(fresh)
    test = clone_program(fresh.main, for_test=True)
    before = str(test)
    assert freeze_batch_norm(test) == []
    assert str(test) == before


def test_a_synchronised_batch_norm_is_refused_and_nothing_changes(fresh: Fresh) -> None:
    build(fresh)
    graph = GraphWrapper(fresh.main)
    # Paddle for the CPU has no such kernel, and refuses to build the operator.
    next(op for op in graph.ops() if op.type() == 'batch_norm_grad')._type = 'sync_batch_norm_grad'
    before = str(fresh.main)
    with pytest.raises(UnsupportedOpError, match='sync_batch_norm_grad cannot use fixed statistics'):
        freeze_batch_norm(graph)
    assert str(fresh.main) == before


def test_batch_norm_within_control_flow_is_refused(fresh: Fresh) -> None:
    x = paddle.static.data('x', [None, 3, 4, 4])
    flag = paddle.static.data('flag', [1], 'bool')
    norm = paddle.nn.BatchNorm2D(3)
    with refusals_skip():
        paddle.static.nn.cond(flag, lambda: norm(x), lambda: x * 2.0)
    with pytest.raises(GraphError, match='batch_norm_? within control flow'):
        freeze_batch_norm(fresh.main)


def train(fresh: Fresh, loss: Any, freezing: BatchNormFreezing, seeds: range) -> None:
    for seed in seeds:
        fresh.exe.run(fresh.main, feed=batch(seed), fetch_list=[loss])
        freezing.step()


def test_freezing_waits_for_the_delay(fresh: Fresh) -> None:
    loss = build(fresh)
    fresh.exe.run(fresh.startup)
    freezing = BatchNormFreezing(fresh.main, 2)
    for seed, moves in enumerate((True, True, False, False)):
        before = statistics(fresh)[0]
        assert freezing.frozen is not moves
        fresh.exe.run(fresh.main, feed=batch(seed), fetch_list=[loss])
        assert freezing.step() is (seed == 1)
        assert np.array_equal(before, statistics(fresh)[0]) is not moves


@pytest.mark.parametrize('saved_at', [1, 2, 3])
def test_a_resumed_run_freezes_at_the_same_step(fresh: Fresh, saved_at: int) -> None:
    loss = build(fresh)
    fresh.exe.run(fresh.startup)
    whole = BatchNormFreezing(fresh.main, 2)
    twin = clone_program(fresh.main)  # what a new process would build
    train(fresh, loss, whole, range(saved_at))
    saved = {var.name(): load_array(fresh.scope, var.name()) for var in GraphWrapper(fresh.main).all_parameters()}
    state = whole.state_dict()
    train(fresh, loss, whole, range(saved_at, 5))
    wanted = {name: load_array(fresh.scope, name) for name in saved}
    for name, array in saved.items():
        fresh.scope.find_var(name).get_tensor().set(array, paddle.CPUPlace())
    resumed = BatchNormFreezing(twin, 2)
    resumed.load_state_dict(state)
    assert resumed.frozen is (saved_at >= 2)
    exe = Executor()
    for seed in range(saved_at, 5):
        exe.run(twin, feed=batch(seed), fetch_list=[loss])
        resumed.step()
    for name, array in wanted.items():
        np.testing.assert_array_equal(load_array(fresh.scope, name), array)


def test_no_delay_freezes_at_once_and_none_never(fresh: Fresh) -> None:
    build(fresh)
    never = BatchNormFreezing(fresh.main, None)
    assert not any(never.step() for _ in range(3)) and not never.frozen
    assert BatchNormFreezing(fresh.main, 0).frozen
    assert freeze_batch_norm(fresh.main) == []


@pytest.mark.parametrize('delay', [-1, 1.5, True, '3'])
def test_a_delay_that_is_no_number_of_steps(fresh: Fresh, delay: Any) -> None:
    with pytest.raises(ConfigError, match='freeze_bn_delay'):
        BatchNormFreezing(fresh.main, delay)


def test_checkpoints_that_do_not_fit(fresh: Fresh) -> None:
    build(fresh)
    freezing = BatchNormFreezing(fresh.main, 1)
    with pytest.raises(CheckpointError, match='needs a number of steps'):
        freezing.load_state_dict({'step': 3})
    freezing.step()
    with pytest.raises(CheckpointError, match='before batch norm was frozen'):
        freezing.load_state_dict({'steps': 0})
