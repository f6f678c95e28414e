"""From a saved model to a compressed one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import AutoCompressed, auto_compress
from paddleslim_ng.core import Executor, GraphWrapper, is_pir_program
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from tests.compress.job_net import JobNet, batches

OPTIMIZER = {'type': 'Adam', 'learning_rate': 0.01}
JOB = {
    'version': 1.0,
    'strategies': {
        'cut': {'class': 'UniformPruneStrategy', 'target_ratio': 0.4, 'round_to': 1, 'pruned_params': 'conv.*'},
        'integers': {'class': 'QuantizationStrategy', 'start_epoch': 6},
    },
    'compressor': {'epoch': 10, 'strategies': ['cut', 'integers'], 'optimizer': OPTIMIZER},
}
POST = {
    'version': 1.0,
    'strategies': {'integers': {'class': 'PostTrainingQuantStrategy', 'batch_nums': 2}},
    'compressor': {'strategies': ['integers']},
}


def images(count: int = 4, seed: int = 0) -> Iterator[list[Any]]:
    for image, _ in batches(count, seed):
        yield [image]


@pytest.fixture(scope='module')
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds one model, in the format of the present IR, and another one in the other format."""
    paddle.enable_static()
    folder, net = tmp_path_factory.mktemp('given'), JobNet()
    for image, label in batches(5):
        net.exe.run(net.main, {'x': image, 'y': label}, [], scope=net.scope)
    logits = [op.all_outputs()[0].name() for op in GraphWrapper(net.test).ops() if op.type() == 'elementwise_add'][-1]
    save_inference_model(net.test, folder / 'model', ['x'], [logits], net.scope)
    if paddle.__version__ > '3':
        other = 'pdmodel' if is_pir_program(net.test) else 'json'
        save_inference_model(net.test, folder / 'other' / 'model', ['x'], [logits], net.scope, format=other)
    return folder


def outputs(path: Any) -> Any:
    model = load_inference_model(path, paddle.static.Scope())
    (image,) = next(iter(images(4, 9)))
    found = Executor().run(model.program, {'x': image}, model.fetches, scope=model.scope)
    return np.asarray(found[0])


def accuracy(executor: Any, program: Any, feeds: list[str], fetches: list[Any]) -> float:
    """Measure as callbacks of PaddleSlim do; the last batch has 16 images less 3."""
    image, label = next(iter(batches(1, 9, 16)))
    (found,) = executor.run(program, feed={feeds[0]: image}, fetch_list=fetches)
    return float((found.argmax(1) == label[:, 0]).mean())


def compress(given: Path, folder: Path, config: Any = None, train: Any = None, **options: Any) -> AutoCompressed:
    source = list(images(5)) if train is None else train
    return auto_compress(given / 'model', source, lambda: images(3, 9), config or JOB, folder, **options)


def test_pruned_distilled_quantized_and_gone_on_with(given: Path, tmp_path: Path) -> None:
    before = outputs(given / 'model')
    made = compress(given, tmp_path / 'out', measured=False)
    assert made.after.flops is not None and made.before.flops is not None
    assert made.after.flops < 0.65 * made.before.flops
    distances = [1 - record.metrics['agreement'] for record in made.result.records]
    assert made.metrics['given']['agreement'] > 1 - 1e-6
    assert made.metrics['int8']['agreement'] == pytest.approx(1 - distances[-1], abs=0.01)
    losses = [record.train['loss'] for record in made.result.records]
    assert losses[-1] < 0.5 * losses[0] and distances[-1] < 0.8 * distances[0], (losses, distances)
    assert outputs(given / 'model').tobytes() == before.tobytes()
    integers, compressed = outputs(tmp_path / 'out' / 'int8'), outputs(tmp_path / 'out' / 'model')
    assert np.abs(integers - compressed).max() < 0.2 * np.abs(compressed).max()
    assert not np.array_equal(integers, compressed)
    assert made.before.file_bytes is not None and made.before.file_bytes > (made.after.file_bytes or 0) > 1000
    assert 'FLOPs' in str(made) and made.report.read_text().count('agreement')
    # Interrupted in epoch 7, when both strategies have acted, and called again.
    with pytest.raises(DataError, match='failed at batch 3'):
        compress(given, tmp_path / 'again', train=_failing(38), measured=False)
    assert not (tmp_path / 'again' / 'model.pdiparams').exists()
    again = compress(given, tmp_path / 'again', measured=False)
    assert again.went_on == (7, 0) and len(again.result.records) == 10
    for name in ('model.pdiparams', 'int8.pdiparams'):
        assert (tmp_path / 'again' / name).read_bytes() == (tmp_path / 'out' / name).read_bytes()
    # Another job in the same folder.
    other = {**JOB, 'compressor': {**JOB['compressor'], 'epoch': 11}}
    with pytest.raises(ConfigError, match='compressor.epoch is 10 there and 11 here'):
        compress(given, tmp_path / 'again', other, measured=False)
    with pytest.raises(ConfigError, match='batches is 5 there and 4 here'):
        compress(given, tmp_path / 'again', train=list(images(4)), measured=False)
    (tmp_path / 'again' / 'job.json').write_text('{')
    with pytest.raises(CheckpointError, match=r'job\.json.* is damaged'):
        compress(given, tmp_path / 'again', measured=False)


class _failing:
    """The same batches, until so many have been given."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __len__(self) -> int:
        return 5

    def __call__(self) -> Iterator[Any]:
        for item in images(5):
            if not self.left:
                raise OSError('the disk is gone')
            self.left -= 1
            yield item


def test_integers_alone_with_a_metric(given: Path, tmp_path: Path) -> None:
    made = compress(given, tmp_path / 'out', POST, eval_function=accuracy, measured=False)
    assert made.metrics['given']['metric'] == made.metrics['compressed']['metric']
    assert 0 <= made.metrics['int8']['metric'] <= 1
    assert not made.verdict and 'turn by turn' not in made.report.read_text()
    before = outputs(given / 'model')
    assert np.abs(outputs(tmp_path / 'out' / 'int8') - before).max() < 0.1 * np.abs(before).max()
    assert json.loads(json.dumps(made.as_dict()))['models']['int8']['metric'] == made.metrics['int8']['metric']


def _node(given: Path) -> str:
    model = load_inference_model(given / 'model', paddle.static.Scope())
    return [op.all_outputs()[0].name() for op in GraphWrapper(model.program).ops() if op.type() == 'relu'][-1]


def _of_itself(given: Path) -> dict[str, Any]:
    return {
        'Distillation': {'loss': 'soft_label', 'alpha': 1.0},
        'TrainConfig': {'train_iter': 7, 'target_metric': 0.1},
    }


def _of_another(given: Path) -> dict[str, Any]:
    node, names = _node(given), {'teacher_model_filename': 'model', 'teacher_params_filename': 'model'}
    teacher = {'loss': 'l2', 'node': [f'teacher_{node}', node], 'teacher_model_dir': str(given), **names}
    return {'Distillation': teacher, 'TrainConfig': {'epochs': 2, 'learning_rate': 0.01}}


def _of_several(given: Path) -> dict[str, Any]:
    node = _node(given)
    teachers = {'loss': ['l2', 'soft_label'], 'node': [[f'teacher1_{node}', node], []], 'alpha': [1.0, 0.5]}
    folders = [str(given / 'model'), str(given / 'model')]
    return {
        'MultiTeacherDistillation': {**teachers, 'teacher_model_dir': folders},
        'TrainConfig': {'epochs': 2, 'learning_rate': 0.01, 'origin_metric': 0.0},
    }


@pytest.mark.parametrize('teaching', [_of_itself, pytest.param(_of_another, marks=pytest.mark.full), _of_several])
def test_files_of_paddleslim(
    given: Path, teaching: Callable[[Path], dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is that of ``Global``, in the format of the other IR where there is one; the teacher is read anew."""
    model = given / 'other' if (given / 'other').is_dir() else given
    config = {'Global': {'model_dir': str(model)}, 'QuantAware': {'use_pact': True}, **teaching(given)}
    made = auto_compress(
        None, list(images(4)), list(images(2, 9)), config, tmp_path / 'out', eval_function=accuracy, measured=False
    )
    losses = [record.train['distillation_1'] for record in made.result.records]
    if teaching is _of_itself:
        assert (
            len(losses) == 1
            and made.result.stopped == f'metric is {made.result.metrics["metric"]:g} and has reached 0.1'
        )
    else:
        assert len(losses) == 2 and losses[1] < losses[0]
    assert ('origin_metric says 0' in caplog.text) is (teaching is _of_several)
    # What the files compute, by Paddle's own executor.
    model_of = load_inference_model(tmp_path / 'out' / 'int8', scope := paddle.static.Scope())
    image, label = next(iter(batches(1, 9, 16)))
    executor = paddle.static.Executor(paddle.CPUPlace())
    with paddle.static.scope_guard(scope), matching_ir(model_of.program):
        (found,) = executor.run(model_of.program, {'x': image}, list(model_of.fetches))
    assert made.metrics['int8']['metric'] == (np.asarray(found).argmax(1) == label[:, 0]).mean()


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'eval_data': None}, ConfigError, 'give eval_data, or eval_function'),
        ({'loss': 'soft_labels'}, ConfigError, "unknown loss 'soft_labels'.*soft_label"),
        ({'model_dir': None}, ConfigError, 'model_dir is missing'),
        ({'model_dir': 'nowhere'}, DataError, "there is no inference model 'nowhere'"),
        ({'measured': True, 'engines': ['plane']}, ConfigError, "unknown engine 'plane'.*plain"),
        ({'train_data': list(batches(2))}, DataError, r"2.* columns for 1 inputs. .* \['x'\], and no labels"),
        ({'eval_data': []}, DataError, 'eval_data is empty'),
        ({'config': {**JOB, 'compressor': {**JOB['compressor'], 'monitor': 'top1'}}}, ConfigError, "'top1'.*agreement"),
        (
            {'config': {'QuantPost': None, 'TrainConfig': {'epochs': 1, 'target_metric': 1}}},
            ConfigError,
            'eval_function',
        ),
    ],
)
def test_refusals(given: Path, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    arguments = {
        'model_dir': given / 'model',
        'train_data': list(images(2)),
        'eval_data': list(images(2, 9)),
        'config': JOB,
        'save_dir': tmp_path,
        'measured': False,
    }
    with pytest.raises(error, match=message):
        auto_compress(**{**arguments, **options})
    assert not list(tmp_path.iterdir())
    if 'loss' in options:
        with pytest.raises(ConfigError, match='the model itself'):
            auto_compress(**{**arguments, 'save_dir': given})
