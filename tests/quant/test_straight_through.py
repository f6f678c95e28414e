"""Fake quantizers inserted before and after the backward pass train alike, on both IRs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant import find_targets
from paddleslim_ng.quant.grid_quantizers import (
    AbsMaxQuantizer,
    BatchQuantizer,
    MovingAverageQuantizer,
    RangeQuantizer,
)
from paddleslim_ng.quant.straight_through import quantize_reads
from tests.quant import training_nets as nets

nn = paddle.nn
F = nn.functional

QUANTIZERS: dict[str, Callable[[], Any]] = {
    'abs_max': lambda: AbsMaxQuantizer(4),
    'batch': lambda: BatchQuantizer(4),
    'moving average': lambda: MovingAverageQuantizer(3),
    'range': lambda: RangeQuantizer(4, 2),
}


def insert(program: Any, scope: Any, make: Callable[[], Any], full: bool = False) -> None:
    """Quantize all that can be quantized, activations by what ``make`` returns."""
    graph = GraphWrapper(program)
    targets = find_targets(graph, full=full)
    readers: dict[str, list[Any]] = {}
    for target in targets.operators:
        for name in target.tensors:
            readers.setdefault(name, []).append(target.op)
    for name, ops in readers.items():
        quantizer = AbsMaxQuantizer(4, targets.weights[name]) if name in targets.weights else make()
        quantize_reads(graph, graph.var(name), ops, quantizer)
        for state, value in quantizer.initial.items():
            store_array(scope, state, value)


def joined(x: Any) -> Any:
    """A concatenation of two tensors one of which is read twice, a square, and what PIR's gradients do not read."""
    x = F.relu(nn.Conv2D(3, 4, 3)(x))
    y = paddle.concat([x, nn.Conv2D(4, 4, 1)(x)], 1)
    y = F.adaptive_avg_pool2d(y, 2)
    y = paddle.transpose(y * y, [0, 2, 3, 1]) + paddle.transpose(y, [0, 2, 3, 1])
    return nn.Linear(32, 5)(paddle.flatten(y, 1))


@pytest.mark.parametrize(
    ('kind', 'body'), [*((kind, nets.body) for kind in QUANTIZERS), ('moving average', joined), ('batch', joined)]
)
def test_training_is_the_same_whether_quantized_before_or_after_minimize(kind: str, body: Any) -> None:
    results = []
    for after in (False, True):
        net = nets.build(body)
        optimizer = paddle.optimizer.Momentum(0.02, 0.9)
        program = clone_program(net.program)
        if after:
            net = nets.minimize(net, program, optimizer)
        insert(program, net.scope, QUANTIZERS[kind], full=body is joined)
        if not after:
            net = nets.minimize(net, program, optimizer)
        losses = net.steps(4)
        results.append((losses, net.state()))
    (before_losses, before), (after_losses, after_state) = results
    np.testing.assert_allclose(after_losses, before_losses, rtol=1e-6)
    if GraphWrapper(net.program).ir == 'legacy':  # what Paddle reduces gradients among devices by
        said = [name for op in net.program.global_block().ops for name in op.attr('op_role_var') or []]
        assert set(net.state()) >= set(said[::2]) and said
    for name, array in before.items():
        np.testing.assert_allclose(after_state[name], array, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('after', [False, True])
def test_the_gradient_is_that_of_numpy(after: bool) -> None:
    """A linear layer on the input: its weight gets the gradient of what it reads, what is cut off gets none."""

    def body(x: Any) -> Any:
        scaled = paddle.flatten(x, 1) * paddle.static.create_parameter(
            [192], 'float32', attr=paddle.ParamAttr(name='factor', initializer=nn.initializer.Constant(1.0))
        )
        return nn.Linear(192, 5, weight_attr=paddle.ParamAttr(name='w'), bias_attr=False)(scaled)

    net = nets.build(body)
    program = clone_program(net.program)
    if after:
        net = nets.minimize(net, program, paddle.optimizer.SGD(1.0))
    graph = GraphWrapper(program)
    (product,) = (op for op in graph.ops() if op.type() in ('matmul_v2', 'mul', 'matmul'))
    x, w = product.inputs('X')[0], product.inputs('Y')[0]
    quantizers = MovingAverageQuantizer(4, updates=False), AbsMaxQuantizer(4, 1)
    for var, quantizer in zip((x, w), quantizers):
        quantize_reads(graph, var, [product], quantizer)
    if not after:
        net = nets.minimize(net, program, paddle.optimizer.SGD(1.0))
    scale = np.float32(0.2)
    store_array(net.scope, f'{x.name()}.quant_scale', np.array([scale]))
    before = {name: load_array(net.scope, name).astype('float64') for name in ('w', 'factor')}
    feed = nets.feed_of(0)
    net.steps(1)
    moved = {name: before[name] - load_array(net.scope, name) for name in before}

    images = feed['x'].reshape(4, -1).astype('float64')
    steps = images / scale
    images_on_grid = np.clip(np.sign(steps) * np.floor(np.abs(steps) + 0.5), -7, 7) * scale
    channels = np.abs(before['w']).max(axis=0) / 7
    weight = np.sign(before['w']) * np.floor(np.abs(before['w'] / channels) + 0.5) * channels
    logits = images_on_grid @ weight
    likely = np.exp(logits - logits.max(1, keepdims=True))
    arriving = (likely / likely.sum(1, keepdims=True) - np.eye(5)[feed['label'][:, 0]]) / 4
    inside = np.abs(steps) < 7.499
    assert 0.02 < 1 - inside.mean() < 0.5
    np.testing.assert_allclose(moved['w'], images_on_grid.T @ arriving, atol=1e-5)
    np.testing.assert_allclose(moved['factor'], ((arriving @ weight.T) * inside * images).sum(0), atol=1e-5)


def test_halves_round_away_from_zero_and_nothing_is_off_the_grid() -> None:
    values = np.array([0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, 7.4, 7.5, -7.6, 1e30, -np.inf, 0.0], 'float32')
    main = paddle.static.Program()
    with paddle.static.program_guard(main):
        x = paddle.static.data('x', [12], 'float32')
        paddle.nn.functional.relu(x)
    graph = GraphWrapper(main)
    quantizer = MovingAverageQuantizer(4, updates=False)
    y = quantize_reads(graph, graph.var('x'), graph.ops()[:1], quantizer)
    scope = paddle.static.Scope()
    store_array(scope, 'x.quant_scale', np.ones(1, 'float32'))
    (found,) = slim.Executor().run(main, {'x': values}, [y.raw], scope=scope)
    assert found.tolist() == [1, -1, 2, 3, -3, 0, 7, 7, -7, 7, -7, 0]


def test_what_cannot_be_told_is_an_error_and_changes_nothing() -> None:
    def twice(x: Any) -> Any:
        layer = nn.Conv2D(3, 4, 3, bias_attr=False)
        return nn.Linear(4 * 36, 5)(paddle.flatten(F.relu(layer(x)), 1))

    net = nets.build(twice, optimizer=lambda: paddle.optimizer.SGD(0.1))
    graph = GraphWrapper(net.program)
    before = repr(graph.ops())
    (conv,) = (op for op in graph.ops() if op.type() == 'conv2d')
    (backward,) = (op for op in graph.ops() if op.type() == 'conv2d_grad')
    weight = conv.inputs('Filter')[0]
    (linear,) = (op for op in graph.ops() if op.type() in ('matmul_v2', 'mul'))

    class Learning(AbsMaxQuantizer):
        learns = True

    for var, readers, quantizer, message in (
        (weight, [], AbsMaxQuantizer(8), 'no operators'),
        (weight, [linear], AbsMaxQuantizer(8), 'does not read'),
        (weight, [backward], AbsMaxQuantizer(8), 'backward pass'),
        (conv.inputs('Input')[0], [conv], Learning(8), 'does not compute its gradient'),
    ):
        with pytest.raises(GraphError, match=message):
            quantize_reads(graph, var, readers, quantizer)
    assert repr(GraphWrapper(net.program).ops()) == before


def test_one_of_two_equal_operators_cannot_be_told_after_minimize() -> None:
    def equal(x: Any) -> Any:
        x = F.relu(x * paddle.static.create_parameter([1], 'float32'))
        return nn.Linear(192, 5)(paddle.flatten(F.leaky_relu(x) + F.leaky_relu(x), 1))

    net = nets.build(equal, optimizer=lambda: paddle.optimizer.SGD(0.1))
    graph = GraphWrapper(net.program)
    first, second = (op for op in graph.ops() if op.type() == 'leaky_relu')
    if any(op in graph.editor.grad_ops(second) for op in graph.editor.grad_ops(first)):
        with pytest.raises(GraphError, match='quantize before minimize'):
            quantize_reads(graph, first.inputs('X')[0], [first], AbsMaxQuantizer(8))
    quantize_reads(graph, first.inputs('X')[0], [first, second], AbsMaxQuantizer(8))
    net.steps(1)
