"""Copies for evaluation equal what legacy Paddle makes of them; cut programs compute the same from less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, cut_program
from paddleslim_ng.errors import GraphError
from tests.core.support import batch, build, refusals_skip, small, types
from tests.core.test_graph_wrapper import FORWARD


def decayed() -> Any:
    return paddle.optimizer.Momentum(0.1, 0.9, weight_decay=paddle.regularizer.L2Decay(1e-3))


def scheduled() -> Any:
    return paddle.optimizer.Adam(paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10), grad_clip=nn.ClipGradByNorm(1.0))


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    'sgd': lambda: paddle.optimizer.SGD(0.1),
    'l2': decayed,
    'l1': lambda: paddle.optimizer.SGD(0.1, weight_decay=paddle.regularizer.L1Decay(1e-3)),
    'clip by norm, schedule': scheduled,
    'clip by global norm': lambda: paddle.optimizer.AdamW(0.1, grad_clip=nn.ClipGradByGlobalNorm(1.0)),
    'adamax': lambda: paddle.optimizer.Adamax(0.1),
    'lamb': lambda: paddle.optimizer.Lamb(0.1),
    'lars': lambda: paddle.incubate.optimizer.LarsMomentumOptimizer(0.1, 0.9),
    'rmsprop': lambda: paddle.optimizer.RMSProp(0.1, momentum=0.9, centered=True),
}


def modes(program: Any) -> list[bool]:
    return [op.attr('is_test') for op in GraphWrapper(program).ops() if op.type() in ('batch_norm', 'dropout')]


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_for_test_before_and_after_minimize(name: str) -> None:
    net = small()
    plain = clone_program(net.main)
    before = clone_program(net.main, for_test=True)
    with refusals_skip(), paddle.static.program_guard(net.main, net.startup), paddle.utils.unique_name.guard('late_'):
        OPTIMIZERS[name]().minimize(net.vars['loss'])
    after = clone_program(net.main, for_test=True)
    assert types(GraphWrapper(before)) == types(GraphWrapper(after)) == FORWARD
    assert {var.name() for var in GraphWrapper(before).vars() if var.persistable()} == {
        var.name() for var in GraphWrapper(after).vars() if var.persistable() and var.is_parameter()
    }
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    exe.run(net.main, feed=batch(), fetch_list=[net.vars['loss']], scope=scope)
    fetches = [net.vars['logits'], net.vars['loss'], 'batch_norm2d_0.w_1']
    once = exe.run(before, feed=batch(), fetch_list=fetches, scope=scope)
    again = exe.run(after, feed=batch(), fetch_list=fetches, scope=scope)
    assert all(np.array_equal(a, b) for a, b in zip(once, again))
    dropped = exe.run(plain, feed=batch(), fetch_list=fetches, scope=scope)
    assert not np.array_equal(dropped[0], once[0])
    assert modes(after) == [True, True]
    assert modes(plain) == [False, False]


def test_clones_leave_the_original_alone() -> None:
    net = small(decayed)
    before = types(GraphWrapper(net.main))
    test = clone_program(net.main, for_test=True)
    GraphWrapper(test).var('w').set_shape([5, 4, 3, 3])
    next(op for op in GraphWrapper(test).ops() if op.type() == 'depthwise_conv2d').set_attr('groups', 4)
    graph = GraphWrapper(net.main)
    assert types(graph) == before
    assert graph.var('w').shape() == (8, 4, 3, 3)
    assert [op.attr('groups') for op in graph.ops() if op.type() == 'depthwise_conv2d'] == [8]
    assert [op.attr('is_test') for op in graph.ops() if op.type() == 'dropout'] == [False]


def test_outputs_equal_numpy() -> None:
    """Test mode uses the moving statistics and drops nothing."""
    net = build(lambda x: {'y': F.dropout(nn.BatchNorm2D(4)(x), 0.5)})
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    mean, variance = np.arange(4, dtype='float32'), np.arange(1, 5, dtype='float32')
    slim.core.store_array(scope, 'batch_norm2d_0.w_1', mean)
    slim.core.store_array(scope, 'batch_norm2d_0.w_2', variance)
    x = batch()['x']
    test = clone_program(net.main, for_test=True)
    found = exe.run(test, feed={'x': x}, fetch_list=[net.vars['y']], scope=scope)[0]
    shaped = (1, 4, 1, 1)
    assert np.allclose(found, (x - mean.reshape(shaped)) / np.sqrt(variance.reshape(shaped) + 1e-5), atol=1e-5)
    assert np.array_equal(slim.core.load_array(scope, 'batch_norm2d_0.w_1'), mean)


def test_what_paddle_cannot_clone_is_said() -> None:
    """Gradient merging puts control flow around the optimizer, which legacy Paddle cannot take away again."""

    def make(x: Any) -> dict[str, Any]:
        loss = paddle.mean(nn.Linear(8, 2)(x))
        try:
            paddle.incubate.optimizer.GradientMergeOptimizer(paddle.optimizer.SGD(0.1), 2).minimize(loss)
        except AssertionError:
            pytest.skip('Paddle has no gradient merging on PIR')
        return {}

    net = build(make)
    with pytest.raises(GraphError, match='clone before minimize'):
        clone_program(net.main, for_test=True)


def test_metrics_added_after_minimize_stay() -> None:
    net = small(decayed)
    with refusals_skip(), paddle.static.program_guard(net.main, net.startup):
        top = paddle.static.accuracy(F.softmax(net.vars['logits']), slim.core.lookup(net.main, 'label'))
    test = clone_program(net.main, for_test=True)
    assert 'accuracy' in types(GraphWrapper(test))
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    assert 0 <= float(exe.run(test, feed=batch(), fetch_list=[top], scope=scope)[0]) <= 1


def test_two_updates_in_one_program() -> None:
    """As in adversarial training: forward, backward, update, and all of it again."""

    def make(x: Any) -> dict[str, Any]:
        first = nn.Linear(8, 2)(x)
        decayed().minimize(paddle.mean(first))
        second = nn.Linear(2, 3)(F.relu(first))
        paddle.optimizer.SGD(0.1).minimize(paddle.mean(second))
        return {'first': first, 'second': second}

    net = build(make)
    test = clone_program(net.main, for_test=True)
    kinds = ['matmul_v2', 'elementwise_add', 'reduce_mean', 'relu', 'matmul_v2', 'elementwise_add', 'reduce_mean']
    assert types(GraphWrapper(test)) == kinds


def test_amp_where_paddle_builds_it() -> None:
    def make(x: Any) -> dict[str, Any]:
        loss = paddle.mean(nn.Linear(8, 2)(x))
        try:
            optimizer = paddle.static.amp.decorate(paddle.optimizer.SGD(0.1))
            optimizer.minimize(loss)
        except ValueError as error:
            pytest.skip(f'Paddle refuses: {str(error)[:60]}')
        return {'loss': loss}

    net = build(make)
    graph = GraphWrapper(net.main)
    assert 'update_loss_scaling' in types(graph)
    assert all(op.is_opt_op() for op in graph.ops() if op.type() == 'update_loss_scaling')
    test = types(GraphWrapper(clone_program(net.main, for_test=True)))
    assert [kind for kind in test if kind not in ('cast', 'elementwise_mul')] == [
        'matmul_v2',
        'elementwise_add',
        'reduce_mean',
    ]


def test_model_average_is_no_part_of_the_evaluation() -> None:
    def make(x: Any) -> dict[str, Any]:
        y = nn.Linear(8, 2)(x)
        paddle.optimizer.SGD(0.1).minimize(paddle.mean(y))
        paddle.incubate.ModelAverage(0.15, min_average_window=2, max_average_window=4)
        return {'y': y}

    net = build(make)
    assert 'average_accumulates' in types(GraphWrapper(net.main))
    test = clone_program(net.main, for_test=True)
    assert types(GraphWrapper(test)) == ['matmul_v2', 'elementwise_add', 'reduce_mean']


def test_cut_keeps_what_the_fetches_need() -> None:
    net = small(decayed)
    test = clone_program(net.main, for_test=True)
    cut = cut_program(test, ['x'], [net.vars['logits']])
    assert types(GraphWrapper(cut)) == FORWARD[:-2]
    assert not GraphWrapper(cut).has_var('label')
    assert {v.name() for v in GraphWrapper(cut).all_parameters()} == {
        v.name() for v in GraphWrapper(test).all_parameters()
    }
    assert len(GraphWrapper(test).ops()) == len(FORWARD)
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    x = batch()['x']
    wanted = exe.run(test, feed=batch(), fetch_list=[net.vars['logits']], scope=scope)[0]
    assert np.array_equal(exe.run(cut, feed={'x': x}, fetch_list=[net.vars['logits']], scope=scope)[0], wanted)
    less = cut_program(test, ['x'], ['relu_0.tmp_0'])
    assert types(GraphWrapper(less)) == FORWARD[:5]
    assert {v.name() for v in GraphWrapper(less).all_parameters()} < {
        v.name() for v in GraphWrapper(test).all_parameters()
    }


def test_cut_of_a_training_program_is_its_forward_part() -> None:
    net = small(decayed)
    cut = cut_program(net.main, ['x', 'label'], [net.vars['loss']])
    assert types(GraphWrapper(cut)) == FORWARD
    assert not any('velocity' in var.name() for var in GraphWrapper(cut).vars())


def test_cut_at_an_intermediate_input() -> None:
    net = small()
    test = clone_program(net.main, for_test=True)
    cut = cut_program(test, ['relu_0.tmp_0'], [net.vars['logits']])
    graph = GraphWrapper(cut)
    assert types(graph) == FORWARD[5:13]
    assert not graph.has_var('x')
    assert not graph.has_var('w')
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    relu, wanted = exe.run(test, feed=batch(), fetch_list=['relu_0.tmp_0', net.vars['logits']], scope=scope)
    found = exe.run(cut, feed={'relu_0.tmp_0': relu}, fetch_list=[net.vars['logits']], scope=scope)[0]
    assert np.array_equal(found, wanted)


def test_cut_refuses_what_cannot_be() -> None:
    test = clone_program(small().main, for_test=True)
    count = len(GraphWrapper(test).ops())
    with pytest.raises(GraphError, match=r"cannot be computed from \['x'\] alone: \['label'\] are needed"):
        cut_program(test, ['x'], ['softmax_with_cross_entropy_0.tmp_1'])
    with pytest.raises(GraphError, match="no variable 'y'"):
        cut_program(test, ['y'], ['relu_0.tmp_0'])
    with pytest.raises(GraphError, match='at least one variable'):
        cut_program(test, ['x'], [])
    assert len(GraphWrapper(test).ops()) == count


def test_cut_keeps_control_flow_and_unread_feeds() -> None:
    def make(x: Any) -> dict[str, Any]:
        spare = paddle.static.data('spare', [1], 'float32')
        h = F.relu(x)
        y = paddle.static.nn.cond(paddle.mean(x) > 0, lambda: h * 2, lambda: h + 1)
        return {'y': y, 'other': paddle.tanh(x) + spare}

    net = build(make, (2, 3))
    cut = cut_program(net.main, ['x', 'spare'], [net.vars['y']])
    assert 'tanh' not in types(GraphWrapper(cut))
    feed = {'x': np.ones([2, 3], 'float32'), 'spare': np.ones([1], 'float32')}
    assert slim.Executor().run(cut, feed=feed, fetch_list=[net.vars['y']])[0].tolist() == [[2.0] * 3] * 2
