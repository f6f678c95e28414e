"""Averages of parameters that are applied by programs of their own, and state that is cut late or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import GraphError
from paddleslim_ng.prune import Pruner
from tests.prune.optimizer_cases import configuration
from tests.prune.training_nets import RATIOS, Minimize, build, expected_cut, fill, largest_difference, state, train

NAMES, SHARES = list(RATIOS), list(RATIOS.values())


def _momentum(loss: Any) -> None:
    paddle.optimizer.Momentum(0.02, 0.9).minimize(loss)


def _averaged(kind: str, made: list[Any]) -> Minimize:
    def minimize(loss: Any) -> None:
        _momentum(loss)
        if kind == 'ModelAverage':
            made.append(paddle.incubate.ModelAverage(0.5, min_average_window=2, max_average_window=4))
        else:
            made.append(paddle.static.ExponentialMovingAverage(0.9))
            made[-1].update()

    return minimize


@pytest.mark.parametrize('kind', ['ModelAverage', 'ExponentialMovingAverage'])
def test_averages_are_applied_to_pruned_parameters(kind: str) -> None:
    if kind == 'ExponentialMovingAverage' and configuration() != '2.6.2':
        pytest.skip('Paddle 3 cannot build it; see the table of optimizers')
    averages: list[Any] = []
    net = build(_averaged(kind, averages))
    train(net, net.main, net.scope, 0)
    widths, values = expected_cut(state(net.main, net.scope))
    pruned, _, _ = Pruner().prune(net.main, net.scope, NAMES, SHARES)
    train(net, pruned, net.scope, 3)
    small = build(_averaged(kind, averages), widths)
    fill(small, values)
    train(small, small.main, small.scope, 3)
    raw = load_array(net.scope, 'w1')
    applied = []
    for average, one in zip(averages, (net, small)):
        with paddle.static.scope_guard(one.scope), average.apply(paddle.static.Executor(paddle.CPUPlace())):
            applied.append({name: load_array(one.scope, name) for name in ('w1', 'dw', 'w2', 'w3', 'fc')})
    assert largest_difference(*applied) <= 1e-9
    assert np.abs(applied[0]['w1'] - raw).max() > 1e-6
    assert np.array_equal(load_array(net.scope, 'w1'), raw)


def test_state_left_behind_by_pruning_the_evaluation_program_is_cut_with_only_graph() -> None:
    net = build(_momentum)
    evaluation = clone_program(net.main, for_test=True)
    train(net, net.main, net.scope, 0)
    widths, values = expected_cut(state(net.main, net.scope))
    Pruner().prune(evaluation, net.scope, NAMES, SHARES)
    assert load_array(net.scope, 'w1_velocity_0').shape != load_array(net.scope, 'w1').shape
    pruned, backup, shapes = Pruner().prune(
        net.main, net.scope, NAMES, SHARES, only_graph=True, param_backup=True, param_shape_backup=True
    )
    assert largest_difference(state(pruned, net.scope), values) == 0.0
    assert backup is not None
    assert shapes is not None
    assert backup['w1_velocity_0'].shape == shapes['w1_velocity_0'] == (12, 3, 3, 3)
    small = build(_momentum, widths)
    fill(small, values)
    assert np.allclose(train(net, pruned, net.scope, 3), train(small, small.main, small.scope, 3), rtol=0, atol=1e-9)


def _forget_records(net: Any) -> None:
    for var in GraphWrapper(net.main).all_parameters():
        net.scope.erase([f'{var.name()}@kept_positions_{axis}' for axis in range(len(var.shape()))])


def test_fresh_state_needs_no_record_of_what_was_kept() -> None:
    net = build(_momentum)
    evaluation = clone_program(net.main, for_test=True)
    widths, _ = expected_cut(state(net.main, net.scope))
    Pruner().prune(evaluation, net.scope, NAMES, SHARES)
    _forget_records(net)
    with pytest.raises(GraphError, match='leaves open which channels'):
        Pruner().prune(net.main, net.scope, NAMES, SHARES, only_graph=True)


def test_state_that_differs_from_place_to_place_needs_the_record() -> None:
    def minimize(loss: Any) -> None:
        paddle.optimizer.Momentum(0.02, 0.9).minimize(loss)

    net = build(minimize)
    train(net, net.main, net.scope, 0)
    evaluation = clone_program(net.main, for_test=True)
    Pruner().prune(evaluation, net.scope, ['w3'], [0.5])
    _forget_records(net)
    before = state(net.main, net.scope)
    with pytest.raises(GraphError, match='no record of the positions kept'):
        Pruner().prune(net.main, net.scope, ['w3'], [0.5], only_graph=True)
    assert largest_difference(before, state(net.main, net.scope)) == 0.0
    for name in before:
        if name.endswith('_velocity_0'):
            store_array(net.scope, name, np.zeros_like(before[name]))
    pruned, _, _ = Pruner().prune(net.main, net.scope, ['w3'], [0.5], only_graph=True)
    assert load_array(net.scope, 'w3_velocity_0').shape == load_array(net.scope, 'w3').shape == (4, 12, 3, 3)
    train(net, pruned, net.scope, 0)


def test_master_weights_are_cut_with_their_parameters() -> None:
    # There is no CPU kernel to train in bfloat16 with: the program is built and cut, not run.
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 4], 'bfloat16')
        create = paddle.create_parameter if configuration() == '3.3.1 PIR' else paddle.static.create_parameter
        zeros = paddle.nn.initializer.Constant(0.0)
        first = create([4, 8], 'bfloat16', 'first', default_initializer=zeros)
        second = create([8, 2], 'bfloat16', 'second', default_initializer=zeros)
        loss = paddle.mean(paddle.cast(paddle.nn.functional.relu(x @ first) @ second, 'float32'))
        momentum = paddle.optimizer.Momentum(0.1, 0.9, multi_precision=True)
        if configuration() == '3.3.1 PIR':
            with pytest.raises(TypeError, match='expected_dtype'):
                momentum.minimize(loss)
            return
        momentum.minimize(loss)
    graph = GraphWrapper(main)
    masters = [var.name() for var in graph.vars() if 'master' in var.name() and var.dtype() == 'float32']
    assert len(masters) >= 2
    rng = np.random.default_rng(0)
    for var in graph.vars():
        if var.persistable():
            values = rng.standard_normal(var.shape()).astype('float32')
            store_array(scope, var.name(), _bfloat16(values) if var.dtype() == 'bfloat16' else values)
    bits = load_array(scope, 'first')
    weight = (bits.astype(np.uint32) << 16).view(np.float32)
    keep = np.sort(np.argsort(np.abs(weight).sum(axis=0, dtype=np.float64), kind='stable')[4:])
    old = {var.name(): load_array(scope, var.name()) for var in graph.vars() if var.persistable()}
    pruned, _, _ = Pruner().prune(main, scope, ['first'], [0.5])
    after = GraphWrapper(pruned)
    for name, array in old.items():
        axis = {(4, 8): 1, (8, 2): 0}.get(array.shape)
        expected = array if axis is None else np.take(array, keep, axis=axis)
        assert after.var(name).shape() == expected.shape or array.size == 1, name
        assert np.array_equal(load_array(scope, name), expected)
    assert after.var(masters[0]).shape() in ((4, 4), (4, 2))


def _bfloat16(values: Any) -> Any:
    """Return the upper halves of the single-precision numbers, as Paddle's arrays of bfloat16 hold them."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def test_a_scheduled_learning_rate_goes_on_in_the_pruned_program() -> None:
    schedule = paddle.optimizer.lr.PiecewiseDecay([1], [0.1, 0.001])
    net = build(lambda loss: paddle.optimizer.SGD(schedule).minimize(loss))
    train(net, net.main, net.scope, 0, 1)
    schedule.step()
    pruned, _, _ = Pruner().prune(net.main, net.scope, NAMES, SHARES)
    with paddle.static.scope_guard(net.scope):
        feed = {'x': np.zeros((1, 3, 6, 6)), 'label': np.zeros((1, 1), 'int64')}
        Executor().run(pruned, feed=feed, fetch_list=[net.loss], scope=net.scope)
    assert float(load_array(net.scope, 'learning_rate_0').reshape(())) == pytest.approx(0.001)


def test_weights_that_autocast_casts_are_pruned() -> None:
    if configuration() != '3.3.1 PIR':
        pytest.skip('the CPU build of Paddle casts nothing to bfloat16 in legacy programs')
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 3, 6, 6])
        with paddle.amp.auto_cast(level='O1', dtype='bfloat16'):
            h = paddle.nn.functional.relu(paddle.nn.Conv2D(3, 8, 3, weight_attr=paddle.ParamAttr(name='w1'))(x))
            h = paddle.nn.Linear(8 * 16, 4, weight_attr=paddle.ParamAttr(name='fc'))(paddle.flatten(h, 1))
            loss = paddle.mean(h * h)
        paddle.optimizer.Momentum(0.01, 0.9).minimize(loss)
    Executor().run(startup, scope=scope)
    assert any(op.type() == 'cast' for op in GraphWrapper(main).ops())
    feed = {'x': np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype('float32')}
    Executor().run(main, feed=feed, fetch_list=[loss], scope=scope)
    pruner = Pruner()
    pruned, _, _ = pruner.prune(main, scope, ['w1'], [0.5], verify=True, outputs=[h])
    assert pruner.report.equivalence is not None
    assert pruner.report.equivalence.max_relative < 0.02
    shapes = {name: load_array(scope, name).shape for name in ('w1', 'w1_velocity_0', 'fc', 'fc_velocity_0')}
    assert shapes == dict.fromkeys(('w1', 'w1_velocity_0'), (4, 3, 3, 3)) | dict.fromkeys(
        ('fc', 'fc_velocity_0'), (64, 4)
    )
    losses = [float(Executor().run(pruned, feed=feed, fetch_list=[loss], scope=scope)[0]) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses)
