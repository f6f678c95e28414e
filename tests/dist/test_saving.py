"""Whatever is saved of a merged program for use is the student; checkpoints hold what training changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, cut_program, load_array, store_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.distributed import Checkpoints, Ranks
from paddleslim_ng.errors import CheckpointError, GraphError
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from tests.dist.merged_nets import BETWEEN_FEATURES, BETWEEN_LOGITS, HOLDING, Distilled, Loss, same
from tests.dist.nets import Net, batch

ALONE = Ranks(0, 1)


def softened(t: Any, s: Any, main: Any, startup: Any) -> Any:
    """A loss that reads the student's logits through a softmax of its own."""
    one, other = paddle.nn.functional.softmax(t * 0.25), paddle.nn.functional.softmax(s * 0.25)
    return paddle.mean((one - other) * (one - other))


LOSSES: dict[str, tuple[Loss | None, str]] = {
    'no loss': (None, 'logits'),
    'soft_label of logits': (BETWEEN_LOGITS['soft_label'], 'logits'),
    'hinton of logits': (BETWEEN_LOGITS['hinton'], 'logits'),
    'softmax by hand': (softened, 'logits'),
    'l2 by hand of features': (HOLDING['by hand'], 'features'),
    'regression of features': (BETWEEN_FEATURES['regression'], 'features'),
}


def student_files(net: Distilled, folder: Path, **options: Any) -> dict[str, bytes]:
    """Save the student from a program without a teacher, with the same parameters."""
    alone = Net(6)
    save_inference_model(alone.main, folder / 'alone', ['image'], [alone.logits], net.scope, **options)
    return contents(folder, 'alone')


def contents(folder: Path, name: str) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in folder.glob(f'{name}.*')}


@pytest.mark.parametrize(('name', 'named'), [*((name, False) for name in LOSSES), ('regression of features', True)])
def test_a_saved_model_is_the_student(name: str, named: bool, tmp_path: Path) -> None:
    """To the byte the parameters that the student's own program saves, and its outputs."""
    loss, on = LOSSES[name]
    net = Distilled(loss, on, teacher=6)
    net.net.exe.run(net.main, feed=batch(), scope=net.scope)
    fetches = [net.net.logits] if named else None
    saved = save_inference_model(net.main, tmp_path / 'model', ['image'], fetches, net.scope)
    assert saved.difference == 0.0
    alone = student_files(net, tmp_path)
    assert contents(tmp_path, 'model')['.pdiparams'] == alone['.pdiparams']
    models = [load_inference_model(tmp_path / one, paddle.static.Scope()) for one in ('model', 'alone')]
    types = [[op.type() for op in GraphWrapper(model.program).ops()] for model in models]
    assert types[0] == types[1]
    feed = {'image': batch(3)['image']}
    got, want = (slim.Executor().run(m.program, feed, m.fetches, scope=m.scope) for m in models)
    assert len(got) == len(want) == 1
    np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize('name', ['soft_label', 'by hand'])
def test_a_student_without_labels(name: str, tmp_path: Path) -> None:
    """Its logits are read by the loss against the teacher alone, and are the output nevertheless."""
    net = Net(6)
    trunk = cut_program(net.main, ['image'], [net.logits])
    net.loss = net.logits
    merged = Distilled(BETWEEN_LOGITS[name], minimize=False, student=(net, trunk))
    save_inference_model(trunk, tmp_path / 'model', ['image'], None, net.scope)
    assert contents(tmp_path, 'model')['.pdiparams'] == student_files(merged, tmp_path)['.pdiparams']
    model = load_inference_model(tmp_path / 'model', paddle.static.Scope())
    feed = {'image': batch()['image']}
    want = slim.Executor().run(slim.core.clone_program(trunk, for_test=True), feed, [net.logits], scope=net.scope)
    (got,) = slim.Executor().run(model.program, feed, model.fetches, scope=model.scope)
    np.testing.assert_array_equal(got, want[0])


def test_results_that_depend_on_the_teacher_are_refused(tmp_path: Path) -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    logits = net.merged[net.teacher.logits]
    with pytest.raises(GraphError, match="is a result of the merged teacher 'teacher_'.*the teacher's own program"):
        save_inference_model(net.main, tmp_path / 'model', ['image'], [logits], net.scope)
    with pytest.raises(GraphError, match=r"is computed from 'teacher_.*' of the merged teacher 'teacher_'"):
        save_inference_model(net.main, tmp_path / 'model', ['image'], [net.net.logits, net.gap], net.scope)
    assert not list(tmp_path.iterdir())


def test_paddles_own_function_saves_no_teacher(tmp_path: Path) -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    alone = Net(6)
    for name, one in (('model', net.net), ('alone', alone)):
        image = GraphWrapper(one.main).var('image').raw
        with paddle.static.scope_guard(net.scope), matching_ir(one.main):
            paddle.static.save_inference_model(str(tmp_path / name), [image], [one.logits], one.exe, program=one.main)
    assert contents(tmp_path, 'model')['.pdiparams'] == contents(tmp_path, 'alone')['.pdiparams']
    model = load_inference_model(tmp_path / 'model', paddle.static.Scope())
    assert not [var for var in GraphWrapper(model.program).vars() if 'teacher_' in var.name()]


def test_paddle_lite_gets_the_student(tmp_path: Path) -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'])
    alone = Net(6)
    for name, program, options in (
        ('model', net.main, {'fetches': [net.net.logits]}),
        ('guessed', net.main, {'feeds': ['image']}),
        ('alone', alone.main, {'fetches': [alone.logits]}),
    ):
        slim.deploy.to_lite(program, tmp_path / name, scope=net.scope, check=False, **options)
    sizes = {name: len(contents(tmp_path, name)['.nb']) for name in ('model', 'guessed', 'alone')}
    assert abs(sizes['model'] - sizes['alone']) < 100 and abs(sizes['guessed'] - sizes['alone']) < 100
    assert sum(array.nbytes for array in net.teachers().values()) > 1000, 'which would show'
    with pytest.raises(GraphError, match="merged teacher 'teacher_'"):
        slim.deploy.to_lite(net.main, tmp_path / 'model', fetches=[net.gap], scope=net.scope)


def test_checkpoints_leave_the_teacher_out_and_know_it(tmp_path: Path) -> None:
    """A job that builds its programs again and restores goes on bit by bit; beside another teacher it refuses."""
    net = Distilled(BETWEEN_FEATURES['regression'], 'features')
    saved = Checkpoints(tmp_path, net.main, net.scope, ranks=ALONE)

    def go_on(job: Distilled, first: int) -> dict[str, Any]:
        for step in range(first, 4):
            job.net.exe.run(job.main, feed=batch(step), scope=job.scope)
            if step == 1:
                saved.save(2)
        return job.net.state()

    straight = go_on(net, 0)
    held = np.load(next(tmp_path.glob('*.npz')))
    everything = sum(array.nbytes for array in straight.values())
    tensors = sum(held[name].nbytes for name in held.files if held[name].dtype == np.float32)
    assert tensors < everything - sum(array.nbytes for array in net.teachers().values()) + 100

    again = Distilled(BETWEEN_FEATURES['regression'], 'features')
    other = load_array(again.scope, 'teacher_t_fc')
    store_array(again.scope, 'teacher_t_fc', other + 1)
    before = again.net.state()
    checkpoints = Checkpoints(tmp_path, again.main, again.scope, ranks=ALONE)
    with pytest.raises(CheckpointError, match="the merged teacher 'teacher_' has other parameters"):
        checkpoints.restore()
    assert same(before, again.net.state())
    store_array(again.scope, 'teacher_t_fc', other)
    restored = checkpoints.restore()
    assert restored is not None and restored.step == 2
    assert same(straight, go_on(again, 2))

    alone = Net(6, minimize=paddle.optimizer.Momentum(0.05, 0.9))
    with pytest.raises(CheckpointError, match='another program'):
        Checkpoints(tmp_path, alone.main, alone.scope, ranks=ALONE).restore()
