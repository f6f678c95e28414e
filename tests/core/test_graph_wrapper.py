"""The wrapper's methods on both IRs, control flow and foreign operators, and what wrapping costs."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program
from paddleslim_ng.errors import GraphError
from tests.core.support import build, refusals_skip, small, types

FORWARD = [
    'conv2d',
    'reshape2',
    'elementwise_add',
    'batch_norm',
    'relu',
    'depthwise_conv2d',
    'split',
    'concat',
    'dropout',
    'pool2d',
    'flatten_contiguous_range',
    'matmul_v2',
    'elementwise_add',
    'softmax_with_cross_entropy',
    'reduce_mean',
]


def momentum() -> Any:
    return paddle.optimizer.Momentum(0.1, 0.9)


def test_operators_and_their_neighbours() -> None:
    graph = GraphWrapper(small().main)
    ops = graph.ops()
    assert [op.type() for op in ops] == FORWARD
    assert [op.idx() for op in ops] == list(range(len(ops)))
    split, concat = ops[6], ops[7]
    assert graph.pre_ops(concat) == [split]
    assert graph.next_ops(split) == [concat]
    assert graph.pre_ops(split) == [ops[5]]
    assert graph.next_ops(concat) == [ops[8]]
    first, second = split.outputs('Out')
    assert concat.inputs('X') == [second, first]
    assert first.inputs() == [split]
    assert first.outputs() == [concat]
    assert first.shape() == (-1, 4, 4, 4)
    assert split.attr('axis') == 1
    assert split.attr('nonsense') is None
    assert split.inputs('Nonsense') == []
    assert 'split' in repr(split)
    assert repr(graph).startswith('GraphWrapper(')


def test_variables_and_parameters() -> None:
    graph = GraphWrapper(small(momentum).main)
    x, w = graph.var('x'), graph.var('w')
    assert x.shape() == (-1, 4, 8, 8)
    assert x.dtype() == w.dtype() == 'float32'
    assert graph.var('label').dtype() == 'int64'
    assert x.is_data
    assert not x.is_parameter()
    assert not graph.is_persistable(x)
    assert w.is_parameter()
    assert w.persistable()
    names = [var.name() for var in graph.all_parameters()]
    assert names[0] == 'w'
    assert len(names) == len(set(names)) == 9
    assert sum('velocity' in name for name in names) == 0
    assert graph.numel_params() == 8 * 4 * 9 + 8 + 4 * 8 + 8 * 9 + 8 * 3 + 3
    velocity = graph.var('w_velocity_0')
    assert velocity.persistable()
    assert not velocity.is_parameter()
    assert velocity.shape() == w.shape()
    assert [op.type() for op in w.outputs()] == ['conv2d', 'conv2d_grad', 'momentum']
    assert graph.has_var('w')
    assert not graph.has_var('v')
    assert {var.name() for var in graph.vars()} >= {'x', 'label', 'w', 'w_velocity_0'}


def test_roles() -> None:
    graph = GraphWrapper(small(lambda: paddle.optimizer.SGD(0.1, weight_decay=0.01)).main)
    roles = ['B' if op.is_bwd_op() else 'O' if op.is_opt_op() else 'F' for op in graph.ops()]
    kinds = types(graph)
    assert roles[: len(FORWARD)] == ['F'] * len(FORWARD)
    assert 'F' not in roles[len(FORWARD) :]
    assert ''.join(sorted(roles, key='FBO'.index)) == ''.join(roles)
    assert {kind for kind, role in zip(kinds, roles) if role == 'O'} == {'scale', 'sum', 'sgd'}
    assert not any(kind.endswith('_grad') for kind, role in zip(kinds, roles) if role != 'B')


@pytest.mark.parametrize('name', ['Adam', 'Adamax', 'Rprop', 'ASGD'])
def test_no_operator_of_an_optimizer_counts_as_forward(name: str) -> None:
    if not hasattr(paddle.optimizer, name):
        pytest.skip('not in this Paddle')

    def optimizer() -> Any:
        options = {'batch_num': 2} if name == 'ASGD' else {}
        return getattr(paddle.optimizer, name)(0.1, grad_clip=nn.ClipGradByNorm(1.0), **options)

    graph = GraphWrapper(small(optimizer).main)
    assert [op.type() for op in graph.ops() if not (op.is_bwd_op() or op.is_opt_op())] == FORWARD


def test_unknown_names_are_answered_with_the_nearest() -> None:
    graph = GraphWrapper(small().main)
    with pytest.raises(GraphError, match=r"no variable 'relu_0.tmp_9'; did you mean .*'relu_0.tmp_0'"):
        graph.var('relu_0.tmp_9')
    with pytest.raises(GraphError, match='expected a name, Variable or Value, got int'):
        graph.var(3)


@pytest.mark.parametrize('thing', [None, 'program', 3, [1]])
def test_only_programs_are_wrapped(thing: Any) -> None:
    with pytest.raises(GraphError, match=r'expected a paddle.static.Program of either IR'):
        GraphWrapper(thing)
    with pytest.raises(GraphError, match=r'expected a paddle.static.Program of either IR'):
        clone_program(thing)


def test_a_wrapper_can_be_wrapped_and_keeps_the_nodes_of_interest() -> None:
    graph = GraphWrapper(small().main, in_nodes=['x'], out_nodes=['y'])
    again = GraphWrapper(graph)
    assert again.program is graph.program
    copy = graph.clone()
    assert copy.in_nodes == ['x']
    assert copy.out_nodes == ['y']
    assert copy.program is not graph.program
    assert types(copy) == types(graph)
    assert copy.ir == graph.ir in ('pir', 'legacy')


def test_control_flow_is_shown_with_what_it_captures() -> None:
    def make(x: Any) -> dict[str, Any]:
        outside = F.relu(x)
        condition = paddle.mean(x) > 0
        y = paddle.static.nn.cond(condition, lambda: outside * 2, lambda: x + 1)
        count = paddle.full([1], 0, 'int64')
        three = paddle.full([1], 3, 'int64')
        _, z = paddle.static.nn.while_loop(
            lambda i, v: paddle.less_than(i, three), lambda i, v: [i + 1, v * outside], [count, y]
        )
        return {'outside': outside, 'z': F.relu(z)}

    net = build(make, (2, 3))
    graph = GraphWrapper(net.main)
    regions = [op for op in graph.ops() if op.type() in ('pd_op.if', 'if', 'conditional_block', 'while')]
    assert len(regions) >= 2
    captured = graph.var(net.vars['outside'])
    readers = captured.outputs()
    assert any(op in regions for op in readers)
    assert [op for op in regions if op.type() == 'while' and op in readers]
    for op in graph.ops():
        graph.pre_ops(op)
        graph.next_ops(op)
        assert op.is_bwd_op() is False
        assert op.attr('nothing') is None
    assert all(isinstance(var.shape(), tuple) and isinstance(var.dtype(), str) for var in graph.vars())
    graph.infer_shape()
    exe = slim.Executor()
    x = np.ones([2, 3], 'float32')
    for program in (net.main, clone_program(net.main, for_test=True)):
        assert exe.run(program, feed={'x': x}, fetch_list=[net.vars['z']])[0].tolist() == [[2.0] * 3] * 2


def test_training_through_control_flow() -> None:
    def make(x: Any) -> dict[str, Any]:
        h = nn.Linear(3, 3)(x)
        y = paddle.static.nn.cond(paddle.mean(x) > 0, lambda: F.dropout(h * 2, 0.5), lambda: h + 1)
        loss = paddle.mean(y)
        paddle.optimizer.SGD(0.1).minimize(loss)
        return {'loss': loss, 'y': y}

    net = build(make, (8, 3))
    graph = GraphWrapper(net.main)
    assert any(op.is_opt_op() for op in graph.ops())
    test = clone_program(net.main, for_test=True)
    assert not any(op.is_bwd_op() or op.is_opt_op() for op in GraphWrapper(test).ops())
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    x = np.random.RandomState(0).rand(8, 3).astype('float32')
    once, twice = (exe.run(test, feed={'x': x}, fetch_list=[net.vars['y']], scope=scope)[0] for _ in range(2))
    assert np.array_equal(once, twice)
    assert (once != 0).all()


def test_operators_that_the_table_does_not_know() -> None:
    net = build(lambda x: {'y': paddle.kron(paddle.nn.functional.zeropad2d(x, [1, 1, 1, 1]), x), 'z': paddle.atan(x)})
    kinds = types(GraphWrapper(net.main))
    assert 'kron' in kinds
    assert 'atan' in kinds


def test_vectors_of_tensors_are_no_variables() -> None:
    def make(x: Any) -> dict[str, Any]:
        parts = paddle.unbind(x, 1)
        return {'y': paddle.stack([parts[3], parts[1]], 0), 'z': paddle.add_n(parts)}

    graph = GraphWrapper(build(make).main)
    unbind, stack, total = graph.ops()
    assert len(unbind.outputs('Out')) == 4
    assert stack.inputs('X') == [unbind.outputs('Out')[3], unbind.outputs('Out')[1]]
    assert total.inputs('X') == unbind.outputs('Out')
    assert [var.shape() for var in graph.vars() if var.is_data] == [(-1, 4, 8, 8)]
    assert unbind.outputs('Out')[0].outputs() == [total]


def test_dtypes_read_alike() -> None:
    def make(x: Any) -> dict[str, Any]:
        kinds = ('float16', 'float64', 'int32', 'int64', 'bool', 'uint8', 'int8')
        return {kind: paddle.cast(x, kind) for kind in kinds}

    net = build(make)
    graph = GraphWrapper(net.main)
    for kind, var in net.vars.items():
        assert graph.var(var).dtype() == kind
    assert [op.attr('out_dtype') for op in graph.ops()] == list(net.vars)


def test_set_shape_and_infer_shape() -> None:
    net = small()
    graph = GraphWrapper(net.main)
    graph.var('x').set_shape((-1, 4, 10, 10))
    assert graph.var('x').shape() == GraphWrapper(net.main).var('x').shape() == (-1, 4, 10, 10)
    graph.infer_shape()
    out = graph.ops()[0].outputs('Output')[0]
    assert out.shape() == ((-1, 8, 8, 8) if graph.ir == 'legacy' else (-1, 8, 6, 6))
    graph.var('w').set_shape([6, 4, 3, 3])
    assert GraphWrapper(net.main).var('w').shape() == (6, 4, 3, 3)
    if graph.ir == 'legacy':
        with pytest.raises(GraphError, match='elementwise_add.* do not fit together'):
            graph.infer_shape()


def deep(blocks: int) -> Any:
    """A residual network with about 9.8 operators per block in its training program."""

    def make(x: Any) -> dict[str, Any]:
        h = x
        for _ in range(blocks):
            h = F.relu(h + nn.BatchNorm2D(4)(nn.Conv2D(4, 4, 3, padding=1, bias_attr=False)(h)))
        loss = paddle.mean(h)
        momentum().minimize(loss)
        return {'loss': loss}

    return build(make)


def work_of_wrapping(blocks: int) -> tuple[int, int]:
    """Return the number of operators, and of calls that it takes to wrap them and to visit all neighbours."""
    net = deep(blocks)
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ('call', 'c_call')

    sys.setprofile(count)
    try:
        graph = GraphWrapper(net.main)
        ops = graph.ops()
        visited = sum(len(graph.pre_ops(op)) + len(graph.next_ops(op)) for op in ops)
    finally:
        sys.setprofile(None)
    assert gc.isenabled()
    assert visited > 2 * len(ops)
    return len(ops), calls


def test_work_grows_with_the_number_of_operators() -> None:
    """Seconds are measured by the benchmarks."""
    with refusals_skip():
        work_of_wrapping(2)  # what is looked up once
        few, many = work_of_wrapping(8), work_of_wrapping(32)
    assert many[0] > 300
    assert many[1] / many[0] < 1.1 * few[1] / few[0]
