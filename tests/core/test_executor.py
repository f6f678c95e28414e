"""Fetching by name, Variable or Value from a program and its relatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program
from paddleslim_ng.errors import GraphError
from tests.core.support import batch, refusals_skip, small


@pytest.fixture
def scope() -> Any:
    return paddle.static.Scope()


def test_fetches_resolve_in_relatives(scope: Any) -> None:
    net = small()
    relatives = [net.main.clone(), clone_program(net.main), GraphWrapper(net.main).clone()]
    with refusals_skip(), paddle.static.program_guard(net.main, net.startup), paddle.utils.unique_name.guard('late_'):
        paddle.optimizer.SGD(0.0).minimize(net.vars['loss'])
    relatives += [net.main, clone_program(net.main), clone_program(net.main, for_test=True)]
    exe = slim.Executor()
    exe.run(net.startup, scope=scope)
    fetches = [net.vars['half'], 'w', GraphWrapper(net.main).var('relu_0.tmp_0'), 'x']
    for program in relatives:
        half, w, relu, x = exe.run(program, feed=batch(), fetch_list=fetches, scope=scope)
        assert half.shape == (4, 4, 4, 4)
        assert np.array_equal(w, np.array(scope.find_var('w').get_tensor()))
        assert relu.shape == (4, 8, 6, 6)
        assert np.array_equal(x, batch()['x'])


def test_a_clone_by_paddle_before_any_naming(scope: Any) -> None:
    net = small()
    copy = net.main.clone()
    exe = slim.Executor()
    exe.run(net.startup, scope=scope)
    names = [GraphWrapper.name_of(value) for value in net.vars.values()]
    by_value = exe.run(copy, feed=batch(), fetch_list=[net.vars['half']], scope=scope)[0]
    by_name = exe.run(net.main, feed=batch(), fetch_list=[names[2]], scope=scope)[0]
    assert by_value.shape == by_name.shape == (4, 4, 4, 4)


def test_equals_paddles_executor(scope: Any) -> None:
    net = small()
    ours, theirs = slim.Executor(), paddle.static.Executor(paddle.CPUPlace())
    ours.run(net.startup, scope=scope)
    test = clone_program(net.main, for_test=True)
    target = [slim.core.lookup(test, net.vars['logits'])]
    wanted = theirs.run(test, feed=batch(), fetch_list=target, scope=scope)[0]
    assert np.array_equal(ours.run(test, feed=batch(), fetch_list=[net.vars['logits']], scope=scope)[0], wanted)
    tensor = ours.run(test, feed=batch(), fetch_list=['linear_0.w_0'], scope=scope, return_numpy=False)[0]
    assert not isinstance(tensor, np.ndarray)
    assert np.array(tensor).shape == (8, 3)
    assert ours.run(test, feed=batch(), scope=scope) == []


def test_the_default_program_and_scope(scope: Any) -> None:
    net = small()
    exe = slim.Executor(paddle.CPUPlace())
    with paddle.static.scope_guard(scope), paddle.static.program_guard(net.main, net.startup):
        exe.run(net.startup)
        assert exe.run(feed=batch(), fetch_list=['relu_0.tmp_0'])[0].shape == (4, 8, 6, 6)
    assert repr(exe.place) == repr(paddle.CPUPlace())
    exe.close()


def test_wrong_targets_are_named(scope: Any) -> None:
    net = small()
    exe = slim.Executor()
    exe.run(net.startup, scope=scope)
    with pytest.raises(GraphError, match=r"no variable 'relu_O.tmp_0'; did you mean 'relu_0.tmp_0'"):
        exe.run(net.main, feed=batch(), fetch_list=['relu_O.tmp_0'], scope=scope)
    with pytest.raises(GraphError, match='expected a name, Variable or Value, got float'):
        exe.run(net.main, feed=batch(), fetch_list=[1.0], scope=scope)


def test_a_program_that_changes_is_resolved_anew(scope: Any) -> None:
    net = small()
    exe = slim.Executor()
    exe.run(net.startup, scope=scope)
    test = clone_program(net.main, for_test=True)
    before = exe.run(test, feed=batch(), fetch_list=['relu_0.tmp_0', 'elementwise_add_0.tmp_0'][:1], scope=scope)[0]
    with paddle.static.program_guard(test):
        y = F.relu6(slim.core.lookup(test, 'relu_0.tmp_0'))
    after, same = exe.run(test, feed=batch(), fetch_list=[y, 'relu_0.tmp_0'], scope=scope)
    assert np.array_equal(after, np.minimum(before, 6))
    assert np.array_equal(same, before)
    graph = GraphWrapper(test)
    graph.editor.scale_after(graph.var('relu_0.tmp_0'), 2.0)
    assert np.allclose(exe.run(test, feed=batch(), fetch_list=['relu_0.tmp_0'], scope=scope)[0], 2 * before)
