"""Names are given once: they survive clones, minimize, insertions and a second wrapping, on both IRs."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, lookup, set_name
from paddleslim_ng.errors import GraphError
from tests.core.support import batch, build, refusals_skip, small


def names(program: Any) -> list[list[str]]:
    """Return the names of the results of the forward operators, save batch norm's reserve, which test mode drops."""
    ops = [op for op in GraphWrapper(program).ops() if not (op.is_bwd_op() or op.is_opt_op())]
    slots = [sorted(slot for slot in op.output_slots() if slot != 'ReserveSpace') for op in ops]
    return [[var.name() for slot in group for var in op.outputs(slot)] for op, group in zip(ops, slots)]


def test_names_follow_the_legacy_manner() -> None:
    graph = GraphWrapper(small().main)
    made = {op.type(): op.all_outputs()[0].name() for op in graph.ops()}
    assert made['conv2d'] in ('conv2d_0.tmp_0', 'conv2d_1.tmp_0')  # Paddle 2 counts the layer, too
    assert made['relu'] == 'relu_0.tmp_0'
    assert made['depthwise_conv2d'] == 'depthwise_conv2d_0.tmp_0'
    assert [var.name() for var in graph.ops()[6].outputs('Out')] == ['split_0.tmp_0', 'split_0.tmp_1']
    norm = next(op for op in graph.ops() if op.type() == 'batch_norm')
    assert norm.outputs('Y')[0].name() == 'batch_norm_0.tmp_2'
    assert norm.outputs('SavedMean')[0].name() == 'batch_norm_0.tmp_0'
    assert norm.outputs('SavedVariance')[0].name() == 'batch_norm_0.tmp_1'
    assert norm.inputs('Scale')[0].name() == 'batch_norm2d_0.w_0'
    every = [var.name() for var in graph.vars()]
    assert len(every) == len(set(every))


def test_names_survive_minimize_clone_and_wrapping() -> None:
    net = small()
    before = names(net.main)
    clones = [clone_program(net.main), clone_program(net.main, for_test=True), net.main.clone()]
    with refusals_skip(), paddle.static.program_guard(net.main, net.startup), paddle.utils.unique_name.guard('late_'):
        paddle.optimizer.Momentum(0.1).minimize(net.vars['loss'])
    assert names(net.main) == before
    for program in (*clones, clone_program(net.main), clone_program(net.main, for_test=True), net.main.clone()):
        assert names(program) == before
        assert names(program) == before


def test_insertions_shift_nothing() -> None:
    net = small()
    graph = GraphWrapper(net.main)
    before = names(net.main)
    relu = next(op for op in graph.ops() if op.type() == 'relu')
    graph.editor.scale_after(relu.outputs('Out')[0], 2.0)
    with paddle.static.program_guard(net.main, net.startup), paddle.utils.unique_name.guard('late_'):
        F.relu(lookup(net.main, graph.ops()[0].all_outputs()[0]))
    after = names(net.main)
    assert [name for row in before for name in row if name not in [n for r in after for n in r]] == []
    fresh = [name for row in after for name in row if name not in [n for r in before for n in r]]
    assert 'relu_0.tmp_0.unscaled' in fresh
    assert len(fresh) == 2
    assert graph.ir == 'legacy' or 'relu_1.tmp_0' in fresh
    every = [var.name() for var in GraphWrapper(net.main).vars()]
    assert len(every) == len(set(every))


def test_set_name() -> None:
    net = small()
    named = set_name(net.vars['logits'], 'logits')
    set_name(net.vars['half'], 'half')
    assert GraphWrapper(net.main).var('logits').shape() == (-1, 3)
    assert GraphWrapper(net.main).var('half').inputs()[0].type() == 'split'
    assert set_name(named, 'logits') is named
    copy = clone_program(net.main, for_test=True)
    exe, scope = slim.Executor(), paddle.static.Scope()
    exe.run(net.startup, scope=scope)
    by_name, by_value = exe.run(copy, feed=batch(), fetch_list=['logits', named], scope=scope)
    assert np.array_equal(by_name, by_value)
    for taken in ('w', 'x', 'half', 'relu_0.tmp_0'):
        with pytest.raises(GraphError, match=f'already has a variable .{taken}'):
            set_name(named, taken)
    graph = GraphWrapper(net.main)
    for fixed in ('x', 'w'):
        with pytest.raises(GraphError, match=f'cannot rename .{fixed}'):
            set_name(graph.var(fixed).raw, 'other')


def test_lookup() -> None:
    net = small()
    copy = clone_program(net.main)
    for item in ('w', 'relu_0.tmp_0', net.vars['logits'], GraphWrapper(net.main).var('x')):
        found = lookup(copy, item)
        assert GraphWrapper.name_of(found) == GraphWrapper.name_of(item)
        assert found is not item
    with pytest.raises(GraphError, match=r"no variable 'relu_0.tmp'; did you mean 'relu_0.tmp_0'"):
        lookup(copy, 'relu_0.tmp')


def test_names_are_left_out_of_saved_models(tmp_path: Any, ir: str) -> None:
    net = small()
    graph = GraphWrapper(net.main)
    set_name(net.vars['half'], 'half')
    exe, scope = paddle.static.Executor(), paddle.static.Scope()
    with paddle.static.scope_guard(scope):
        exe.run(net.startup)
        test = slim.core.cut_program(clone_program(net.main, for_test=True), ['x'], [net.vars['logits']])
        kinds = [op.type() for op in GraphWrapper(test).ops()]
        path = str(tmp_path / 'model')
        feeds, fetches = [lookup(test, 'x')], [lookup(test, net.vars['logits'])]
        paddle.static.save_inference_model(path, feeds, fetches, exe, program=test)
        wanted = slim.Executor().run(test, feed={'x': batch()['x']}, fetch_list=fetches)[0]
        loaded, feed_names, targets = paddle.static.load_inference_model(path, exe)
        found = exe.run(loaded, feed={feed_names[0]: batch()['x']}, fetch_list=targets)[0]
    assert np.array_equal(wanted, found)
    assert [op.type() for op in GraphWrapper(loaded).ops() if op.type() not in ('feed', 'fetch', 'scale')] == kinds
    assert graph.ir == ir


def test_layers_of_one_kind_are_numbered_in_order() -> None:
    def make(x: Any) -> dict[str, Any]:
        return {f'y{i}': F.relu(nn.Conv2D(4, 4, 1, bias_attr=False)(x)) for i in range(12)}

    net = build(make)
    assert [GraphWrapper.name_of(var) for var in net.vars.values()] == [f'relu_{i}.tmp_0' for i in range(12)]
