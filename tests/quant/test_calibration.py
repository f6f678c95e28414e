"""Calibration: what operators in the program count equals what numpy counts on fetched tensors, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn as nn
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, load_array, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.statistics import BINS, TensorStatistics

FLAGS = [
    'FLAGS_new_executor_serial_run',
    'FLAGS_new_executor_sequential_run',
    'FLAGS_enable_pir_in_executor_trace_run',
]


class Net(NamedTuple):
    """A small convolutional network with weights, and names of its tensors."""

    program: Any
    scope: Any
    names: list[str]
    vars: dict[str, Any]


def network(shape: tuple[int, ...] = (-1, 3, 12, 12), *, training: bool = False) -> Net:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', list(shape), 'float32')
        label = paddle.static.data('label', [-1, 1], 'int64')
        conv = nn.Conv2D(3, 6, 3, weight_attr=paddle.ParamAttr(name='w'))(x)
        relu = nn.functional.relu(nn.BatchNorm2D(6)(conv))
        dropped = nn.functional.dropout(relu, 0.5)
        flat = paddle.flatten(nn.functional.adaptive_avg_pool2d(dropped, 1), 1)
        logits = nn.Linear(6, 4)(flat)
        loss = paddle.mean(nn.functional.cross_entropy(logits, label, reduction='none'))
        if training:
            paddle.optimizer.SGD(0.1).minimize(loss)
    paddle.static.Executor(paddle.CPUPlace()).run(startup, scope=scope)
    found = {'x': x, 'conv': conv, 'relu': relu, 'flat': flat, 'logits': logits, 'loss': loss, 'label': label}
    graph = GraphWrapper(main)
    return Net(main, scope, [graph.var(found[key]).name() for key in ('x', 'conv', 'relu', 'flat', 'logits')], found)


def images(count: int, size: int = 12, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    grown = np.geomspace(0.1, 20, count, dtype='float32')[:, None, None, None]
    return random.standard_normal((count, 3, size, size)).astype('float32') * grown


def batches(data: Any, size: int) -> list[dict[str, Any]]:
    return [{'x': data[start : start + size]} for start in range(0, len(data), size)]


def counted(array: Any, limit: float) -> Any:
    return np.histogram(np.asarray(array, 'float64') / limit, 2 * BINS, (-1, 1))[0]


def check(seen: TensorStatistics, arrays: list[Any]) -> None:
    """Compare statistics with the tensors of all batches; numbers on the edge of a bin may be counted next to it."""
    whole = np.concatenate([array.ravel() for array in arrays])
    rows = np.concatenate([np.abs(array.reshape(len(array), -1)).max(1) for array in arrays])
    assert seen.elements == whole.size and seen.rows == len(rows)
    assert seen.abs_max == np.abs(whole).max() and seen.range / 2 <= seen.abs_max <= seen.range
    assert seen.mean_abs_max == pytest.approx(rows.mean(), rel=1e-6)
    assert np.abs(np.cumsum(seen.counts - counted(whole, seen.range))).max() <= max(2, whole.size // 2000)


@pytest.mark.parametrize('size', [1, 4, 11])
def test_statistics_are_those_of_the_fetched_tensors(size: int) -> None:
    """Batches of one, ragged ones, and all at once; the images grow, so that the ranges do."""
    net, data = network(), images(11)
    seen = calibrate(net.program, batches(data, size), net.names, net.scope)
    assert (seen.batches, seen.images) == (-(-11 // size), 11)
    assert list(seen) == net.names
    test = GraphWrapper(net.program).clone(for_test=True)
    parts = [
        Executor().run(test, {**feed, 'label': np.zeros((len(feed['x']), 1), 'int64')}, net.names, net.scope)
        for feed in batches(data, size)
    ]
    for index, name in enumerate(net.names):
        check(seen[name], [np.asarray(part[index]) for part in parts])


def test_the_order_of_batches_changes_no_count() -> None:
    net, feeds = network(), batches(images(6), 2)
    forth = calibrate(net.program, feeds, net.names, net.scope)
    back = calibrate(net.program, feeds[::-1], net.names, net.scope)
    for name in net.names:
        assert np.array_equal(forth[name].counts, back[name].counts)
        assert forth[name].range == back[name].range


def test_open_sizes_may_differ_between_batches() -> None:
    net = network((-1, 3, -1, -1))
    data = [images(2, 8), images(3, 14, seed=1)]
    seen = calibrate(net.program, [{'x': array} for array in data], ['x', net.vars['conv']], net.scope)
    check(seen['x'], data)
    assert seen[net.names[1]].elements == 6 * (2 * 36 + 3 * 144)


def test_programs_scopes_and_flags_stay_as_they_are() -> None:
    net = network(training=True)
    before, flags = GraphWrapper(net.program), paddle.get_flags(FLAGS)
    types, weight = [op.type() for op in before.ops()], load_array(net.scope, 'w')
    known = holdings(net)
    calibrate(net.program, batches(images(4), 2), net.names, net.scope)
    assert [op.type() for op in GraphWrapper(net.program).ops()] == types
    assert np.array_equal(load_array(net.scope, 'w'), weight)
    assert holdings(net) == known
    assert paddle.get_flags(FLAGS) == flags
    with pytest.raises(DataError):
        calibrate(net.program, [{'x': np.zeros((1, 5, 3), 'float32')}], net.names, net.scope)
    assert paddle.get_flags(FLAGS) == flags


def holdings(net: Net) -> set[str]:
    """Names that the scope holds; Paddle 2 cannot list them."""
    if hasattr(net.scope, 'local_var_names'):
        return set(net.scope.local_var_names())
    names = ['feed', 'fetch', *(var.name() for var in GraphWrapper(net.program).vars())]
    return {name for name in names if net.scope.find_var(name) is not None}


def test_training_programs_run_their_forward_part_in_test_mode() -> None:
    net, data = network(training=True), images(4)
    seen = calibrate(net.program, batches(data, 4), [net.vars['relu']], net.scope)
    test = GraphWrapper(net.program).clone(for_test=True)
    feed = {'x': data, 'label': np.zeros((4, 1), 'int64')}
    check(seen[net.names[2]], [Executor().run(test, feed, [net.names[2]], net.scope)[0]])


def test_feeds_may_hold_more_than_the_tensors_need() -> None:
    net, data = network(), images(2)
    feeds = [{'x': data, 'label': np.zeros((2, 1), 'int64'), 'other': np.zeros(3)}]
    assert calibrate(net.program, feeds, ['x'], net.scope).images == 2
    with pytest.raises(GraphError, match=r"batch 1 feeds \['x'\], but the observed tensors need \['label'\]"):
        calibrate(net.program, batches(data, 2), [net.vars['loss']], net.scope)


def test_tensors_of_no_axis_and_of_one() -> None:
    net, data = network(), images(3)
    label = np.array([[0], [1], [3]])
    feeds = [{'x': data[:2], 'label': label[:2]}, {'x': data[2:], 'label': label[2:]}]
    name = GraphWrapper(net.program).var(net.vars['loss']).name()
    seen = calibrate(net.program, feeds, [name], net.scope)[name]
    test = GraphWrapper(net.program).clone(for_test=True)
    losses = [float(np.asarray(Executor().run(test, feed, [name], net.scope)[0]).reshape(-1)[0]) for feed in feeds]
    assert seen.abs_max == pytest.approx(max(losses)) and seen.mean_abs_max == pytest.approx(np.mean(losses))
    assert (seen.elements, seen.rows) == (2, 2)


def test_a_tensor_that_is_always_zero() -> None:
    net = network()
    store_array(net.scope, 'w', np.zeros((6, 3, 3, 3), 'float32'))
    graph = GraphWrapper(net.program)
    product = next(op.all_outputs()[0].name() for op in graph.ops() if op.type() == 'conv2d')
    seen = calibrate(net.program, batches(images(4), 2), [product], net.scope)[product]
    assert seen.abs_max == 0.0 and seen.elements == 4 * 600 and seen.counts[BINS] == seen.elements


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize('everywhere', [False, True])
def test_what_is_not_finite_is_named_with_its_batch(bad: float, everywhere: bool) -> None:
    net, data = network(), images(6)
    if everywhere:
        data[2:4] = bad
    else:
        data[3, 1, 5, 5] = bad
    with pytest.raises(DataError, match=r"'x' is not finite on batch 2: it holds NaN, infinity or magnitudes beyond"):
        calibrate(net.program, batches(data, 2), net.names, net.scope)


def test_parameters_that_are_not_finite_show_in_the_tensors() -> None:
    net = network()
    weight = load_array(net.scope, 'w')
    weight[2, 0, 1, 1] = np.nan
    store_array(net.scope, 'w', weight)
    with pytest.raises(DataError, match=f"'{net.names[1]}' is not finite on batch 1"):
        calibrate(net.program, batches(images(2), 2), [net.names[1]], net.scope)


def test_magnitudes_of_every_size_keep_their_counts() -> None:
    """Powers of two, their neighbours and tiny numbers: the range that the program finds holds each of them."""
    net = network((-1, 3, 1, 1))
    edges = 2.0 ** np.arange(-99, 100)
    values = np.concatenate([edges, np.nextafter(edges.astype('float32'), np.float32(0)), edges * 1.0000002, [1e-38]])
    for value in values[::7].astype('float32'):
        seen = calibrate_x(net, np.full((1, 3, 1, 1), value))
        assert seen.elements == 3 and seen.abs_max == value
        assert seen.range / 2 * 0.9999 <= max(value, 2.0**-101) <= seen.range and np.frexp(seen.range)[0] == 0.5


def calibrate_x(net: Net, array: Any) -> TensorStatistics:
    return calibrate(net.program, [{'x': array.astype('float32')}], ['x'], net.scope)['x']


def test_other_floating_types_are_observed_as_float32() -> None:
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 5], 'float64')
        y = x * 2
    data = np.random.default_rng(0).standard_normal((3, 5))
    name = GraphWrapper(main).var(y).name()
    seen = calibrate(main, [{'x': data}], [name], paddle.static.Scope())[name]
    assert seen.abs_max == np.float32(np.abs(2 * data).max()) and seen.elements == 15


def test_refusals() -> None:
    net = network()
    feeds = batches(images(2), 2)
    with pytest.raises(ConfigError, match="'label' holds int64"):
        calibrate(net.program, feeds, ['label'], net.scope)
    with pytest.raises(ConfigError, match="'w' is a parameter"):
        calibrate(net.program, feeds, ['w'], net.scope)
    with pytest.raises(ConfigError, match='no tensor was given'):
        calibrate(net.program, feeds, [], net.scope)
    with pytest.raises(GraphError, match="no initialized tensor 'conv2d_0.b_0'"):
        calibrate(net.program, feeds, [net.vars['conv']], paddle.static.Scope())
    with pytest.raises(GraphError, match="no variable 'nothing'"):
        calibrate(net.program, feeds, ['nothing'], net.scope)
    with pytest.raises(DataError, match='the source of data is empty'):
        calibrate(net.program, [], net.names, net.scope)
    with pytest.raises(DataError, match=r"cannot run on batch 1, of shapes \{'x': \[2, 5, 12, 12\]\}"):
        calibrate(net.program, [{'x': np.zeros((2, 5, 12, 12), 'float32')}], net.names, net.scope)


def test_a_tensor_that_depends_on_no_input_is_refused() -> None:
    net = network()
    graph = GraphWrapper(net.program)
    name = Expressions(Insertion(graph)).scale(graph.var('w'), 2.0).name()
    with pytest.raises(GraphError, match='depend on no input'):
        calibrate(net.program, batches(images(2), 2), [name], net.scope)
