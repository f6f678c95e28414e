"""Structured pruning of a student beside its teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import ConfigError, NotPrunableError
from paddleslim_ng.prune.session import PruningSession
from tests.dist.merged_nets import BETWEEN_FEATURES, BETWEEN_LOGITS, HOLDING, Arrays, Distilled, same
from tests.dist.nets import Net, batch

EVERY = {**{f'{name} of features': (loss, 'features') for name, loss in BETWEEN_FEATURES.items()}}
EVERY.update({f'{name} of logits': (loss, 'logits') for name, loss in BETWEEN_LOGITS.items()})


@pytest.mark.parametrize('name', EVERY)
def test_layers_that_the_teacher_leaves_free(name: str) -> None:
    """Cut beside the teacher, the program computes what it computed with the channels zeroed, every loss included."""
    loss, on = EVERY[name]
    net = Distilled(loss, on)
    teacher = net.teachers()
    pruner = slim.prune.Pruner()
    pruned, _, _ = pruner.prune(net.main, net.scope, ['conv', 'hidden'], [0.5, 0.25], verify=True)
    graph = GraphWrapper(pruned)
    assert graph.var('conv').shape() == (3, 2, 3, 3)
    assert graph.var('teacher_t_conv').shape() == (9, 2, 3, 3)
    figures = pruner.report.equivalence
    assert figures is not None and figures.max_relative < 1e-5 and figures.effect > 1e-3
    total = GraphWrapper.name_of(net.total)
    assert total in figures.outputs and not [one for one in figures.outputs if one.startswith('teacher_')]
    before = load_array(net.scope, 'conv')
    net.net.exe.run(pruned, feed=batch(), scope=net.scope)
    assert not np.array_equal(before, load_array(net.scope, 'conv'))
    assert same(teacher, net.teachers())


@pytest.mark.parametrize('name', HOLDING)
def test_a_layer_that_is_compared_with_the_teacher_is_held_by_it(name: str) -> None:
    net = Distilled(HOLDING[name], 'features', teacher=6)
    conv = load_array(net.scope, 'conv')
    explained = slim.prune.Pruner().explain(net.main, 'conv')
    assert explained.free == 0
    found = explained.obstacles[0]
    assert found.path[:3] == ('conv2d', 'batch_norm', 'relu') and found.path[-1] == found.op
    where = net.merged.names[GraphWrapper.name_of(net.teacher.features)]
    assert f"{where} of the merged teacher 'teacher_'" in str(explained)
    with pytest.raises(NotPrunableError, match="of the merged teacher 'teacher_'"):
        slim.prune.Pruner().prune(net.main, net.scope, ['conv'], [0.5])
    pruner = slim.prune.Pruner()
    pruned, _, _ = pruner.prune(net.main, net.scope, ['conv', 'hidden'], [0.5, 0.25], verify=True)
    assert [entry.name for entry in pruner.report.skipped] == ['conv']
    assert "of the merged teacher 'teacher_'" in str(pruner.report)
    assert GraphWrapper(pruned).var('hidden').shape() == (24, 6)
    np.testing.assert_array_equal(load_array(net.scope, 'conv'), conv)


def test_parameters_of_the_teacher_are_refused_by_name() -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    state = net.net.state()
    for names in (['teacher_t_conv'], ['conv', 'teacher_t_hidden']):
        for only_graph in (False, True):
            with pytest.raises(NotPrunableError, match=f"{names[-1]}' belongs to the merged teacher 'teacher_'"):
                slim.prune.Pruner().prune(net.main, net.scope, names, [0.5] * len(names), only_graph=only_graph)
    assert same(state, net.net.state())
    explained = slim.prune.Pruner().explain(net.main, 'teacher_t_conv')
    assert explained.free == 0 and "it belongs to the merged teacher 'teacher_'" in str(explained)


@pytest.mark.parametrize('name', ['soft_label of logits', 'regression of features', 'rkd_distance of features'])
def test_training_goes_on_as_if_the_small_student_had_met_the_teacher(name: str) -> None:
    """Merged and then pruned, or pruned and then merged: three steps of Momentum give the same parameters."""
    loss, on = EVERY[name]
    names, ratios = ['conv', 'hidden'], [0.5, 0.25]
    first = Distilled(loss, on)
    one, _, _ = slim.prune.Pruner().prune(first.main, first.scope, names, ratios)

    net = Net(6)
    small, _, _ = slim.prune.Pruner().prune(net.main, net.scope, names, ratios)
    other = Distilled(loss, on, student=(net, small))
    adapters = [name for name in state(one, first.scope) if 'adapter' in name and 'velocity' not in name]
    assert len(adapters) == (2 if 'regression' in name else 0)
    for adapter in adapters:
        store_array(other.scope, adapter, load_array(first.scope, adapter))
    assert same(state(one, first.scope), state(small, other.scope))
    for program, scope in ((one, first.scope), (small, other.scope)):
        paddle.seed(5)
        for step in range(3):
            net.exe.run(program, feed=batch(step), scope=scope)
    for key, array in state(one, first.scope).items():
        np.testing.assert_allclose(load_array(other.scope, key), array, rtol=1e-5, atol=1e-7, err_msg=key)
    moved = Distilled(loss, on)
    slim.prune.Pruner().prune(moved.main, moved.scope, names, ratios)
    assert not np.allclose(load_array(other.scope, 'conv'), load_array(moved.scope, 'conv'), atol=1e-4)


def state(program: Any, scope: Any) -> Arrays:
    names = [var.name() for var in GraphWrapper(program).vars() if var.persistable()]
    return {name: load_array(scope, name) for name in names if not name.startswith('learning_rate')}


def test_the_evaluation_program_follows() -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    evaluation = clone_program(net.main, for_test=True)
    pruned, _, _ = slim.prune.Pruner().prune(net.main, net.scope, ['conv'], [0.5])
    small, _, _ = slim.prune.Pruner().prune(evaluation, net.scope, ['conv'], [0.5], only_graph=True)
    want = clone_program(pruned, for_test=True)
    for program in (small, want):
        assert GraphWrapper(program).var('hidden').shape() == (12, 8)
    logits = [slim.Executor().run(one, batch(), [net.net.logits], scope=net.scope)[0] for one in (small, want)]
    np.testing.assert_array_equal(logits[0], logits[1])


def test_costs_tell_student_teacher_and_losses_apart() -> None:
    net = Distilled(BETWEEN_FEATURES['regression'], 'features')
    alone, teacher = Net(6), Net(9)
    for count in (slim.analysis.flops, slim.analysis.model_size, slim.analysis.numel):
        assert count(net.main) == count(net.main, part='student') == count(alone.main)
        assert count(net.main, part='teachers') == count(teacher.main)
        parts = [count(net.main, part=part) for part in ('student', 'teachers', 'losses')]
        assert count(net.main, part='all') == sum(parts)
    # The adapter is a 1x1 convolution from 6 to 9 channels on maps of 4x4, with a bias.
    assert slim.analysis.flops(net.main, part='losses') == 6 * 9 * 16
    assert slim.analysis.model_size(net.main, part='losses') == 6 * 9 + 9
    with pytest.raises(ConfigError, match="did you mean 'teachers'"):
        slim.analysis.flops(net.main, part='teacher')


@pytest.mark.parametrize('target', ['flops', 'params'])
def test_a_global_ranking_counts_the_student(target: str) -> None:
    """The teacher's share of the costs is beyond reach and would let the selector ask too much of the student."""
    net, alone = Distilled(None, minimize=False), Net(6)
    found = []
    for program, scope in ((net.main, net.scope), (alone.main, alone.scope)):
        pruner = slim.prune.Pruner(idx_selector=slim.prune.GlobalRanking(target, 0.5))
        pruned, _, _ = pruner.prune(program, scope, ['conv', 'hidden'], [0.9, 0.9])
        found.append([entry.removed for entry in pruner.report.pruned])
        counts = {'flops': slim.analysis.flops, 'params': slim.analysis.model_size}[target]
        assert abs(counts(pruned) / counts(program) - 0.5) < 0.15
    assert found[0] == found[1]


def test_sensitivity_and_taylor_are_those_of_the_student_alone() -> None:
    names, ratios = ['conv', 'hidden'], [0.25, 0.5]
    net, alone = Distilled(BETWEEN_LOGITS['soft_label'], minimize=False), Net(6)
    feeds = [batch(number) for number in range(2)]
    programs = [clone_program(one, for_test=True) for one in (net.main, alone.main)]
    curves = []
    for program, scope in zip(programs, (net.scope, alone.scope)):
        evaluator = slim.prune.Evaluator(feeds, 'mean', [net.net.loss], engine='executor')
        curves.append(
            slim.prune.sensitivity(program, None, names, pruned_ratios=ratios, scope=scope, evaluator=evaluator)
        )
    assert curves[0] == curves[1] and set(curves[0]) == set(names)

    def measure(program: Any) -> float:
        return float(np.mean([slim.Executor().run(program, f, [net.gap], scope=net.scope)[0] for f in feeds]))

    evaluator = slim.prune.Evaluator(feeds, 'mean', [net.gap], engine='predictor')
    asked = [*names, 'teacher_t_conv']
    options: dict[str, Any] = {'pruned_ratios': ratios, 'scope': net.scope}
    by_function = slim.prune.sensitivity(programs[0], None, asked, measure, **options)
    by_batches = slim.prune.sensitivity(programs[0], None, asked, evaluator=evaluator, **options)
    assert set(by_function) == set(by_batches) == set(names), 'the teacher is left out'
    for name in names:
        assert by_function[name] == pytest.approx(by_batches[name], abs=1e-6)
    found = []
    for main, scope, loss in (
        (net.main, net.scope, net.net.loss),
        (alone.main, alone.scope, alone.loss),
        (net.main, net.scope, net.total),
    ):
        taylor = slim.prune.Taylor(main, loss, feeds)
        session = PruningSession(main, scope, taylor)
        found.append(taylor.score(session, [session.request('conv', 0.5)]))
        assert {var.name() for var in session.analysis.out_axes} == {'conv', 'hidden', 'fc'}
    np.testing.assert_allclose(found[0]['conv'], found[1]['conv'], rtol=1e-6)
    assert not np.allclose(found[2]['conv'], found[1]['conv'], rtol=1e-3), 'the distance to the teacher counts'


def test_saving_a_pruned_student_leaves_the_teacher_out(tmp_path: Any) -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    pruned, _, _ = slim.prune.Pruner().prune(net.main, net.scope, ['conv'], [0.5])
    net.net.exe.run(pruned, feed=batch(), scope=net.scope)
    slim.prune.save_model(net.net.exe, pruned, tmp_path / 'model', scope=net.scope)
    saved = np.load(next((tmp_path / 'model').glob('*.npz')))
    whole = state(pruned, net.scope)
    mine = [name for name in whole if not name.startswith('teacher_')]
    size = sum(whole[name].nbytes for name in mine)
    assert sum(saved[name].nbytes for name in saved.files) < size + 200 < sum(one.nbytes for one in whole.values())

    other = Distilled(BETWEEN_LOGITS['soft_label'])
    teacher = {**other.teachers(), 'teacher_t_fc': np.ones([8, 4], 'float32')}
    store_array(other.scope, 'teacher_t_fc', teacher['teacher_t_fc'])
    slim.prune.load_model(other.net.exe, other.main, tmp_path / 'model', scope=other.scope)
    assert same({name: whole[name] for name in mine}, {name: load_array(other.scope, name) for name in mine})
    assert same(teacher, other.teachers())
    other.net.exe.run(other.main, feed=batch(), scope=other.scope)
    student = Net(6)
    slim.prune.load_model(student.exe, student.main, tmp_path / 'model', scope=student.scope)
    np.testing.assert_array_equal(load_array(student.scope, 'conv'), whole['conv'])
