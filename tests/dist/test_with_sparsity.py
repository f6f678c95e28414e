"""Unstructured pruning of a student beside its teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng import dist
from paddleslim_ng.core import GraphWrapper, has_array, load_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse import UnstructuredPruner, get_skip_params
from tests.dist.merged_nets import BETWEEN_FEATURES, BETWEEN_LOGITS, MAP, Distilled, same
from tests.dist.nets import Net, batch

MINE = {'conv': 6 * 2 * 9, 'hidden': 24 * 8, 'fc': 8 * 4}
ADAPTER = BETWEEN_FEATURES['regression']


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'skip_params_func': lambda program: set()},
        {'local_sparsity': True},
        {'layer_ratios': 'heuristic'},
        {'layer_ratios': {'conv': 0.25}},
        {'sparse_block': [2, 1]},
        {'pattern': '2:4'},
        {'regrowth': True},
    ],
    ids=lambda options: ', '.join(options) or 'plain',
)
def test_masks_are_the_students_alone(options: dict[str, Any]) -> None:
    """Neither the teacher nor an adapter is masked or counted, whatever is skipped."""
    net = Distilled(ADAPTER, 'features')
    alone = Net(6)
    teacher = net.teachers()
    found = []
    for program, scope in ((net.main, net.scope), (alone.main, alone.scope)):
        pruner = UnstructuredPruner(program, ratio=0.5, scope=scope, **options)
        pruner.step()
        found.append({name: load_array(scope, mask) for name, mask in pruner.masks.items()})
        figures = pruner.sparsity()
        assert figures.layers.keys() >= MINE.keys()
        assert not [name for name in figures.layers if 'teacher_' in name or 'adapter' in name]
    assert same(found[0], found[1]), 'the masks are those of the student on its own'
    assert 'skip_params_func' in options or found[0].keys() == MINE.keys()
    for step in range(3):
        net.net.exe.run(net.main, feed=batch(step), scope=net.scope)
    gone = {name: mask == 0 for name, mask in found[0].items()}
    assert sum(map(np.count_nonzero, gone.values())) > 0.3 * sum(mask.size for mask in gone.values())
    for name, where in gone.items():
        assert not load_array(net.scope, name)[where].any()
    assert same(teacher, net.teachers())
    assert not [name for name in net.teachers() if has_array(net.scope, f'{name}_mask')]


def test_defaults_and_figures_leave_the_teacher_out() -> None:
    net, alone = Distilled(ADAPTER, 'features'), Net(6)
    skipped = get_skip_params(net.main)
    assert skipped >= set(net.teachers()) and not skipped & MINE.keys()
    assert {name for name in skipped if 'adapter' in name} == {
        var.name() for var in GraphWrapper(net.main).all_parameters() if 'adapter' in var.name()
    }
    for program, scope in ((net.main, net.scope), (alone.main, alone.scope)):
        pruner = UnstructuredPruner(program, ratio=0.5, scope=scope)
        pruner.step()
        assert pruner.sparsity().prunable == 0.5
    for figure in (UnstructuredPruner.total_sparse, UnstructuredPruner.total_sparse_conv1x1):
        assert figure(net.main, net.scope) == figure(alone.main, alone.scope)
    assert UnstructuredPruner.total_sparse(net.main, net.scope) > 0.4
    assert pruner.sparse_by_layer(net.main).keys() == pruner.sparse_by_layer(alone.main).keys()


def test_a_ratio_for_the_teacher_is_an_error() -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    with pytest.raises(ConfigError, match="'teacher_t_conv', which belongs to the merged teacher 'teacher_'"):
        UnstructuredPruner(net.main, scope=net.scope, layer_ratios={'teacher_t_conv': 0.5})
    assert not has_array(net.scope, 'conv_mask')


def test_a_gradual_pruner_of_a_script() -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    teacher = net.teachers()
    configs = {
        'stable_iterations': 1,
        'pruning_iterations': 11,
        'tunning_iterations': 1,
        'resume_iteration': 0,
        'pruning_steps': 1,
        'initial_ratio': 0.0,
    }
    pruner = slim.prune.GMPUnstructuredPruner(net.main, ratio=0.75, scope=net.scope, configs=configs)
    for step in range(14):
        net.net.exe.run(net.main, feed=batch(step), scope=net.scope)
        pruner.step()
    assert pruner.masks.keys() == MINE.keys() and pruner.sparsity().prunable == 0.75
    assert same(teacher, net.teachers())


class Digits:
    """Classifiers of digits: two convolutions with batch norm, and a linear layer."""

    def __init__(self, widths: tuple[int, int], prefix: str, seed: int) -> None:
        self.main, self.startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        self.startup.random_seed = seed
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard(prefix):
            x = paddle.static.data('image', [None, 1, 8, 8], 'float32')
            self.label = paddle.static.data('label', [None, 1], 'int64')
            for number, (before, width) in enumerate(zip((1, widths[0]), widths)):
                attr = paddle.ParamAttr(name=f'{prefix}conv{number}')
                x = paddle.nn.Conv2D(before, width, 3, stride=1 + number, weight_attr=attr, bias_attr=False)(x)
                x = paddle.nn.functional.relu(paddle.nn.BatchNorm2D(width)(x))
            self.features = x
            x = paddle.flatten(paddle.nn.functional.adaptive_avg_pool2d(x, 1), 1)
            self.logits = paddle.nn.Linear(widths[1], 10, weight_attr=paddle.ParamAttr(name=f'{prefix}fc'))(x)
            self.loss = paddle.nn.functional.cross_entropy(self.logits, self.label)

    def train(self, main: Any, images: Any, labels: Any, steps: int, fetch: Any, first: int = 0) -> list[float]:
        exe, losses = slim.Executor(), []
        for step in range(first, first + steps):
            part = np.arange(step * 32, step * 32 + 32) % len(images)
            feed = {'image': images[part], 'label': labels[part].reshape(-1, 1)}
            losses.append(float(exe.run(main, feed, [fetch], scope=self.scope)[0]))
        return losses


def test_one_program_with_everything(tmp_path: Any) -> None:
    """Teacher, structured pruning and masks in one training program, on digits; then the student on its own."""
    data = slim.data.digits(size=8).train
    images, labels = data.images[:256], data.labels[:256]
    teacher = Digits((12, 16), 't_', 2)
    with paddle.static.program_guard(teacher.main, teacher.startup):
        paddle.optimizer.Adam(0.02).minimize(teacher.loss)
    slim.Executor().run(teacher.startup, scope=teacher.scope)
    teacher.train(teacher.main, images, labels, 24, teacher.loss)

    student = Digits((8, 12), 's_', 1)
    merged = dist.merge(teacher.main, student.main, MAP, scope=student.scope, teacher_scope=teacher.scope)
    with paddle.static.program_guard(student.main, student.startup), paddle.utils.unique_name.guard('more_'):
        soft = dist.soft_label(merged[teacher.logits], student.logits, student.main, 2.0, 2.0)
        hint = dist.regression(merged[teacher.features], student.features, student.main, student.startup)
        total = student.loss + soft + hint
        paddle.optimizer.Adam(0.02).minimize(total)
    slim.Executor().run(student.startup, scope=student.scope)
    names = [f'teacher_{name}' for name in ('t_conv0', 't_conv1', 't_fc')]
    frozen = {name: load_array(student.scope, name) for name in names}
    losses = student.train(student.main, images, labels, 4, total)

    pruner = slim.prune.Pruner()
    small, _, _ = pruner.prune(student.main, student.scope, ['s_conv0', 's_conv1'], [0.25, 0.5], verify=True)
    assert pruner.report.equivalence is not None and pruner.report.equivalence.max_relative < 1e-5
    sparse = UnstructuredPruner(small, ratio=0.5, scope=student.scope)
    shapes = {'s_conv0': (6, 1, 3, 3), 's_conv1': (6, 6, 3, 3), 's_fc': (6, 10)}
    for step in range(4, 28):
        losses += student.train(small, images, labels, 1, total, step)
        sparse.step()
        zeros = [load_array(student.scope, mask) == 0 for mask in sparse.masks.values()]
        assert sum(map(np.count_nonzero, zeros)) == sum(int(np.prod(shape)) for shape in shapes.values()) // 2
        for name, gone in zip(sparse.masks, zeros):
            weights = load_array(student.scope, name)
            assert weights.shape == shapes[name] and not weights[gone].any()
    assert sparse.masks.keys() == shapes.keys()
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    assert same(frozen, {name: load_array(student.scope, name) for name in names})

    clean = dist.strip(small, for_test=True)
    slim.runtime.save_inference_model(clean, tmp_path / 'student', ['image'], [student.logits], student.scope)
    model = slim.runtime.load_inference_model(tmp_path / 'student', paddle.static.Scope())
    feed = {'image': images[:16]}
    got = slim.Executor().run(model.program, feed, model.fetches, scope=model.scope)[0]
    whole = slim.core.clone_program(small, for_test=True)
    both = {**feed, 'label': labels[:16].reshape(-1, 1)}
    want = slim.Executor().run(whole, both, [student.logits], scope=student.scope)[0]
    np.testing.assert_array_equal(got, want)
    saved = {var.name(): var.shape() for var in GraphWrapper(model.program).vars() if var.persistable()}
    assert {name: saved.get(name) for name in shapes} == shapes
    assert not [name for name in saved if 'teacher_' in name or 'adapter' in name]
