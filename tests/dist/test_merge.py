"""A merged teacher computes what it computes alone, learns nothing, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, has_array, load_array, store_array
from paddleslim_ng.core.teachers import teacher_of, teacher_prefixes, teacher_variables
from paddleslim_ng.dist import merge, strip
from paddleslim_ng.dist.teacher_state import StateTransfer
from paddleslim_ng.errors import ConfigError, GraphError
from tests.dist.nets import Net, batch

MAP = {'image': 'image'}


def alone(net: Net, fetch: Any, feed: dict[str, Any]) -> Any:
    program = clone_program(net.main, for_test=True)
    return slim.Executor().run(program, {'image': feed['image'], 'label': feed['label']}, [fetch], scope=net.scope)[0]


def snapshot(program: Any) -> list[str]:
    return [repr(op) for op in GraphWrapper(program).ops()]


def test_outputs_are_those_of_the_teacher_alone() -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    feed = batch()
    want = [alone(teacher, item, feed) for item in (teacher.logits, teacher.features)]
    merged = merge(teacher.main, student.main, MAP, paddle.CPUPlace(), scope=student.scope, teacher_scope=teacher.scope)
    assert merged.difference == 0.0
    assert merged.left_out == ['softmax_with_cross_entropy', 'reduce_mean']
    got = slim.Executor().run(
        student.main, feed, [merged[teacher.logits], merged[teacher.features]], scope=student.scope
    )
    for mine, theirs in zip(got, want):
        np.testing.assert_array_equal(mine, theirs)
    for name in merged:
        assert merged.names[name] == ('image' if name == 'image' else 'teacher_' + name)
        assert GraphWrapper.name_of(merged[name]) == merged.names[name]
    assert merged.outputs == [merged.names[GraphWrapper.name_of(teacher.logits)]]


@pytest.mark.parametrize('optimizer', [paddle.optimizer.Momentum, paddle.optimizer.Adam])
def test_only_the_student_learns(optimizer: Any) -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    merged = merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    with paddle.static.program_guard(student.main, student.startup):
        gap = merged[teacher.logits] - student.logits
        optimizer(0.05).minimize(student.loss + paddle.mean(gap * gap))
    student.start()
    graph = GraphWrapper(student.main)
    mine = {var.name() for group in teacher_variables(graph).values() for var in group}
    assert {name[len('teacher_') :] for name in mine} == {
        name for name in teacher.state() if not name.endswith(('_moment', '_velocity'))
    }
    updated = {var.name() for op in graph.ops() if op.is_opt_op() for var in op.inputs('Param')}
    assert updated and not updated & mine
    state = [var.name() for var in graph.vars() if var.persistable()]
    assert not [name for name in state if name not in mine and name.startswith(('teacher_', 't_'))]
    before = {name: load_array(student.scope, name) for name in mine}
    own = load_array(student.scope, 'conv')
    for step in range(5):
        student.exe.run(student.main, feed=batch(step), scope=student.scope)
    for name, array in before.items():
        np.testing.assert_array_equal(load_array(student.scope, name), array)
    assert not np.array_equal(load_array(student.scope, 'conv'), own)


def test_a_step_of_the_student_is_that_of_the_student_alone() -> None:
    """The teacher stands beside the student: without a loss against it nothing changes, not even dropout."""
    results = []
    for with_teacher in (False, True):
        student = Net(3, minimize=None)
        if with_teacher:
            teacher = Net(5, 't_', seed=2)
            merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
        with paddle.static.program_guard(student.main, student.startup), paddle.utils.unique_name.guard():
            paddle.optimizer.Momentum(0.05, 0.9).minimize(student.loss)
        student.start()
        store_array(student.scope, 'conv', np.random.default_rng(3).standard_normal((3, 2, 3, 3)).astype('float32'))
        paddle.seed(5)
        for step in range(3):
            student.exe.run(student.main, feed=batch(step), scope=student.scope)
        results.append({k: v for k, v in student.state().items() if not k.startswith('teacher_')})
    assert results[0].keys() == results[1].keys()
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=name)


def test_a_teacher_of_the_same_architecture() -> None:
    student, teacher = Net(3, seed=1), Net(3, seed=2)
    want = alone(teacher, teacher.logits, batch())
    merged = merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    got = slim.Executor().run(student.main, batch(), [merged[teacher.logits]], scope=student.scope)[0]
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(load_array(student.scope, 'conv'), load_array(student.scope, 'teacher_conv'))


def test_in_one_scope_the_teacher_moves() -> None:
    scope = paddle.static.Scope()
    teacher = Net(5, 't_', scope, seed=2)
    state = {k: v for k, v in teacher.state().items() if k.startswith('t_')}
    student = Net(5, '', scope)
    merge(teacher.main, student.main, MAP, scope=scope)
    for name, array in state.items():
        assert scope.find_var(name) is None, name
        np.testing.assert_array_equal(load_array(scope, 'teacher_' + name), array)
    assert all(has_array(scope, name) for name in student.statistics()), 'the student has them, too'
    with pytest.raises(GraphError, match=r'an earlier merge has moved it'):
        merge(teacher.main, Net(5, '', scope).main, MAP, scope=scope)


def test_one_scope_and_the_same_names(caplog: pytest.LogCaptureFixture) -> None:
    scope = paddle.static.Scope()
    teacher, student = Net(3, 't_', scope, seed=2), Net(3, 's_', scope)
    merge(teacher.main, student.main, MAP, scope=scope)
    assert 'share 4 names in one scope' in caplog.text
    wider, scope = Net(5, 't_', scope, seed=2), paddle.static.Scope()
    student = Net(3, 's_', wider.scope)
    with pytest.raises(GraphError, match=r'has the shape \[5\], and \[3\] in its scope, where the student has'):
        merge(wider.main, student.main, MAP, scope=wider.scope, name_prefix='b_')


def test_a_training_program_of_the_teacher_and_startup_afterwards() -> None:
    teacher = Net(5, 't_', minimize=paddle.optimizer.Adam(0.01), seed=2)
    teacher.exe.run(teacher.main, feed=batch(), scope=teacher.scope)
    student = Net(3)
    want = alone(teacher, teacher.logits, batch())
    merged = merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    student.start()
    got = slim.Executor().run(student.main, batch(), [merged[teacher.logits]], scope=student.scope)[0]
    np.testing.assert_array_equal(got, want)
    assert not [name for name in merged.names if 'moment' in name or '@GRAD' in name]


def test_the_loss_of_the_teacher_with_its_label() -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    want = alone(teacher, teacher.loss, batch())
    merged = merge(
        teacher.main,
        student.main,
        {'image': 'image', 'label': 'label'},
        scope=student.scope,
        teacher_scope=teacher.scope,
    )
    assert merged.left_out == []
    got = slim.Executor().run(student.main, batch(), [merged[teacher.loss]], scope=student.scope)[0]
    np.testing.assert_array_equal(got, want)


def test_several_teachers_and_inputs_of_their_own() -> None:
    student, first, second = Net(3), Net(5, seed=2), Net(4, image='picture', seed=3)
    want = [alone(first, first.logits, batch())]
    one = merge(first.main, student.main, MAP, scope=student.scope, teacher_scope=first.scope, name_prefix='a_')
    two = merge(
        second.main,
        student.main,
        {},
        scope=student.scope,
        teacher_scope=second.scope,
        name_prefix='b_',
        merge_feed=False,
    )
    assert two.inputs == {'picture': 'b_picture', 'label': 'b_label'}
    assert teacher_prefixes(GraphWrapper(student.main)) in (['a_', 'b_'], ['b_', 'a_'])
    feed = {**batch(), 'b_picture': batch(7)['image'], 'b_label': batch(7)['label']}
    got = slim.Executor().run(student.main, feed, [one[first.logits], two[second.logits]], scope=student.scope)
    program = clone_program(second.main, for_test=True)
    other = {'picture': batch(7)['image'], 'label': batch(7)['label']}
    want += slim.Executor().run(program, other, [second.logits], scope=second.scope)
    for mine, theirs in zip(got, want):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize('format', ['json', 'pdmodel'])
def test_saved_teachers_of_either_format(format: str, tmp_path: Path, ir: str) -> None:
    if format == 'json' and paddle.__version__.startswith('2.'):
        pytest.skip('Paddle 2 has no .json models')
    teacher = Net(5, 't_', seed=2)
    want = alone(teacher, teacher.logits, batch())
    slim.runtime.save_inference_model(
        teacher.main, tmp_path / 'teacher', ['image'], [teacher.logits], teacher.scope, format=format
    )
    model = slim.runtime.load_inference_model(tmp_path / 'teacher', paddle.static.Scope())
    student = Net(3)
    merged = merge(model, student.main, MAP, scope=student.scope)
    assert merged.difference == 0.0 or (merged.difference is not None and merged.difference < 1e-6)
    (output,) = merged.outputs
    got = slim.Executor().run(student.main, batch(), [output], scope=student.scope)[0]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    with paddle.static.program_guard(student.main, student.startup):
        gap = GraphWrapper(student.main).var(output).raw - student.logits
        paddle.optimizer.Adam(0.01).minimize(paddle.mean(gap * gap))
    student.start()
    student.exe.run(student.main, feed=batch(), scope=student.scope)
    assert has_array(student.scope, 'teacher_t_conv')


def test_control_flow_in_the_teacher(ir: str) -> None:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 2, 6, 6], 'float32')
        flat = paddle.nn.Linear(72, 4, weight_attr=paddle.ParamAttr(name='branch'))(paddle.flatten(image, 1))
        try:
            out = paddle.static.nn.cond(paddle.mean(flat) > 0.0, lambda: flat + 1.0, lambda: flat - 1.0)
        except TypeError:
            assert ir == 'legacy' and paddle.__version__.startswith('3.'), 'only there Paddle cannot build it'
            return
        out = out * 2.0
    exe = slim.Executor()
    exe.run(startup, scope=scope)
    student = Net(3)
    merged = merge(main, student.main, MAP, scope=student.scope, teacher_scope=scope)
    for number in range(4):
        feed = {'image': batch(number)['image']}
        want = exe.run(main, feed, [out], scope=scope)[0]
        got = exe.run(student.main, batch(number), [merged[out]], scope=student.scope)[0]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ({'imaeg': 'image'}, r"the teacher has no input 'imaeg'.*did you mean 'image'"),
        ({'image': 'imag'}, r"the student has no input 'imag'.*did you mean 'image'"),
        (
            {'image': 'label'},
            r"float32 \[-1, 2, 6, 6\] as 'image', and the student has int64 \[-1, 1\] as 'label'",
        ),
        ({'label': 'label'}, r"needs its input 'image' for conv2d with the parameter 't_conv'"),
    ],
)
def test_bad_maps_touch_nothing(names: dict[str, str], message: str) -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    before = snapshot(student.main)
    with pytest.raises(GraphError, match=message):
        merge(teacher.main, student.main, names, scope=student.scope, teacher_scope=teacher.scope)
    assert snapshot(student.main) == before


def test_a_feed_that_the_teacher_does_not_read_is_an_error() -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    before = snapshot(student.main)
    scopes = {'scope': student.scope, 'teacher_scope': teacher.scope}
    with pytest.raises(GraphError, match=r"feed has 'imag', and the teacher reads \['image'\]; did you mean 'image'"):
        merge(teacher.main, student.main, MAP, feed={'imag': batch()['image']}, **scopes)
    assert snapshot(student.main) == before
    assert not has_array(student.scope, 'teacher_t_conv')
    assert merge(teacher.main, student.main, MAP, feed={'image': batch()['image']}, **scopes).difference == 0.0


def test_some_inputs_shared_and_some_of_its_own() -> None:
    """As with PaddleSlim, the map counts with merge_feed=False, too."""
    student, teacher = Net(3), Net(5, 't_', seed=2)
    program = clone_program(teacher.main, for_test=True)
    feed = {'image': batch()['image'], 'label': batch(7)['label']}
    want = slim.Executor().run(program, feed, [teacher.loss], scope=teacher.scope)[0]
    merged = merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope, merge_feed=False)
    assert merged.inputs == {'image': 'image', 'label': 'teacher_label'}
    assert (merged.left_out, merged.difference) == ([], 0.0)
    fed = {**batch(), 'teacher_label': batch(7)['label']}
    got = slim.Executor().run(student.main, fed, [merged[teacher.loss]], scope=student.scope)[0]
    np.testing.assert_array_equal(got, want)


def test_shapes_that_cannot_match() -> None:
    student, teacher = Net(3, batch=4), Net(5, 't_', seed=2, batch=8)
    with pytest.raises(GraphError, match=r'\[8, 2, 6, 6\].*\[4, 2, 6, 6\]'):
        merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)


def test_collisions_and_missing_parameters_are_errors_that_touch_nothing() -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    before = snapshot(student.main)
    with pytest.raises(GraphError, match=r"already has a variable 'teacher_.*another prefix"):
        merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    assert snapshot(student.main) == before
    with pytest.raises(GraphError, match="run the teacher's startup program"):
        merge(
            teacher.main,
            student.main,
            MAP,
            scope=student.scope,
            teacher_scope=paddle.static.Scope(),
            name_prefix='b_',
        )
    assert snapshot(student.main) == before
    store_array(student.scope, 'c_t_fc', np.zeros((8, 4), 'float32'))
    with pytest.raises(GraphError, match=r"already has a 'c_t_fc' with another content"):
        merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope, name_prefix='c_')
    assert snapshot(student.main) == before
    assert not has_array(student.scope, 'c_t_conv')
    with pytest.raises(GraphError, match='the same program'):
        merge(student.main, student.main, MAP, scope=student.scope, name_prefix='d_')
    with pytest.raises(ConfigError, match='name_prefix'):
        merge(teacher.main, student.main, MAP, scope=student.scope, name_prefix='')


def test_a_failing_check_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from paddleslim_ng.errors import EquivalenceError

    scope = paddle.static.Scope()
    teacher, student = Net(5, 't_', scope, seed=2), Net(5, '', scope)
    before, state = snapshot(student.main), {k: v for k, v in teacher.state().items() if k.startswith('t_')}
    copy = StateTransfer.copy

    def spoiled(self: Any) -> None:
        copy(self)
        store_array(scope, 'teacher_t_fc', np.zeros((8, 4), 'float32'), fresh=True)

    monkeypatch.setattr(StateTransfer, 'copy', spoiled)
    with pytest.raises(EquivalenceError, match='of the merged teacher differs by'):
        merge(teacher.main, student.main, MAP, scope=scope)
    assert snapshot(student.main) == before
    assert scope.find_var('teacher_t_conv') is None
    for name, array in state.items():
        np.testing.assert_array_equal(load_array(scope, name), array)
    monkeypatch.undo()
    assert merge(teacher.main, student.main, MAP, scope=scope).difference == 0.0


def test_strip_gives_the_student_back(tmp_path: Path) -> None:
    student, teacher = Net(3), Net(5, 't_', seed=2)
    original = snapshot(clone_program(student.main, for_test=True))
    forward = snapshot(student.main)
    merged = merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    with paddle.static.program_guard(student.main, student.startup):
        gap = merged[teacher.logits] - student.logits
        paddle.optimizer.Adam(0.01).minimize(student.loss + paddle.mean(gap * gap))
    student.start()
    student.exe.run(student.main, feed=batch(), scope=student.scope)
    before = snapshot(student.main)
    clean, evaluation = strip(student.main), strip(student.main, 'teacher_', for_test=True)
    assert snapshot(student.main) == before
    assert snapshot(clean) == forward
    assert snapshot(evaluation) == original
    assert {var.name() for var in GraphWrapper(clean).all_parameters()} == {
        var.name() for var in GraphWrapper(Net(3).main).all_parameters()
    }
    assert not [var for var in GraphWrapper(clean).vars() if 'teacher_' in var.name() or 'moment' in var.name()]
    startup = paddle.static.Program()
    with paddle.static.program_guard(clean, startup):
        paddle.optimizer.SGD(0.1).minimize(GraphWrapper(clean).var(student.loss).raw)
    student.exe.run(startup, scope=student.scope)
    own = load_array(student.scope, 'conv')
    slim.Executor().run(clean, batch(), [student.loss], scope=student.scope)
    assert not np.array_equal(own, load_array(student.scope, 'conv'))
    strip(student.main, scope=student.scope)
    assert not has_array(student.scope, 'teacher_t_conv')
    assert has_array(student.scope, 'conv')
    with pytest.raises(GraphError, match=r"no teacher 'teachr_'.*did you mean 'teacher_'"):
        strip(student.main, 'teachr_')
    with pytest.raises(GraphError, match='no teacher'):
        strip(clean)


def test_strip_one_of_two_teachers() -> None:
    student, first, second = Net(3), Net(5, seed=2), Net(4, seed=3)
    one = merge(first.main, student.main, MAP, scope=student.scope, teacher_scope=first.scope, name_prefix='a_')
    two = merge(second.main, student.main, MAP, scope=student.scope, teacher_scope=second.scope, name_prefix='b_')
    with paddle.static.program_guard(student.main, student.startup):
        gap_a = paddle.mean(one[first.logits] - student.logits)
        gap_b = paddle.mean(two[second.logits] - student.logits)
    rest = strip(student.main, 'a_')
    graph = GraphWrapper(rest)
    assert teacher_prefixes(graph) == ['b_']
    assert graph.has_var(GraphWrapper.name_of(gap_b))
    assert not graph.has_var(GraphWrapper.name_of(gap_a))
    assert not [op for op in graph.ops() if teacher_of(op) == 'a_']
    want = slim.Executor().run(student.main, batch(), [gap_b], scope=student.scope)[0]
    np.testing.assert_array_equal(slim.Executor().run(rest, batch(), [gap_b], scope=student.scope)[0].shape, want.shape)
