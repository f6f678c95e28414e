"""verify: its figures against numpy, and what it lets pass and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy.verification import compare_outputs
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError, EquivalenceError
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets


def test_figures() -> None:
    reference = np.array([[1.0, -4.0], [2.0, 3.0]], 'float32')
    near, far = reference + 0.01, reference[:, ::-1]
    figures = compare_outputs([reference], [[near], [reference]])
    assert figures.difference == figures.spread == pytest.approx(0.01, rel=1e-4)
    assert figures.relative_difference == figures.relative_spread == pytest.approx(0.0025, rel=1e-4)
    assert figures.top1 == 1
    assert figures.failures(0.01) == ()
    assert [text.split()[-2] for text in figures.failures(0.001)]
    assert len(figures.failures(0.001)) == 2
    figures = compare_outputs([reference], [[far], [far]])
    assert (figures.top1, figures.spread, figures.difference, figures.relative_difference) == (0, 0, 5, 1.25)
    assert compare_outputs([reference], [[near], [far]]).top1 == 0.5


@pytest.mark.parametrize(
    ('broken', 'words'),
    [
        ([[np.nan, 1.0], [2.0, 3.0]], 'not finite'),
        ([[np.inf, 1.0], [2.0, 3.0]], 'not finite'),
        ([[2.0, 2.0], [2.0, 2.0]], 'constant'),
    ],
)
def test_outputs_that_say_nothing(broken: Any, words: str) -> None:
    reference = np.array([[1.0, -4.0], [2.0, 3.0]], 'float32')
    figures = compare_outputs([reference], [[np.array(broken, 'float32')]])
    assert any(words in text for text in figures.failures(1e9))
    constant = np.full([2, 2], 3.0)
    assert compare_outputs([constant], [[constant]]).failures(0.0) == ()  # as the reference is


def body(image: Any) -> Any:
    y = layers.conv(image, 8, 3, name='c', bias=True, act='relu')
    return layers.linear(layers.global_average(y), 5, weight='w', bias='b')


@pytest.fixture(scope='module')
def net() -> nets.Net:
    paddle.enable_static()
    return nets.build(body, (1, 6, 6))


@pytest.fixture(scope='module')
def files(net: nets.Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nets.save(net, tmp_path_factory.mktemp('saved') / 'net')


@pytest.fixture(scope='module')
def lite(files: Path, tmp_path_factory: pytest.TempPathFactory) -> slim.deploy.LiteModel:
    return slim.deploy.to_lite(files, tmp_path_factory.mktemp('nb') / 'net', 'x86', check=False)


def test_references_of_every_form(net: nets.Net, files: Path, lite: slim.deploy.LiteModel) -> None:
    results = [
        slim.deploy.verify(lite, net.images),
        slim.deploy.verify(lite.file, net.images, files),
        slim.deploy.verify(str(lite.file), net.images, slim.runtime.load_inference_model(files, paddle.static.Scope())),
        slim.deploy.verify(lite.file, net.images, net.program, fetches=net.fetches, scope=net.scope),
    ]
    for result in results:
        assert result.executed
        assert result.passed
        assert result.figures.predictors == 3
        assert result.figures.relative_difference < 1e-5
        assert 'equal to the reference' in str(result)
    reference = nets.expected(net)
    with slim.deploy.LiteProcess(lite.file) as process:
        process.set_inputs(net.images)
        process.run()
        difference = np.abs(next(iter(process.outputs().values())) - reference).max()
    assert results[0].figures.difference == pytest.approx(difference, abs=1e-7)


def test_saved_models_of_either_format(net: nets.Net, files: Path, tmp_path: Path) -> None:
    legacy = nets.save(net, tmp_path / 'legacy', 'pdmodel')
    for artifact in (files, legacy.with_suffix('.pdmodel')):
        result = slim.deploy.verify(artifact, net.images, files, predictors=1)
        assert result.runtime == 'Paddle Inference'
        assert result.figures.relative_difference < 1e-5
    other = nets.save(nets.build(body, (1, 6, 6), seed=3), tmp_path / 'other')
    with pytest.raises(EquivalenceError, match='differ from the reference'):
        slim.deploy.verify(other, net.images, files, predictors=1)


def test_another_models_file(net: nets.Net, lite: slim.deploy.LiteModel, tmp_path: Path) -> None:
    other = nets.build(body, (1, 6, 6), seed=3)
    result = slim.deploy.verify(
        lite.file, net.images, other.program, fetches=other.fetches, scope=other.scope, check=False
    )
    assert not result.passed
    assert result.figures.spread == 0
    assert 'FAILED' in str(result)
    with pytest.raises(EquivalenceError, match='differ from the reference'):
        result.raise_for_failure()
    wide = nets.build(lambda image: layers.conv(image, 2, 3, name='c'), (1, 6, 6))
    with pytest.raises(EquivalenceError, match=r'outputs of shapes \[\[2, 5\]\]'):
        slim.deploy.verify(lite, net.images, wide.program, fetches=wide.fetches, scope=wide.scope)


@pytest.mark.parametrize(
    ('feeds', 'words'),
    [
        ({}, "has an input 'image'"),
        ({'picture': np.zeros([2, 1, 6, 6], 'float32')}, "has an input 'image'"),
        ({'image': np.zeros([2, 1, 6, 7], 'float32')}, r'\[2, 1, 6, 7\]'),
        ({'image': np.zeros([2, 36], 'float32')}, r'\[2, 36\]'),
        ({'image': np.zeros([2, 1, 6, 6])}, 'float64'),
        ({'image': np.zeros([2, 1, 6, 6], 'float32'), 'more': np.zeros(1)}, "no input \\['more'\\]"),
    ],
)
def test_wrong_feeds(
    feeds: Any, words: str, net: nets.Net, lite: slim.deploy.LiteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError('something was run')

    monkeypatch.setattr(slim.Executor, 'run', forbidden)
    monkeypatch.setattr('subprocess.Popen.__init__', forbidden)
    with pytest.raises(DataError, match=words):
        slim.deploy.verify(lite, feeds)


def test_arm_is_not_executed(net: nets.Net, files: Path, tmp_path: Path) -> None:
    arm = slim.deploy.to_lite(files, tmp_path / 'arm')
    result = slim.deploy.verify(arm, net.images)
    assert (result.executed, result.figures, result.passed) == (False, None, True)
    assert 'structure verified, not executed' in str(result)
    assert 'arm' in str(result)
    arm.file.write_bytes(arm.file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match='truncated'):
        slim.deploy.verify(arm, net.images)


def test_softmax_is_pointed_out(tmp_path: Path) -> None:
    net = nets.build(lambda image: F.softmax(body(image)), (1, 6, 6))
    result = slim.deploy.to_lite(net.program, tmp_path / 'net', 'x86', fetches=net.fetches, scope=net.scope)
    assert any('compare logits' in note for note in result.verification.notes)


def test_feeds_that_the_network_cannot_use(tmp_path: Path) -> None:
    """The shape is open in the program, and not every size fits the network."""
    net = nets.build(
        lambda image: paddle.reshape(layers.conv(image, 2, 3, name='c'), [-1, 2 * 36]), (1, 6, 6), open_sizes=True
    )
    files = nets.save(net, tmp_path / 'net')
    with pytest.raises(DataError, match=r'cannot run on feeds of shapes.*check=False'):
        slim.deploy.to_lite(files, tmp_path / 'out', 'x86', feed={'image': np.zeros([1, 1, 5, 5], 'float32')})
    assert slim.deploy.to_lite(files, tmp_path / 'out', 'x86', feed=net.images).verification.passed


def test_arguments(net: nets.Net, files: Path, lite: slim.deploy.LiteModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='Only the result of to_lite'):
        slim.deploy.verify(lite.file, net.images)
    with pytest.raises(ConfigError, match='fetches'):
        slim.deploy.verify(lite, net.images, net.program, scope=net.scope)
    with pytest.raises(ConfigError, match='not int'):
        slim.deploy.verify(lite, net.images, 7)
    with pytest.raises(ConfigError, match='predictors'):
        slim.deploy.verify(lite, net.images, predictors=0)
    with pytest.raises(DataError, match='no file'):
        slim.deploy.verify(tmp_path / 'none.nb', net.images, files)
