"""Teachers that come into a job and leave it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Compressor, Context, L2Distiller, SoftLabelDistiller, Strategy
from paddleslim_ng.compress.strategies import DistillationStrategy, UniformPruneStrategy
from paddleslim_ng.core import Executor, GraphWrapper, has_array, load_array, lookup
from paddleslim_ng.core.cloning import forward_program
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.teachers import teacher_prefixes
from paddleslim_ng.dist import combine, l2, merge
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime import save_inference_model
from tests.compress.interruptions import NOWHERE, Interrupted, Point, at_points, run_until, whole_runs
from tests.compress.job_net import JobNet, batches, same, tensors


def sgd() -> Any:
    return paddle.optimizer.Momentum(0.01, 0.9)


class Watch(Strategy):
    """Keeps, after each epoch, which teachers there are, what they know, and what is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: list[list[str]] = []
        self.known: list[dict[str, Any]] = []
        self.labels: list[list[str]] = []

    def on_epoch_end(self, context: Context) -> None:
        graph = GraphWrapper(context.train_program)
        self.prefixes.append(teacher_prefixes(graph))
        names = [var.name() for var in graph.all_parameters() if var.name().startswith('teacher')]
        self.known.append({name: load_array(context.scope, name) for name in names})
        self.labels.append([label for label, _ in context.train_fetch_list])


def teacher_program(net: JobNet, seed: int, name: str) -> Any:
    """Return a small program whose parameters are in the network's scope."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    paddle.seed(seed)
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard(name):
        x = paddle.static.data('x', [-1, 2, 6, 6], 'float32')
        hidden = paddle.nn.Conv2D(2, 8, 3, bias_attr=False)(x)
        out = paddle.nn.Linear(8 * 16, 4, bias_attr=False)(paddle.flatten(paddle.nn.functional.relu(hidden), 1))
        out_name = GraphWrapper(main).var(out).name()
    net.exe.run(startup, scope=net.scope)
    return main, out_name


def run(net: JobNet, *strategies: Strategy, **options: Any) -> tuple[Compressor, Any]:
    compressor = net.compressor(train_optimizer=sgd, epoch=3, **options)
    for strategy in strategies:
        compressor.add_strategy(strategy)
    return compressor, compressor.run()


def test_the_teacher_comes_stays_as_it_is_and_goes() -> None:
    net, watch = JobNet(), Watch()
    before = {name: net.value(name) for name in ('conv1', 'conv2', 'fc', 'bias')}
    distil = DistillationStrategy([SoftLabelDistiller(), L2Distiller(weight=0.5)], 1, 2, teacher='original')
    compressor, result = run(net, distil, watch)
    assert watch.prefixes == [[], ['teacher_'], []]
    assert watch.labels == [['loss'], ['loss', 'task_loss', 'distillation_1', 'distillation_2'], ['loss']]
    known = watch.known[1]
    for name, value in before.items():
        assert known[f'teacher_{name}'].tobytes() == value.tobytes()
        assert not np.array_equal(net.value(name), value)
        assert not has_array(net.scope, f'teacher_{name}')
    figures = result.records[1].train
    expected = figures['task_loss'] + figures['distillation_1'] + 0.5 * figures['distillation_2']
    assert figures['loss'] == pytest.approx(expected, rel=1e-5) and figures['distillation_2'] > 0
    assert [entry.note['what'] for entry in result.journal] == ['keep', 'merge', 'strip']
    assert compressor.context.is_trained()


def test_it_trains_as_a_program_that_was_built_by_hand() -> None:
    net, twin = JobNet(), JobNet()
    (program, out), (other, _) = teacher_program(net, 5, 't'), teacher_program(twin, 5, 't')
    reader = lambda: iter(list(batches(3)))  # noqa: E731
    paddle.seed(1)
    compressor = net.compressor(train_optimizer=sgd, epoch=1, teacher_programs=[program], train_reader=reader)
    compressor.add_strategy(DistillationStrategy([L2Distiller(weight=2.0)], task_weight=0.5))
    result = compressor.run()
    assert has_array(net.scope, next(var.name() for var in GraphWrapper(program).all_parameters()))
    student = forward_program(twin.main)
    merged = merge(other, student, {'x': 'x'}, scope=twin.scope)
    logits = [op.all_outputs()[0] for op in GraphWrapper(student).ops() if op.type() == 'elementwise_add'][-1]
    with matching_ir(student), paddle.static.program_guard(student, startup := paddle.static.Program()):
        distance = l2(merged[out], logits.raw, student)
        total, _ = combine([(lookup(student, twin.loss_name), 0.5), (distance, 2.0)], student)
        sgd().minimize(lookup(student, total), startup_program=startup)
    Executor().run(startup, scope=twin.scope)
    paddle.seed(1)
    for image, label in batches(3):
        Executor().run(student, feed={'x': image, 'y': label}, fetch_list=[], scope=twin.scope)
    ours = tensors(result.eval_program, result.scope)
    for name, value in tensors(twin.test, twin.scope).items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_several_teachers_from_programs_and_from_files(tmp_path: Path) -> None:
    net, watch = JobNet(), Watch()
    programs = [teacher_program(net, seed, f't{seed}') for seed in (5, 6)]
    distillers = [L2Distiller(teacher=0), L2Distiller(teacher=1)]
    paddle.seed(1)  # of the dropout
    _, result = run(net, DistillationStrategy(distillers, 0, 1), watch, teacher_programs=[one for one, _ in programs])
    assert sorted(watch.prefixes[0]) == ['teacher0_', 'teacher1_'] and not watch.prefixes[1]
    wanted = result.records[0].train

    other = JobNet()
    paths = []
    for seed, (program, out) in zip((5, 6), programs):
        paths.append(str(tmp_path / f'teacher{seed}' / 'model'))
        save_inference_model(program, paths[-1], ['x'], [out], net.scope)
    paddle.seed(1)
    _, result = run(other, DistillationStrategy(distillers, 0, 1, teacher=paths))
    for name in ('distillation_1', 'distillation_2'):
        assert result.records[0].train[name] == pytest.approx(wanted[name], rel=1e-4)


def test_a_pruned_student_learns_from_the_whole_network() -> None:
    net, watch = JobNet(), Watch()
    prune = UniformPruneStrategy(1, target_ratio=0.4, pruned_params='conv.*', round_to=1)
    _, result = run(net, prune, DistillationStrategy([L2Distiller()], 1, teacher='original', task_weight=0), watch)
    assert net.value('conv1').shape[0] < 16 and watch.known[1]['teacher_conv1'].shape[0] == 16
    figures = result.records[1].train
    assert figures['loss'] == figures['distillation_1'] > 0 and 'task_loss' not in figures
    assert not teacher_prefixes(GraphWrapper(result.train_program))


JOBS: dict[str, tuple[Callable[[], list[Strategy]], list[Point]]] = {
    'prune': (
        lambda: [
            DistillationStrategy([SoftLabelDistiller(), L2Distiller()], 1, 3, teacher='original'),
            UniformPruneStrategy(2, target_ratio=0.4, pruned_params='conv.*', round_to=1),
        ],
        [('batch_begin', 2, 1), ('batch_begin', 0, 2), ('batch_end', 1, 1), ('epoch_end', 2, -1), ('batch_end', 3, 1)],
    ),
}


def job(name: str, folder: Path, point: Point = NOWHERE, seed: int = 5) -> dict[str, Any]:
    compressor = JobNet().compressor(
        train_optimizer=sgd,
        distiller_optimizer=lambda: paddle.optimizer.Adam(0.01),
        train_reader=lambda: batches(3),
        epoch=4,
        checkpoint_path=folder / 'checkpoints',
        checkpoint_every=1,
    )
    return run_until(compressor, JOBS[name][0](), point, seed)


whole = whole_runs(job)


@at_points(JOBS, always=2)
def test_an_interrupted_job_ends_with_the_same_bits(
    tmp_path: Path, whole: Callable[[str], dict[str, Any]], name: str, point: Point
) -> None:
    with pytest.raises(Interrupted):
        job(name, tmp_path, point)
    same(job(name, tmp_path, seed=6), whole(name))


def test_what_cannot_work_is_said_before_anything_happens() -> None:
    with pytest.raises(ConfigError, match='distillers is empty'):
        DistillationStrategy([])
    with pytest.raises(ConfigError, match='task_weight'):
        DistillationStrategy([L2Distiller()], task_weight=-1.0)
    net = JobNet()
    before = tensors(net.main, net.scope)
    with pytest.raises(ConfigError, match='there are no teacher_programs'):
        run(net, DistillationStrategy([L2Distiller()]))
    with pytest.raises(ConfigError, match='teacher 1'):
        run(net, DistillationStrategy([L2Distiller(teacher=1)], teacher='original'))
    with pytest.raises(ConfigError, match='parameters in common'):
        run(net, DistillationStrategy([L2Distiller()]), teacher_programs=[net.test])
    compressor = net.compressor(epoch=2)
    compressor.add_strategy(DistillationStrategy([L2Distiller()], 0, 1, teacher='original'))
    with pytest.raises(ConfigError, match='needs distiller_optimizer or train_optimizer'):
        compressor.run()
    compressor = net.compressor(epoch=2, distiller_optimizer=sgd)
    compressor.add_strategy(DistillationStrategy([L2Distiller()], 0, 1, teacher='original'))
    with pytest.raises(ConfigError, match='give train_optimizer'):
        compressor.run()
    same(before, tensors(net.main, net.scope))
