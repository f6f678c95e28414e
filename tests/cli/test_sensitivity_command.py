"""paddleslim-ng sensitivity: both metrics against numpy, resumption, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.runtime import load_inference_model
from tests.cli.pruned_models import call, make_models


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp('models'))


def logits_without(path: Path, images: np.ndarray, layer: str, ratio: float) -> np.ndarray:
    """Run a model whose weakest channels of a layer are zero behind its batch norm."""
    scope = paddle.static.Scope()
    model = load_inference_model(path, scope)
    weights = load_array(scope, f'{layer}_weights')
    gone = np.argsort(np.abs(weights).sum(axis=(1, 2, 3)))[: round(ratio * len(weights))]
    for name in (f'{layer}_bn_scale', f'{layer}_bn_offset'):
        array = load_array(scope, name).copy()
        array[gone] = 0
        store_array(scope, name, array)
    return np.asarray(slim.Executor().run(model.program, {model.feeds[0]: images}, model.fetches, scope=scope)[0])


def test_agreement_is_one_less_the_distance_of_outputs(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 's.json'
    arguments = [models / 'rgb', '--data', models / 'images.npy', '--batch-size', 10, '-o', file]
    code, text, _ = call(capsys, 'sensitivity', *arguments, '--ratios', '0.5', '--json')
    assert code == 0
    found = json.loads(text)
    assert (found['metric'], found['samples']) == ('agreement', 20)
    assert found['baseline'] == pytest.approx(1.0, abs=1e-5)
    images = np.load(models / 'images.npy')
    whole = logits_without(models / 'rgb', images, 'first', 0.0)
    for layer in ('first', 'second'):
        masked = logits_without(models / 'rgb', images, layer, 0.5)
        parts = [slice(0, 10), slice(10, 20)]
        distance = np.mean([np.linalg.norm(masked[p] - whole[p]) / np.linalg.norm(whole[p]) for p in parts])
        assert found['sensitivities'][f'{layer}_weights']['0.5'] == pytest.approx(distance, rel=1e-3)
    # Another run adds to the file, and keeps what it holds.
    code, text, _ = call(capsys, 'sensitivity', *arguments, '--ratios', '0.25', '--params', 'first.*', '--json')
    assert code == 0
    assert set(json.loads(text)['sensitivities']['first_weights']) == {'0.25', '0.5'}
    assert set(json.loads(file.read_text())['sensitivities']['second_weights']) == {'0.5'}
    # Other data would give other losses.
    code, _, err = call(capsys, 'sensitivity', *arguments, '--batches', '1', '--ratios', '0.75')
    assert (code, 'is stale' in err) == (3, True)


def test_accuracy_of_labels(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.load(models / 'images.npy')
    # Labels of the model itself, three of them spoilt, so that there is an accuracy to lose.
    predicted = logits_without(models / 'rgb', images, 'first', 0.0).argmax(axis=1)
    spoilt = np.where(np.arange(20) < 3, (predicted + 1) % 10, predicted)
    np.save(tmp_path / 'labels.npy', spoilt)
    labels = ['--labels', tmp_path / 'labels.npy', '--ratios', '0.5', '--json', '-o', tmp_path / 's.json']
    code, text, _ = call(capsys, 'sensitivity', models / 'rgb', '--data', models / 'images.npy', *labels)
    assert code == 0
    found = json.loads(text)
    assert (found['metric'], found['baseline']) == ('top1', pytest.approx(17 / 20))
    for layer in ('first', 'second'):
        right = (logits_without(models / 'rgb', images, layer, 0.5).argmax(axis=1) == spoilt).mean()
        loss = (17 / 20 - right) / (17 / 20)
        assert found['sensitivities'][f'{layer}_weights']['0.5'] == pytest.approx(loss, abs=1e-6)


def test_folders_plots_and_results_of_other_runs(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / 'one.json'
    photos = ['--data', models / 'photos']
    code, text, _ = call(capsys, 'sensitivity', models / 'rgb', *photos, '--ratios', '0.5', '-o', one)
    assert code == 0 and 'agreement of the model on 6 samples: 1.0000' in text
    more = ['--ratios', '0.25', '-o', tmp_path / 'two.json', '--merge', one, '--loss', 0.9]
    plot = tmp_path / 'plot.png'
    code, text, _ = call(capsys, 'sensitivity', models / 'rgb', *photos, *more, '--plot', plot)
    assert code == 0
    assert 'loss without       0.25      0.5    may lose' in text
    assert plot.read_bytes().startswith(b'\x89PNG')
    # The list names four of the images, with the labels that the model gives them.
    pixels = np.stack([image for image, _ in slim.data.ImageList.of_folder(models / 'photos', size=8)])
    predicted = logits_without(models / 'rgb', pixels, 'first', 0.0).argmax(axis=1)
    (tmp_path / 'list.txt').write_text(''.join(f'{number}.png {predicted[number]}\n' for number in (3, 0, 5, 1)))
    labelled = [*photos, '--labels', tmp_path / 'list.txt', '--ratios', '0.5', '-o', tmp_path / 'three.json', '--json']
    code, text, _ = call(capsys, 'sensitivity', models / 'rgb', *labelled)
    assert code == 0
    found = json.loads(text)
    assert (found['metric'], found['samples'], found['baseline']) == ('top1', 4, 1.0)


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['--data', 'IMAGES', '--ratios', '1.5'], 2, '--ratios takes shares between 0 and 1'),
        (['--data', 'IMAGES', '--metric', 'top1'], 2, '--metric top1 needs --labels'),
        (['--data', 'IMAGES', '--labels', 'list.txt'], 2, '--labels is a file .npy where --data is arrays'),
        (['--data', 'IMAGES', '--labels', 'SHORT'], 3, 'holds 5 labels'),
        (['--data', 'IMAGES', '--labels', 'IMAGES'], 3, 'must hold N whole numbers'),
        (['--data', 'nowhere.npy'], 3, 'cannot read an array'),
        (['--data', 'nowhere'], 3, "the folder 'nowhere' is missing"),
        (['--data', 'digits'], 2, 'the digits have one channel'),
        (['--data', 'digits', '--labels', 'SHORT'], 2, 'the digits have labels of their own'),
        (['--data', 'IMAGES', '--batch-size', '0'], 2, '--batch-size must be at least 1'),
        (['--data', 'IMAGES', '--params', 'third'], 2, "['first_weights', 'second_weights']"),
        (['--data', 'IMAGES', '--plot', 'no/where.png'], 2, 'the folder of --plot no/where.png is missing'),
        (['--data', 'IMAGES', '--merge', 'nowhere.json'], 3, 'cannot read sensitivities from nowhere.json'),
        ([], 2, 'the following arguments are required: --data'),
    ],
)
def test_refusals(
    models: Path, arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(models / 'short.npy', np.arange(5))
    names = {'IMAGES': 'images.npy', 'SHORT': 'short.npy'}
    given = [str(models / names[item]) if item in names else item for item in arguments]
    found, _, err = call(capsys, 'sensitivity', models / 'rgb', '-o', tmp_path / 's.json', *given)
    assert (found, message in err) == (code, True), err
    assert not list(tmp_path.iterdir())
