"""Translation of PIR programs to legacy ones: constants, computed shapes, in-place operators, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import (
    Executor,
    GraphWrapper,
    clone_program,
    load_array,
    paddle_compat,
    translate_program,
    translate_to_pir,
)
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.core.legacy_protos import declaration_of
from paddleslim_ng.errors import GraphError, UnsupportedOpError
from paddleslim_ng.runtime import data_inputs, synthesize_feeds
from tests.core.support import small

data = paddle.static.data


@pytest.fixture
def pir_mode() -> Iterator[None]:
    if not paddle_compat.has_pir():
        pytest.skip('this Paddle has no PIR programs')
    with ir_mode(pir=True):
        yield


def computed_shapes() -> list[Any]:
    x = data('x', [None, None, 8])
    size = paddle.shape(x)
    y = paddle.reshape(x, [size[0], size[1] * 2, 4])
    return [
        y,
        paddle.reshape(y, [0, -1, 8]),
        x[:, : size[1] - 1],
        paddle.expand(paddle.mean(x, 1, keepdim=True), [size[0], 3, 8]),
        paddle.tile(x, [1, size[0], 1]),
        paddle.full([size[0], 2], 1.5),
        paddle.zeros([size[0], size[1], 8]) + x,
        paddle.strided_slice(x, [2], [6], [0], [-2]),
        *paddle.split(x, [3, 5], 2),
    ]


def computed_attributes() -> list[Any]:
    x = data('x', [None, 8])
    mean = paddle.mean(x)
    return [
        paddle.scale(x, mean),
        paddle.clip(x, min=mean - 1, max=mean + 1),
        paddle.topk(x, paddle.full([1], 3, 'int32'))[0],
        paddle.cumsum(x, 1),
        paddle.where(x > mean, x, -x),
    ]


def indexing() -> list[Any]:
    x, i = data('x', [None, 4, 8]), data('i', [None, 3], 'int64')
    return [
        x[:, 0],
        x[..., 1:3],
        x[:, ::2],
        x[:, [0, 2]],
        x[x > 0],
        x[:, -1, None],
        i.sum(),
        (i > 0).sum(),
        i.astype('int32').sum(),
        paddle.argmax(x, 1, dtype='int32'),
    ]


def literals() -> list[Any]:
    x = data('x', [None, 2])
    return [
        x + paddle.assign(np.array([[1.5, 2.25]], 'float32')),
        paddle.assign(np.array([0.1, 1e300])),
        paddle.assign(np.array([True, False])),
        paddle.concat([x, paddle.full([1, 2], float('-inf'))], 0),
        paddle.full([1], 2**40, 'int64'),
        paddle.full([1], 0.1, 'float64'),
        paddle.full([2], True, 'bool'),
        paddle.full_like(x, 0.1),
        paddle.arange(0, 3, 0.5),
    ]


def assignment() -> list[Any]:
    x, y = data('x', [None, 4, 4]), data('y', [None, 4])
    first, second = paddle.exp(x), paddle.exp(x)
    first[:, 0] = y
    second[:, 1:3] = 0.5
    return [first, second, paddle.linalg.det(x), paddle.linalg.slogdet(x), paddle.diag(paddle.mean(y, 0))]


def recurrent() -> list[Any]:
    x = data('x', [None, 5, 8])
    out, (hidden, cell) = nn.LSTM(8, 4, 2, direction='bidirect')(x)
    return [out, hidden, cell, nn.GRU(8, 4)(x)[0]]


def element_types() -> list[Any]:
    x = data('x', [None, 8])
    half = paddle.cast(paddle.cast(x, 'float16'), 'float32')
    brain = paddle.cast(paddle.cast(x, 'bfloat16'), 'float32')
    return [half, brain, *(paddle.cast(x, kind) for kind in ('int8', 'uint8', 'bool', 'float64', 'int32'))]


def with_labels() -> list[Any]:
    x, label = data('x', [None, 8]), data('label', [None, 1], 'int64')
    logits = nn.Linear(8, 4)(x)
    return [F.cross_entropy(logits, label), paddle.static.accuracy(F.softmax(logits), label)]


@pytest.mark.parametrize(
    'make',
    [computed_shapes, computed_attributes, indexing, literals, assignment, recurrent, element_types, with_labels],
    ids=lambda make: make.__name__,
)
def test_outputs_are_equal(make: Callable[[], list[Any]], pir_mode: None) -> None:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        outputs = make()
    exe = Executor()
    exe.run(startup, scope=scope)
    test = clone_program(main, for_test=True)
    feeds = [var.name() for var in data_inputs(test)]
    legacy = translate_program(main, feeds, outputs)
    for batch in (2, 3):
        feed = synthesize_feeds(test, feeds, batch=batch, dynamic=4)
        expected = exe.run(test, feed, outputs, scope=scope)
        for output, before in zip(outputs, expected):
            (after,) = exe.run(legacy, feed, [output], scope=scope)
            assert (np.asarray(after).shape, after.dtype) == (np.asarray(before).shape, before.dtype)
            np.testing.assert_array_equal(after, before)


def test_a_training_program_is_cut_to_its_forward_part(pir_mode: None) -> None:
    net = small(lambda: paddle.optimizer.Momentum(0.1))
    scope = paddle.static.Scope()
    Executor().run(net.startup, scope=scope)
    statistics = {name: load_array(scope, name) for name in ('batch_norm2d_0.w_1', 'batch_norm2d_0.w_2')}
    legacy = translate_program(net.main, ['x'], [net.vars['logits']])
    assert paddle_compat.is_legacy_program(legacy)
    graph = GraphWrapper(legacy)
    assert not graph.has_var('label')
    assert [var.name() for var in data_inputs(graph)] == ['x'] and graph.var('x').shape() == (-1, 4, 8, 8)
    assert [op.type() for op in graph.ops()][:4] == ['conv2d', 'reshape2', 'elementwise_add', 'batch_norm']
    norm = next(op for op in graph.ops() if op.type() == 'batch_norm')
    assert norm.attr('is_test') is True and norm.outputs('MeanOut') == norm.inputs('Mean')
    assert {var.name() for var in graph.all_parameters()} >= {'w', *statistics}
    assert legacy.global_block().var('w').trainable and not legacy.global_block().var('batch_norm2d_0.w_1').trainable
    feed = {'x': np.random.default_rng(0).random((3, 4, 8, 8), 'float32')}
    expected = Executor().run(
        clone_program(net.main, True), {**feed, 'label': np.zeros([3, 1], 'int64')}, [net.vars['logits']], scope=scope
    )[0]
    np.testing.assert_array_equal(Executor().run(legacy, feed, [net.vars['logits']], scope=scope)[0], expected)
    for name, before in statistics.items():
        np.testing.assert_array_equal(load_array(scope, name), before)


def test_attributes_have_the_kinds_that_paddle_declares(pir_mode: None) -> None:
    kinds = {'INT': int, 'LONG': int, 'BOOL': bool, 'FLOAT': float, 'STRING': str}
    net = small()
    legacy = translate_program(net.main, ['x'], [net.vars['logits']])
    for op in legacy.global_block().ops:
        declared = declaration_of(op.type)
        assert declared is not None
        assert set(op.output_names) >= {slot.name for slot in declared.outputs.values() if not slot.optional}
        for name, attribute in declared.attributes.items():
            if attribute.kind in kinds:
                assert type(op.attr(name)) is kinds[attribute.kind], (op.type, name)


def test_overwritten_variables_are_seen_by_later_readers(pir_mode: None) -> None:
    main = paddle.static.Program()
    with paddle.static.program_guard(main):
        x = data('x', [None, 2])
        counter = paddle.zeros([1])
        paddle.increment(counter)
        y = x + counter
    legacy = translate_program(main, ['x'], [y, counter])
    feed = {'x': np.zeros([1, 2], 'float32')}
    for program in (main, legacy):
        found = Executor().run(program, feed, [y, counter])
        assert [array.tolist() for array in found] == [[[1.0, 1.0]], [1.0]]


def test_all_that_is_unknown_is_listed_at_once(pir_mode: None) -> None:
    main = paddle.static.Program()
    with paddle.static.program_guard(main):
        x = data('x', [None, 4])
        y = paddle.static.nn.cond(paddle.mean(x) > 0, lambda: x + 1, lambda: x - 1)
        y = paddle.static.nn.cond(paddle.mean(y) > 0, lambda: y + 1, lambda: y - 1)
        array, index = paddle.tensor.create_array('float32'), paddle.zeros([1], 'int64')
        paddle.tensor.array_write(y, index, array)
        out = F.relu(paddle.tensor.array_read(array, index))
    count = len(main.global_block().ops)
    with pytest.raises(UnsupportedOpError, match='cannot be translated') as error:
        translate_program(main, ['x'], [out])
    for part in ('if (2x, first makes', 'control flow', 'create_array (1x', 'array_write (1x', 'array_read (1x'):
        assert part in str(error.value)
    assert error.value.op == 'if' and error.value.variable and len(main.global_block().ops) == count


def test_wrong_feeds_and_fetches(pir_mode: None) -> None:
    net = small()
    with pytest.raises(GraphError, match='did you mean'):
        translate_program(net.main, ['xx'], [net.vars['logits']])
    with pytest.raises(GraphError, match='needed'):
        translate_program(net.main, [], [net.vars['logits']])
    with pytest.raises(GraphError, match='at least one'):
        translate_program(net.main, ['x'], [])


def test_a_legacy_program_is_only_cut(ir: str) -> None:
    with ir_mode(pir=False):
        main = paddle.static.Program()
        with paddle.static.program_guard(main):
            x = data('x', [None, 4])
            y = F.relu(x)
            F.relu(y)
    cut = translate_program(main, ['x'], [y])
    assert [op.type for op in cut.global_block().ops] == ['relu']


@pytest.mark.skipif(paddle_compat.has_pir(), reason='this Paddle has PIR')
def test_translating_to_pir_needs_it() -> None:
    net = small()
    with pytest.raises(GraphError, match='has no PIR'):
        translate_to_pir(net.main, ['x'], [net.vars['logits']])


def test_dynamic_mode_is_left_and_entered_again(pir_mode: None) -> None:
    net = small()
    paddle.disable_static()
    legacy = translate_program(net.main, ['x'], [net.vars['logits']])
    assert paddle.in_dynamic_mode() and slim.core.is_legacy_program(legacy)
