"""The editors' verbs: attributes, constants, splits, scaling, removal; with and without a backward pass."""

# ruff: noqa: E501
from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array
from paddleslim_ng.errors import GraphError, UnsupportedOpError
from tests.core.support import build, small, types


def only(program: Any, kind: str) -> Any:
    (found,) = [op for op in GraphWrapper(program).ops() if op.type() == kind]
    return found


def run(net: Any, feed: dict[str, Any], *fetches: Any, scope: Any = None) -> list[Any]:
    scope = scope if scope is not None else paddle.static.Scope()
    exe = slim.Executor()
    exe.run(net.startup, scope=scope)
    return exe.run(net.main, feed=feed, fetch_list=list(fetches), scope=scope)


X = np.random.RandomState(0).rand(2, 4, 8, 8).astype('float32')


@pytest.mark.parametrize(
    ('make', 'kind', 'name', 'value', 'expected'),
    [
        (lambda x: paddle.reshape(x, [-1, 4, 64]), 'reshape2', 'shape', [-1, 2, 128], lambda x: x.reshape(-1, 2, 128)),
        (lambda x: x[:, 0:2], 'slice', 'starts', [1], lambda x: x[:, 1:2]),
        (lambda x: x[:, 0:2], 'slice', 'ends', [4], lambda x: x),
        (lambda x: paddle.scale(x, 2.0, 1.0), 'scale', 'scale', 3.0, lambda x: 3 * x + 1),
        (lambda x: paddle.scale(x, 2.0, 1.0), 'scale', 'bias', 2.0, lambda x: 2 * x + 2),
        (lambda x: paddle.scale(x, 2.0, 1.0), 'scale', 'bias_after_scale', False, lambda x: 2 * (x + 1)),
        (lambda x: paddle.transpose(x, [0, 1, 3, 2]), 'transpose2', 'axis', [0, 2, 3, 1], lambda x: x.transpose(0, 2, 3, 1)),
        (lambda x: F.softmax(x, 1), 'softmax', 'axis', -1, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
        (lambda x: F.leaky_relu(x - 1, 0.1), 'leaky_relu', 'alpha', 0.5, lambda x: (x - 1) * 0.5),
        (lambda x: F.max_pool2d(x, 2), 'pool2d', 'pooling_type', 'avg', lambda x: x.reshape(2, 4, 4, 2, 4, 2).mean((3, 5))),
        (lambda x: F.max_pool2d(x, 2), 'pool2d', 'strides', [4, 4], lambda x: pooled(x, 2, 4)),
        (lambda x: F.max_pool2d(x, 2), 'pool2d', 'ksize', [1, 1], lambda x: x[:, :, ::2, ::2]),
        (lambda x: paddle.concat([x, x], 1), 'concat', 'axis', 0, lambda x: np.concatenate([x, x], 0)),
        (lambda x: paddle.mean(x, 1), 'reduce_mean', 'dim', [2, 3], lambda x: x.mean((2, 3))),
        (lambda x: paddle.sum(x, 1), 'reduce_sum', 'keep_dim', True, lambda x: x.sum(1, keepdims=True)),
        (lambda x: paddle.clip(x, 0.0, 0.5), 'clip', 'max', 0.25, lambda x: np.clip(x, 0, 0.25)),
        (lambda x: paddle.expand(x[:, :1], [-1, 4, -1, -1]), 'expand_v2', 'shape', [-1, 2, -1, -1], lambda x: x[:, [0, 0]]),
        (lambda x: F.maxout(x, 2, 1), 'maxout', 'groups', 4, lambda x: x.max(1, keepdims=True)),
    ],
)  # fmt: skip
def test_set_attr(make: Any, kind: str, name: str, value: Any, expected: Any) -> None:
    net = build(lambda x: {'y': make(x)})
    op = only(net.main, kind)
    assert op.attr(name) != value
    op.set_attr(name, value)
    assert op.attr(name) == value
    assert only(net.main, kind).attr(name) == value
    assert only(clone_program(net.main), kind).attr(name) == value
    names = [var.name() for var in GraphWrapper(net.main).vars()]
    assert len(names) == len(set(names))
    assert np.allclose(run(net, {'x': X}, net.vars['y'])[0], expected(X), atol=1e-6)


def pooled(x: Any, size: int, stride: int) -> Any:
    rows = [x[:, :, i : i + size, j : j + size].max((2, 3)) for i in range(0, 8, stride) for j in range(0, 8, stride)]
    return np.stack(rows, -1).reshape(*x.shape[:2], 8 // stride, 8 // stride)


def test_set_attr_of_one_leaves_the_other_alone() -> None:
    """Two operators, and a gradient operator, may read one constant."""
    net = build(lambda x: {'y': paddle.mean(x, 1), 'z': paddle.mean(x, 1)})
    first, second = GraphWrapper(net.main).ops()
    first.set_attr('dim', [2])
    assert first.attr('dim') == [2]
    assert second.attr('dim') == [1]
    assert first.attr('reduce_all') is False


@pytest.mark.parametrize(
    ('kind', 'name', 'value', 'message'),
    [
        ('conv2d', 'nonsense', 1, "conv2d has no attribute 'nonsense'"),
        ('conv2d', 'groups', 'two', 'cannot store'),
        ('conv2d', 'groups', [2], 'cannot store'),
        ('conv2d', 'groups', True, 'cannot store'),
        ('dropout', 'dropout_implementation', 1, 'cannot store'),
    ],
)
def test_set_attr_refuses(kind: str, name: str, value: Any, message: str) -> None:
    net = small()
    op = only(net.main, kind)
    before = op.attr(name)
    with pytest.raises(GraphError, match=message):
        op.set_attr(name, value)
    assert only(net.main, kind).attr(name) == before


def test_grouped_convolution_is_narrowed_in_a_training_program() -> None:
    net = small(lambda: paddle.optimizer.SGD(0.1))
    graph = GraphWrapper(net.main)
    op = only(net.main, 'depthwise_conv2d')
    (grad,) = graph.editor.grad_ops(next(o for o in graph.ops() if o.type() == 'depthwise_conv2d'))
    for each in (op, grad):
        each.set_attr('groups', 4)
    kinds = ('depthwise_conv2d', 'depthwise_conv2d_grad')
    assert [only(net.main, kind).attr('groups') for kind in kinds] == [4, 4]


def test_grad_ops_tell_twins_apart() -> None:
    def make(x: Any) -> dict[str, Any]:
        h = nn.Linear(8, 8)(x)
        y = F.dropout(F.sigmoid(h) if hasattr(F, 'sigmoid') else h, 0.5) + F.dropout(F.tanh(h), 0.5)
        paddle.static.append_backward(paddle.mean(y))
        return {}

    graph = GraphWrapper(build(make).main)
    dropouts = [op for op in graph.ops() if op.type() == 'dropout']
    found = [graph.editor.grad_ops(op) for op in dropouts]
    assert [len(group) for group in found] == [1, 1]
    assert found[0] != found[1]
    assert found[0][0].inputs('Mask') == dropouts[0].outputs('Mask')


@pytest.mark.parametrize('by_count', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_split_into(by_count: bool, training: bool) -> None:
    def make(x: Any) -> dict[str, Any]:
        h = x + paddle.static.create_parameter([1, 4, 1, 1], 'float32', name='p')
        a, b = paddle.split(h, 2 if by_count else [2, 2], 1)
        y = paddle.sum(a, [1, 2, 3]) + 2 * paddle.sum(b, [1, 2, 3])
        if training:
            paddle.optimizer.SGD(1.0).minimize(paddle.mean(y))
        return {'a': a, 'b': b, 'y': y}

    net = build(make)
    graph = GraphWrapper(net.main)
    split = next(op for op in graph.ops() if op.type() == 'split')
    names = [var.name() for var in split.outputs('Out')]
    with pytest.raises(GraphError, match='cannot become a split into'):
        graph.editor.split_into(split, [1, 1, 2])
    with pytest.raises(GraphError, match='cannot become a split into'):
        graph.editor.split_into(graph.ops()[0], [1, 3])
    graph.editor.split_into(split, [1, 3])
    assert split.attr('sections') == [1, 3]
    again = only(net.main, 'split')
    assert again.attr('sections') == [1, 3]
    assert again.attr('axis') == 1
    assert [var.name() for var in again.outputs('Out')] == names
    scope = paddle.static.Scope()
    a, b, y, p = run(net, {'x': X}, net.vars['a'], names[1], net.vars['y'], 'p', scope=scope)
    assert a.shape == (2, 1, 8, 8)
    assert b.shape == (2, 3, 8, 8)
    start = p if not training else None
    if training:
        gradient = np.array([64, 128, 128, 128], 'float32')
        start = load_array(scope, 'p') + gradient.reshape(1, 4, 1, 1)
    h = X + start
    assert np.allclose(y, h[:, :1].sum((1, 2, 3)) + 2 * h[:, 1:].sum((1, 2, 3)), rtol=1e-4, atol=1e-2)


def test_scale_after() -> None:
    net = build(lambda x: {'y': F.relu(x), 'z': F.relu(x) * 3})
    graph = GraphWrapper(net.main)
    first, second = [op for op in graph.ops() if op.type() == 'relu']
    graph.editor.scale_after(first.outputs('Out')[0], 0.5)
    graph.editor.scale_after(second.outputs('Out')[0], 2.0)
    name = first.outputs('Out')[0].name() if graph.ir == 'legacy' else 'relu_0.tmp_0'
    y, z, by_name, unscaled = run(net, {'x': X}, net.vars['y'], net.vars['z'], name, name + '.unscaled')
    assert np.allclose(y, X / 2)
    assert np.allclose(by_name, X / 2)
    assert np.allclose(unscaled, X)
    assert np.allclose(z, X * 6)


def test_scale_after_refuses_inputs() -> None:
    graph = GraphWrapper(small().main)
    for name in ('x', 'w'):
        with pytest.raises(GraphError, match=f'.{name}. is an input or parameter'):
            graph.editor.scale_after(graph.var(name), 2.0)


def test_scale_after_reaches_readers_inside_control_flow() -> None:
    def make(x: Any) -> dict[str, Any]:
        h = F.relu(x)
        y = paddle.static.nn.cond(paddle.mean(x) > 0, lambda: h + 1, lambda: h - 1)
        return {'h': h, 'y': y}

    net = build(make, (2, 3))
    graph = GraphWrapper(net.main)
    graph.editor.scale_after(graph.var(net.vars['h']), 3.0)
    assert run(net, {'x': np.ones([2, 3], 'float32')}, net.vars['y'])[0].tolist() == [[4.0] * 3] * 2


def with_backward(middle: Any, factor: float | None) -> tuple[Any, Any]:
    """Build ``sum(exp(factor * middle(x + p)) * x)`` and its update of p, the factor written into the network."""

    def make(x: Any) -> dict[str, Any]:
        h = middle(x + paddle.static.create_parameter([1, 4, 1, 1], 'float32', name='p'))
        y = h if factor is None else paddle.scale(h, factor)
        loss = paddle.mean(paddle.exp(y) * paddle.mean(x))
        paddle.optimizer.SGD(1.0).minimize(loss)
        return {'h': h, 'loss': loss}

    net = build(make)
    return net, net.vars


@pytest.mark.parametrize('kind', ['reduce_mean', 'softmax', 'pool2d'])
def test_scale_after_with_a_backward_pass_equals_a_scale_in_the_network(kind: str) -> None:
    middle = {
        'reduce_mean': lambda h: paddle.mean(h, 1),
        'softmax': lambda h: F.softmax(h, 1),
        'pool2d': lambda h: F.avg_pool2d(h, 2),
    }[kind]
    results = []
    for factor in (0.25, None):
        net, found = with_backward(middle, factor)
        if factor is None:
            graph = GraphWrapper(net.main)
            graph.editor.scale_after(graph.var(found['h']), 0.25)
        scope, exe = paddle.static.Scope(), slim.Executor()
        exe.run(net.startup, scope=scope)
        slim.core.store_array(scope, 'p', np.arange(4, dtype='float32').reshape(1, 4, 1, 1) / 4)
        losses = [float(exe.run(net.main, feed={'x': X}, fetch_list=[found['loss']], scope=scope)[0]) for _ in range(3)]
        results.append((losses, load_array(scope, 'p')))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert len(set(results[0][0])) == 3
    assert np.allclose(results[0][1], results[1][1], atol=1e-6)


def test_scale_after_refuses_where_the_gradient_cannot_be_told() -> None:
    net, found = with_backward(lambda h: paddle.split(h, 2, 1)[0], None)
    graph = GraphWrapper(net.main)
    before = types(graph)
    with pytest.raises(UnsupportedOpError, match='in a program with a backward pass') as caught:
        graph.editor.scale_after(graph.var(found['h']), 2.0)
    assert caught.value.op == 'split'
    assert caught.value.variable == graph.var(found['h']).name()
    assert types(GraphWrapper(net.main)) == before


def test_scale_after_beside_the_backward_pass() -> None:
    """A branch that the loss does not depend on is scaled like one of an evaluation program."""

    def make(x: Any) -> dict[str, Any]:
        h = x + paddle.static.create_parameter([1, 4, 1, 1], 'float32', name='p')
        paddle.optimizer.SGD(1.0).minimize(paddle.mean(h))
        return {'h': h, 'side': paddle.split(h, 2, 1)[0]}

    net = build(make)
    graph = GraphWrapper(net.main)
    graph.editor.scale_after(graph.var(net.vars['side']), 3.0)
    h, side = run(net, {'x': X}, net.vars['h'], graph.var(net.vars['side']).name())
    assert np.allclose(side, 3 * h[:, :2])


def test_scale_after_twice() -> None:
    net = build(lambda x: {'y': F.relu(x)})
    name = GraphWrapper.name_of(net.vars['y'])
    for factor in (2.0, 3.0):
        graph = GraphWrapper(net.main)
        graph.editor.scale_after(graph.var(name), factor)
    assert np.allclose(run(net, {'x': X}, name)[0], 6 * X)
    assert np.allclose(run(net, {'x': X}, net.vars['y'])[0], 6 * X)


def test_remove() -> None:
    net = small()
    graph = GraphWrapper(net.main)
    mean = graph.ops()[-1]
    with pytest.raises(GraphError, match='cannot remove .*relu.*: a result is still read'):
        graph.editor.remove(next(op for op in graph.ops() if op.type() == 'relu'))
    with pytest.raises(GraphError, match='a result is still read'):
        graph.editor.remove(next(op for op in graph.ops() if op.type() == 'split'))
    graph.editor.remove(mean)
    assert types(GraphWrapper(net.main)) == types(graph)[:-1]


def test_remove_a_split_that_nobody_reads() -> None:
    net = build(lambda x: {'y': F.relu(x), 'parts': paddle.split(paddle.concat([x, x], 1), 2, 1)})
    graph = GraphWrapper(net.main)
    for kind in ('split', 'concat'):
        graph = GraphWrapper(net.main)
        graph.editor.remove(next(op for op in graph.ops() if op.type() == kind))
    assert types(GraphWrapper(net.main)) == ['relu']
    assert np.allclose(run(net, {'x': X}, net.vars['y'])[0], X)


def test_a_program_edited_after_a_run_runs_as_edited() -> None:
    net = build(lambda x: {'y': F.softmax(paddle.scale(x, 2.0), 1)})
    exe = slim.Executor()
    first = exe.run(net.main, feed={'x': X}, fetch_list=[net.vars['y']])[0]
    only(net.main, 'scale').set_attr('scale', 0.0)
    only(net.main, 'softmax').set_attr('axis', 3)
    second = exe.run(net.main, feed={'x': X}, fetch_list=[net.vars['y']])[0]
    assert not np.allclose(first, second)
    assert np.allclose(second, 1 / 8)
