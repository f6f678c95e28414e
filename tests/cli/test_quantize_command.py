"""paddleslim-ng quantize, from every kind of data, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

import paddleslim_ng as slim
from paddleslim_ng.cli import main
from paddleslim_ng.models import layers
from paddleslim_ng.runtime import load_inference_model
from tests.deploy import lite_nets as nets


def build(folder: Path, name: str, channels: int) -> None:
    def body(image: Any) -> Any:
        y = layers.conv_bn(image, 8, 3, name='first', act='relu')
        y = layers.conv_bn(y, 8, 3, name='second', act='relu')
        return paddle.nn.Linear(8 * 64, 4)(paddle.flatten(y, 1))

    nets.save(nets.build(body, (channels, 8, 8), 0), folder / name)


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold ``grey`` and ``rgb``, and data for them."""
    paddle.enable_static()
    folder = tmp_path_factory.mktemp('models')
    build(folder, 'grey', 1)
    build(folder, 'rgb', 3)
    rng = np.random.default_rng(0)
    np.save(folder / 'images.npy', rng.standard_normal((20, 3, 8, 8)).astype('float32'))
    np.savez(folder / 'images.npz', image=rng.standard_normal((20, 3, 8, 8)).astype('float32'))
    (folder / 'photos' / 'more').mkdir(parents=True)
    for number in range(6):
        pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'photos' / ('more' if number % 2 else '') / f'{number}.png')
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(['quantize', *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ('model', 'data', 'images'),
    [('grey', 'digits', 256), ('rgb', 'images.npy', 20), ('rgb', 'images.npz', 20), ('rgb', 'photos', 6)],
)
def test_every_kind_of_data(
    models: Path, model: str, data: str, images: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data if data == 'digits' else models / data
    code, out, _ = call(capsys, models / model, '--data', source, '-o', tmp_path / 'int8', '--json')
    assert code == 0
    found = json.loads(out)
    assert found['images'] == images
    assert found['operators'] == 3
    assert max(found['distinct'].values()) <= 255
    assert found['bytes'] == sum(path.stat().st_size for path in tmp_path.iterdir() if 'quantization' not in path.name)
    reloaded = load_inference_model(tmp_path / 'int8', paddle.static.Scope())
    batch = np.ones((2, 3 if model == 'rgb' else 1, 8, 8), 'float32')
    feed = {reloaded.feeds[0]: batch}
    (logits,) = slim.Executor().run(reloaded.program, feed, reloaded.fetches, scope=reloaded.scope)
    assert np.isfinite(logits).all()


def test_data_free_warns_loudly(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, models / 'rgb', '--data-free', '-o', tmp_path / 'int8', '--weight-bits', 4)
    assert code == 0
    assert 'Expect the accuracy to suffer' in err
    assert '3 operators quantized' in out
    assert '2 batch norms folded' in out


def test_for_the_phone_with_a_verdict(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ['--data', models / 'images.npy', '-o', tmp_path / 'int8']
    code, out, _ = call(capsys, models / 'rgb', *data, '--to', 'lite', '--measure', '--repeats', 2, '--json')
    assert code == 0
    found = json.loads(out)
    assert found['lite']['bytes'] == (tmp_path / 'int8.nb').stat().st_size
    assert found['lite']['int8_kernels'] == 3
    assert [row['engine'] for row in found['measured']['rows'] if row['kernels']] == ['int8', 'lite_x86', 'lite_arm']
    assert (
        'quantized on Lite Arm: 3 of 3 convolutions and products are int8 kernels; structure verified, not executed'
        in (found['measured']['verdict'])
    )
    assert found['measured']['shapes'] == {'image': [8, 3, 8, 8]}
    code, out, _ = call(capsys, models / 'rgb', *data, '--to', 'lite', '--target', 'x86')
    assert code == 0 and 'for x86, int8' in out and '3 of 3 convolutions and products are int8 kernels' in out
    assert 'leaves its bias out' in out


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['rgb', '--data', 'digits'], 2, 'the digits have one channel'),
        (['rgb', '--data', 'nowhere'], 3, "the folder 'nowhere' is missing"),
        (['rgb', '--data', 'nowhere.npy'], 3, 'cannot read an array'),
        (['rgb', '--data-free', '--algo', 'hits'], 2, "unknown algo 'hits'"),
        (['rgb', '--data-free', '--batch-size', '0'], 2, '--batch-size must be at least 1'),
        (['rgb', '--data', 'IMAGES', '--batches', '4'], 3, 'ended after 3 of 4 batches'),
        (['rgb', '--data', 'IMAGES', '--format', 'linear'], 2, "unknown format 'linear'"),
        (['rgb', '--data-free', '--target', 'arm'], 2, '--target belongs to --to lite'),
        (['rgb', '--data-free', '--repeats', '3'], 2, '--repeats belongs to --measure'),
        (['rgb', '--data-free', '--to', 'lite', '--format', 'decomposed'], 2, 'Paddle Lite takes --format'),
        (['rgb'], 2, 'one of the arguments --data --data-free is required'),
    ],
)
def test_refusals(
    models: Path, arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = arguments
    given = [str(models / 'images.npy') if item == 'IMAGES' else item for item in rest]
    found, _, err = call(capsys, models / name, *given, '-o', tmp_path / 'int8')
    assert (found, message in err) == (code, True), err
    assert not list(tmp_path.iterdir())
