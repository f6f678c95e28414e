"""Parameters that are added to a program: read by new operators, and saved with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.errors import GraphError


@pytest.mark.parametrize('dtype', ['int8', 'int16', 'float32'])
def test_a_parameter_is_computed_with_and_saved(dtype: str, tmp_path: Path) -> None:
    program, scope = paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(program):
        x = paddle.static.data('x', [None, 3], 'float32')
        y = x + 1.0
    graph = GraphWrapper(program)
    added = add_parameter(graph, 'codes', [3], dtype)
    assert (added.name(), added.shape(), added.dtype()) == ('codes', (3,), dtype)
    e = Expressions(Insertion(graph))
    rounded = e.multiply(e.sign(graph.var(y)), e.floor(e.abs(graph.var(y))))
    out = slim.core.set_name(e.multiply(rounded, e.cast(graph.var('codes'), 'float32')).raw, 'out')
    store_array(scope, 'codes', np.array([1, -2, 3], dtype))
    feed = {'x': np.array([[-3.5, 0.5, 1.75]], 'float32')}
    expected = [[-2.0, -2.0, 6.0]]
    assert slim.Executor().run(program, feed, [out], scope=scope)[0].tolist() == expected
    assert [var.name() for var in GraphWrapper(program).all_parameters()] == ['codes']
    slim.runtime.save_inference_model(program, tmp_path / 'model', ['x'], [out], scope, feed=feed)
    model = slim.runtime.load_inference_model(tmp_path / 'model', paddle.static.Scope())
    assert slim.core.load_array(model.scope, 'codes').dtype == dtype
    assert slim.Executor().run(model.program, feed, model.fetches, scope=model.scope)[0].tolist() == expected


def test_a_trainable_parameter_is_trained_with_its_own_regularizer() -> None:
    """``loss = mean(x * w)``: the step is that of ``mean(x)`` and of decay by the parameter's own 0.5, not 9."""
    program, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(program, startup):
        paddle.static.data('x', [None, 3], 'float32')
    graph = GraphWrapper(program)
    weight = add_parameter(graph, 'w', [3], 'float32', trainable=True, regularizer=paddle.regularizer.L2Decay(0.5))
    e = Expressions(Insertion(graph))
    loss = e.mean(e.multiply(graph.var('x'), weight))
    with paddle.static.program_guard(program, startup):
        paddle.optimizer.SGD(0.1, weight_decay=paddle.regularizer.L2Decay(9.0)).minimize(loss.raw)
    exe = slim.Executor()
    exe.run(startup, scope=scope)
    store_array(scope, 'w', np.array([1, 2, 3], 'float32'))
    exe.run(program, {'x': np.array([[3, 6, 9]], 'float32')}, scope=scope)
    wanted = np.array([1, 2, 3]) - 0.1 * (np.array([1, 2, 3]) + 0.5 * np.array([1, 2, 3]))
    np.testing.assert_allclose(slim.core.load_array(scope, 'w'), wanted, rtol=1e-6)


def test_what_is_refused() -> None:
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        paddle.static.data('x', [None, 3], 'float32')
    graph = GraphWrapper(program)
    before = repr(graph.vars())
    with pytest.raises(GraphError, match='already has a variable'):
        add_parameter(graph, 'x', [3], 'int8')
    with pytest.raises(GraphError, match='every size must be known'):
        add_parameter(graph, 'y', [-1, 3], 'int8')
    assert repr(GraphWrapper(program).vars()) == before
