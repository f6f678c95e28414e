"""Losses in programs: how variables are named, what is refused, what is marked, what is trained."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng import dist
from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, lookup, set_name, store_array
from paddleslim_ng.core.additions import Additions
from paddleslim_ng.core.teachers import distillation_of
from paddleslim_ng.dist.losses import LOSSES
from paddleslim_ng.errors import ConfigError, GraphError
from tests.dist.loss_cases import CASES
from tests.dist.losses_numpy import soft_label
from tests.dist.nets import Net

FLOATS = {'maps': [-1, 4, 6, 6], 'wide': [-1, 6, 6, 6], 'small': [-1, 4, 3, 2], 'odd': [-1, 4, 4, 4], 'row': [-1, 4]}


class Inputs:
    """A program of nothing but inputs of many shapes."""

    def __init__(self) -> None:
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(self.main, self.startup):
            self.values = {name: paddle.static.data(name, shape, 'float32') for name, shape in FLOATS.items()}
            for name, shape, dtype in (
                ('double', [-1, 4], 'float64'),
                ('label', [-1, 1], 'int64'),
                ('labels', [-1, 3], 'int64'),
                ('five', [5, 4], 'float32'),
                ('six', [6, 4], 'float32'),
                ('open', [-1, -1], 'float32'),
                ('single', [-1, 1], 'float32'),
                ('flat', [-1], 'float32'),
                ('sequence', [-1, 3, 4], 'float32'),
                ('shorter', [-1, 2, 4], 'float32'),
            ):
                self.values[name] = paddle.static.data(name, shape, dtype)
        for value in self.values.values():
            value.stop_gradient = False


REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    'a wrong name': ('l2', ('map', 'row'), {}, GraphError, r"no variable 'map'; did you mean 'maps'"),
    'no name': ('l2', (3, 'row'), {}, GraphError, 'expected a name'),
    'shapes': (
        'l2',
        ('maps', 'wide'),
        {},
        GraphError,
        r"'maps' \[-1, 4, 6, 6\] and 'wide' \[-1, 6, 6, 6\].*regress",
    ),
    'ranks': ('soft_label', ('maps', 'row'), {}, GraphError, r"'maps' .* 'row' \[-1, 4\] must match"),
    'batches': ('similarity', ('five', 'six'), {}, GraphError, r"'five' \[5, 4\] and 'six' \[6, 4\].*samples"),
    'element types': ('l2', ('double', 'row'), {}, GraphError, "'double' .* float64, 'row' .* float32: cast"),
    'integers': ('l2', ('label', 'row'), {}, GraphError, "'label' .* int64.*floating"),
    'one axis': ('l2', ('flat', 'flat'), {}, GraphError, "'flat' .* 1 axes.*two or more"),
    'fsp of rows': ('fsp', ('row', 'row', 'row', 'row'), {}, GraphError, 'needs 4'),
    'fsp sizes': ('fsp', ('maps', 'small', 'maps', 'maps'), {}, GraphError, "'maps' .*'small' .*one size"),
    'fsp channels': ('fsp', ('maps', 'wide', 'maps', 'maps'), {}, GraphError, "'wide' .*'maps' .*as many channels"),
    'attention sizes': ('attention_transfer', ('maps', 'odd'), {}, GraphError, "'maps' .*'odd' .*whole factor"),
    'attention power': ('attention_transfer', ('maps', 'maps'), {'power': 0.5}, ConfigError, 'power .*at least 1'),
    'axis': ('cosine', ('row', 'row'), {'axis': 2}, ConfigError, 'axis'),
    'temperature 0': ('soft_label', ('row', 'row'), {'student_temperature': 0}, ConfigError, 'student_temperature'),
    'temperature text': ('dkd', ('row', 'row'), {'temperature': '4'}, ConfigError, "temperature .*'4'"),
    'temperature nan': ('hinton', ('row', 'row', 'label'), {'temperature': float('nan')}, ConfigError, 'temperature'),
    'weight': (
        'hinton',
        ('row', 'row', 'label'),
        {'temperature': 1, 'soft_weight': np.inf},
        ConfigError,
        'soft_weight',
    ),
    'alpha': ('dkd', ('row', 'row'), {'alpha': float('inf')}, ConfigError, 'alpha'),
    'multiplier': ('skd', ('row', 'row'), {'multiplier': -1.0}, ConfigError, 'multiplier'),
    'weight of a relation': ('correlation', ('row', 'row'), {'within': None}, ConfigError, 'within'),
    'skd of maps': ('skd', ('maps', 'maps'), {}, GraphError, 'needs 2'),
    'labels that are none': ('hinton', ('row', 'row', 'five'), {'temperature': 1}, GraphError, 'int64 or int32'),
    'labels of a shape': ('hinton', ('row', 'row', 'labels'), {'temperature': 1}, GraphError, 'one label for each row'),
    'unknown classes': ('dkd', ('open', 'open'), {}, GraphError, "known number of classes.*'open'"),
    'one class': ('dkd', ('single', 'single'), {}, GraphError, 'at least two'),
    'regression of rows': ('regression', ('maps', 'row'), {}, GraphError, 'not the number of axes'),
    'regression sizes': ('regression', ('odd', 'wide'), {}, GraphError, 'whole factor'),
    'regression lengths': ('regression', ('sequence', 'shorter'), {}, GraphError, "'sequence' .*'shorter'"),
    'no adapter': ('regression', ('maps', 'wide'), {'adapter': 'never'}, GraphError, 'makes an adapter'),
    'adapter': ('regression', ('maps', 'wide'), {'adapter': 'cubic'}, ConfigError, "'auto', 'always', 'never'"),
    'open adapter': ('regression', ('row', 'open'), {'adapter': 'always'}, GraphError, "channels; 'open'"),
    'attribute': ('regression', ('maps', 'wide'), {'weight_attr': 'w'}, ConfigError, 'ParamAttr'),
    'taken': ('regression', ('maps', 'wide'), {'bias_attr': paddle.ParamAttr('row')}, GraphError, "'row'"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refusals_come_before_anything_is_built(case: str) -> None:
    name, names, options, kind, message = REFUSED[case]
    net = Inputs()
    before = [str(net.main), str(net.startup)]
    with paddle.static.program_guard(net.main, net.startup), pytest.raises(kind, match=message):
        LOSSES[name](*names, net.main, **options)
    assert [str(net.main), str(net.startup)] == before


def test_startup_programs_are_looked_at() -> None:
    net = Inputs()
    with pytest.raises(GraphError, match='not the program itself'):
        dist.regression('maps', 'wide', net.main, net.main)


def test_one_of_two_shapes_tells_the_number_of_classes() -> None:
    net = Inputs()
    losses = [dist.hinton('row', 'open', 'label', net.main, temperature=2), dist.dkd('open', 'row', net.main)]
    losses.append(dist.skd('row', 'open', net.main))
    assert all(list(loss.shape) in ([], [1]) for loss in losses)


def test_every_way_to_name_a_variable() -> None:
    net = Inputs()
    graph = GraphWrapper(net.main)
    value = net.values['row']
    copy = clone_program(net.main)
    elsewhere = lookup(copy, 'row')
    losses = [dist.l2('five', item, net.main) for item in ('row', value, graph.var('row'), elsewhere)]
    with paddle.static.program_guard(net.main, net.startup):
        losses.append(dist.l2(teacher_var_name='five', student_var_name='row'))
    five, row = np.random.default_rng(0).standard_normal((2, 5, 4)).astype('float32')
    feed = {name: np.zeros([5, *shape[1:]], 'float32') for name, shape in FLOATS.items()}
    zeros = {
        name: np.zeros([5 if n < 0 else n for n in var.shape], str(GraphWrapper(net.main).var(name).dtype()))
        for name, var in net.values.items()
    }
    found = Executor().run(net.main, {**zeros, **feed, 'five': five, 'row': row}, losses)
    np.testing.assert_allclose(found, np.full(len(losses), ((five - row) ** 2).mean()), rtol=1e-5)


@pytest.mark.parametrize('name', CASES)
def test_all_that_was_built_is_marked(name: str) -> None:
    case = CASES[name]
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup):
        for key, array in case.arrays().items():
            paddle.static.data(key, list(array.shape), 'int64' if key == 'y' else 'float32').stop_gradient = key == 'y'
    added = Additions(main)
    case.build(main, startup)
    title = name.partition(',')[0].partition(' ')[0]
    marks = marks_of(main, added)
    assert marks and set(marks) == {title}


def marks_of(program: Any, added: Additions) -> list[str | None]:
    """Return the marks of the operators that were added, as the wrapped program shows them."""
    key = (lambda raw: raw.id()) if GraphWrapper(program).ir == 'pir' else id
    built = {key(op) for op in added.operators()}
    return [distillation_of(op) for op in GraphWrapper(program).ops() if key(op.raw) in built]


def test_a_student_that_cannot_learn_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    net = Inputs()
    net.values['row'].stop_gradient = True
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        dist.l2('five', 'row', net.main)
        assert "'row' [-1, 4]" in caplog.text
        caplog.clear()
        dist.l2('row', 'five', net.main)
        assert not caplog.text


class Pair:
    """Two linear layers of one input; the second is the student, and nothing keeps gradients from the first."""

    def __init__(self, given: int = 4) -> None:
        self.main, self.startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        self.main.random_seed = self.startup.random_seed = 5
        self.exe = paddle.static.Executor(paddle.CPUPlace())
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 3], 'float32')
            for name, width in (('teacher', 4), ('student', given)):
                layer = paddle.nn.Linear(3, width, paddle.ParamAttr(name=f'{name}_w'), bias_attr=False)
                set_name(layer(x), name)
        self.feed = {'x': np.random.default_rng(1).standard_normal((5, 3)).astype('float32')}

    def weight(self, name: str) -> Any:
        return load_array(self.scope, name)

    def minimize(self, loss: Any, rate: float = 0.5) -> None:
        with paddle.static.program_guard(self.main, self.startup):
            paddle.optimizer.SGD(rate).minimize(loss)
        with paddle.static.scope_guard(self.scope):
            self.exe.run(self.startup)

    def step(self, *fetches: Any) -> Any:
        return self.exe.run(self.main, feed=self.feed, fetch_list=list(fetches), scope=self.scope)


def test_a_step_moves_the_student_by_its_gradient_and_the_teacher_not_at_all() -> None:
    net = Pair()
    cost = dist.l2('student', 'student', net.main)
    loss = dist.soft_label('teacher', 'student', net.main, 2.0, 2.0)
    with paddle.static.program_guard(net.main, net.startup):
        total = loss + cost
    net.minimize(total)
    teacher, student = net.weight('teacher_w'), net.weight('student_w')
    (value,) = net.step(total)
    x = net.feed['x'].astype('float64')
    t, s = x @ teacher, x @ student
    np.testing.assert_allclose(value, soft_label(t, s, 2, 2), rtol=1e-5)
    soft = [np.exp(a / 2) / np.exp(a / 2).sum(-1, keepdims=True) for a in (t, s)]
    slope = x.T @ ((soft[1] - soft[0]) / 2 / len(x))
    np.testing.assert_allclose(net.weight('student_w'), student - 0.5 * slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(net.weight('teacher_w'), teacher)


@pytest.mark.parametrize('given', [2, 4])
def test_an_adapter_is_made_started_and_trained(given: int) -> None:
    net = Pair(given)
    weight = paddle.ParamAttr(name='hint', initializer=paddle.nn.initializer.Constant(0.25))
    loss = dist.regression('teacher', 'student', net.main, net.startup, adapter='always', weight_attr=weight)
    bias = next(v.name() for v in GraphWrapper(net.main).all_parameters() if v.name().startswith('distillation_'))
    net.minimize(loss, 0.1)
    teacher, student = net.weight('teacher_w'), net.weight('student_w')
    np.testing.assert_array_equal(net.weight('hint'), np.full((given, 4), 0.25, 'float32'))
    np.testing.assert_array_equal(net.weight(bias), np.zeros(4, 'float32'))
    (value,) = net.step(loss)
    x = net.feed['x']
    error = x @ student @ np.full((given, 4), 0.25) - x @ teacher
    np.testing.assert_allclose(value, (error**2).mean(), rtol=1e-4)
    slope = 2 * error / error.size
    np.testing.assert_allclose(net.weight('hint'), 0.25 - 0.1 * (x @ student).T @ slope, rtol=1e-4)
    np.testing.assert_allclose(net.weight(bias), -0.1 * slope.sum(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        net.weight('student_w'), student - 0.1 * x.T @ slope @ np.full((4, given), 0.25), rtol=1e-4
    )
    np.testing.assert_array_equal(net.weight('teacher_w'), teacher)


def test_a_convolution_adapts_maps_of_another_size() -> None:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup):
        t, s = paddle.static.data('t', [-1, 3, 2, 2], 'float32'), paddle.static.data('s', [-1, 2, 4, 6], 'float32')
        s.stop_gradient = False
        loss = dist.regression(t, s, weight_attr=paddle.ParamAttr('w'), bias_attr=paddle.ParamAttr('b'))
    exe = Executor()
    exe.run(startup, scope=scope)
    rng = np.random.default_rng(3)
    store_array(scope, 'b', rng.standard_normal((1, 3, 1, 1)).astype('float32'))
    feed = {n: rng.standard_normal(z).astype('float32') for n, z in (('t', (2, 3, 2, 2)), ('s', (2, 2, 4, 6)))}
    (value,) = exe.run(main, feed, [loss], scope)
    small = feed['s'].reshape(2, 2, 2, 2, 2, 3).mean((3, 5))
    wanted = np.einsum('nchw,dc->ndhw', small, load_array(scope, 'w')[:, :, 0, 0]) + load_array(scope, 'b')
    np.testing.assert_allclose(value, ((wanted - feed['t']) ** 2).mean(), rtol=1e-4)


def test_adapters_and_losses_leave_with_the_teacher() -> None:
    teacher, student = Net(4), Net(3, 'own_')
    merged = dist.merge(
        teacher.main, student.main, {'image': 'image'}, paddle.CPUPlace(), student.scope, teacher_scope=teacher.scope
    )
    before = {var.name() for var in GraphWrapper(dist.strip(student.main)).vars()}
    dist.regression(merged[teacher.features], student.features, student.main, student.startup)
    dist.hinton(merged[teacher.logits], student.logits, 'label', student.main, temperature=4)
    assert any('distillation_adapter' in var.name() for var in GraphWrapper(student.main).vars())
    alone = GraphWrapper(dist.strip(student.main))
    assert {var.name() for var in alone.vars()} == before
    assert not [op for op in alone.ops() if distillation_of(op) is not None]


def content(program: Any) -> Any:
    graph = GraphWrapper(program)
    return [repr(op) for op in graph.ops()], sorted(map(repr, graph.vars())), len(program.global_block().ops)


def test_a_function_of_the_users_is_a_loss() -> None:
    net = Pair()
    seen: dict[str, Any] = {}

    def distance(a: Any, b: Any, weight: float, note: Any = None) -> Any:
        seen.update(a=a, b=b, note=note)
        return paddle.mean((a - b) * (a - b)) * weight

    added = Additions(net.main)
    loss = dist.loss(distance, net.main, a='teacher', b=GraphWrapper(net.main).var('student'), weight=3.0)
    assert GraphWrapper.name_of(seen['a']) == 'teacher' and seen['note'] is None
    assert set(marks_of(net.main, added)) == {'distance'}
    same = dist.l2('teacher', 'student', net.main)
    with paddle.static.scope_guard(net.scope):
        net.exe.run(net.startup)
    value, reference = net.step(loss, same)
    np.testing.assert_allclose(value, 3 * reference, rtol=1e-5)


def test_what_a_failing_function_built_is_taken_out() -> None:
    net = Pair()
    other = Pair()
    before = content(net.main), content(net.startup)

    def broken(a: Any) -> Any:
        layer = paddle.nn.Linear(4, 2)
        layer(a + a)
        raise RuntimeError('no such loss')

    def pair(a: Any) -> Any:
        return [a + a]

    def foreign(a: Any) -> Any:
        return lookup(other.main, 'student')

    with paddle.static.program_guard(net.main, net.startup):
        with pytest.raises(RuntimeError, match='no such loss'):
            dist.loss(broken, a='student')
        for function in (pair, lambda a: None, foreign):
            with pytest.raises(GraphError, match='must return'):
                dist.loss(function, a='student')
        with pytest.raises(GraphError, match="did you mean 'student'"):
            dist.loss(pair, a='studen')
    assert (content(net.main), content(net.startup)) == before
