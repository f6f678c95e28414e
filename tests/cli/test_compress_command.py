"""paddleslim-ng compress: a job from a saved model to its files, interrupted and gone on with, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

import paddleslim_ng as slim
from paddleslim_ng.cli.sample_source import learning_data, read_given_arrays
from paddleslim_ng.compress import Trainer
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.runtime import load_inference_model
from tests.cli.pruned_models import call, make_models

WORKED = Path(__file__).resolve().parents[2] / 'configs' / 'compress' / 'saved_model.yaml'


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, 200 digits, labels that the model ``grey`` mostly agrees with, and a short form of the worked file."""
    folder = make_models(tmp_path_factory.mktemp('models'))
    images = slim.data.digits(size=8).train.images[:200]
    np.save(folder / 'digits.npy', images)
    np.save(folder / 'labels.npy', scores_of(folder / 'grey', images).argmax(1))
    settings = yaml.safe_load(WORKED.read_text('utf-8'))
    settings['strategies']['prune']['delta_rate'] = 0.4
    settings['strategies']['quantize']['start_epoch'] = 2
    settings['compressor']['epoch'] = 3
    (folder / 'short.yaml').write_text(yaml.safe_dump(settings))
    settings['compressor']['monitor'] = 'top1_acc'
    (folder / 'watched.yaml').write_text(yaml.safe_dump(settings))
    (folder / 'act.yaml').write_text('QuantPost:\nTrainConfig: {epochs: 1, target_metric: 0.9}\n')
    return folder


def scores_of(path: Path, images: Any) -> Any:
    """Return what a model computes in Paddle's own executor."""
    model = load_inference_model(path, scope := paddle.static.Scope())
    executor = paddle.static.Executor(paddle.CPUPlace())
    with paddle.static.scope_guard(scope), matching_ir(model.program):
        (found,) = executor.run(model.program, {model.feeds[0]: images}, list(model.fetches))
    return np.asarray(found)


def test_a_job_that_was_interrupted(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / 'out', ['--data', models / 'digits.npy', '--labels', models / 'labels.npy']
    arguments = ['--config', models / 'watched.yaml', models / 'grey', *data, '-o', out]
    timing = ['--engines', 'plain', '--repeats', 2]

    def interrupted(trainer: Trainer, feed: Any) -> Any:
        if trainer.context.epoch_id == 1:
            raise KeyboardInterrupt
        return train_values(trainer, feed)

    train_values = Trainer.train_values
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, 'train_values', interrupted)
        code, _, err = call(capsys, 'compress', *arguments, '--no-measure')
    assert code == 130 and 'the same command goes on' in err
    code, text, err = call(capsys, 'compress', *arguments, *timing)
    assert code == 0, err
    assert text.startswith(f'went on from {out / "checkpoints"}: epoch 1, 0 batches done')
    assert 'int8 on Paddle Inference without oneDNN' in text and 'model.nb for Paddle Lite' in text
    assert 'turn by turn' in (out / 'report.html').read_text()
    files = ['model.pdiparams', 'int8.pdiparams', 'inference/model.pdiparams', 'mobile/model.nb', 'sensitivities.json']
    assert all((out / name).is_file() for name in [*files, 'report.html'])
    # Again, for machines; every tenth sample has been kept to measure on.
    code, text, _ = call(capsys, 'compress', *arguments, '--no-measure', '--json')
    found = json.loads(text)
    assert code == 0 and found['went_on'] == [3, 0] and len(found['epochs']) == 3
    kept, labels = np.load(models / 'digits.npy')[::10], np.load(models / 'labels.npy')[::10]
    for name, path in (('given', models / 'grey'), ('compressed', out / 'model'), ('int8', out / 'int8')):
        assert found['models'][name]['top1_acc'] == pytest.approx((scores_of(path, kept).argmax(1) == labels).mean())
    assert found['models']['compressed']['flops'] < 0.6 * found['models']['given']['flops']
    # Another order of the data, and another configuration, in the same folder.
    code, _, err = call(capsys, 'compress', *arguments, '--seed', 1)
    assert code == 2 and 'seed is 0 there and 1 here' in err
    code, _, err = call(capsys, 'compress', '--config', models / 'short.yaml', models / 'grey', *data, '-o', out)
    assert code == 2 and "compressor.monitor is 'top1_acc' there and None here" in err


def _read(models: Path, **given: Any) -> Any:
    defaults = {'eval_data': None, 'labels': None, 'batch_size': 8, 'batches': None, 'mean': None, 'std': None}
    arguments = argparse.Namespace(**{**defaults, 'seed': 0, **given})
    model = load_inference_model(models / given['model'], paddle.static.Scope())
    inputs = [slim.GraphWrapper(model.program).var(name) for name in model.feeds]
    return learning_data(arguments, read_given_arrays(arguments), inputs, {})


def test_what_is_learned_from_and_what_measures(models: Path) -> None:
    images = np.load(models / 'images.npy')
    found = _read(models, model='rgb', data=str(models / 'images.npy'))
    np.testing.assert_array_equal(np.concatenate([feed['image'] for feed in found.evaluation]), images[[0, 10]])
    trained = np.concatenate([batch[0] for batch in found.train()])
    assert {row.tobytes() for row in trained} < {row.tobytes() for row in np.delete(images, [0, 10], 0)}
    assert len(trained) == 16 and found.labels is None
    np.savez(models / 'named.npz', image=images[:5].astype('float64'), other=images)
    found = _read(models, model='rgb', data=str(models / 'images.npy'), eval_data=str(models / 'named.npz'))
    assert len(found.train) == 2 and found.evaluation[0]['image'].dtype == np.float32
    (models / 'list.txt').write_text(''.join(f'{number}.png {number}\n' for number in range(6)))
    photos = {'data': 'digits', 'eval_data': str(models / 'photos'), 'labels': str(models / 'list.txt'), 'batches': 1}
    found = _read(models, model='grey', **{**photos, 'batch_size': 4})
    assert found.labels.tolist() == [0, 1, 2, 3] and found.evaluation[0]['image'].shape == (4, 1, 8, 8)
    parts = slim.data.digits(size=8)
    found = _read(models, model='grey', data='digits')
    np.testing.assert_array_equal(found.labels, parts.validation.labels[:, 0])
    assert len(found.train) == len(parts.train) // 8


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['--repeats', '3', '--no-measure'], 2, '--repeats belongs to --measure'),
        (['--engines', 'plane'], 2, "unknown engine 'plane'"),
        (['--repeats', '0'], 2, '--repeats must be at least 1'),
        (['--seed', '-1'], 2, '--seed must not be negative'),
        (['--batch-size', '0'], 2, '--batch-size must be at least 1'),
        (['--loss', 'l1'], 2, 'invalid choice'),
        (['--config', 'nowhere.yaml'], 2, 'nowhere.yaml'),
        (['--labels', 'x.txt'], 2, '--labels is a file .npy where --data is arrays'),
        (['--labels', 'LABELS', '--eval-data', 'IMAGES'], 3, '200 labels'),
        (['--config', 'WATCHED'], 2, "decides by 'top1_acc', and without --labels only 'agreement'"),
        (['--config', 'ACT'], 2, "has a target_metric, and without --labels only 'agreement'"),
        (['--data', 'IMAGES'], 3, 'wants shape'),
        (['-o', 'LABELS'], 2, 'is a file'),
    ],
)
def test_refusals(
    models: Path, arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        'LABELS': models / 'labels.npy',
        'IMAGES': models / 'images.npy',
        'WATCHED': models / 'watched.yaml',
        'ACT': models / 'act.yaml',
    }
    given = [names.get(item, item) for item in arguments]
    common = ['--config', models / 'short.yaml', '--data', models / 'digits.npy', '-o', tmp_path / 'out']
    found, _, err = call(capsys, 'compress', *common, *given, models / 'grey')
    assert (found, message in err) == (code, True), err
    assert not list(tmp_path.iterdir())


def test_a_model_that_nothing_names(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ['--data', models / 'digits.npy', '--labels', models / 'labels.npy', '-o', tmp_path / 'out']
    code, _, err = call(capsys, 'compress', '--config', models / 'act.yaml', *given)
    assert code == 2 and 'name a MODEL' in err
    assert not list(tmp_path.iterdir())
