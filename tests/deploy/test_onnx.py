"""ONNX files: parity with Paddle, versions that fit each other, no process started, errors that leave nothing."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy import onnx, onnx_process, onnx_worker
from paddleslim_ng.errors import ConfigError, DataError, DeployError, EquivalenceError, UnsupportedOpError
from paddleslim_ng.models import build_classifier
from tests.deploy import lite_nets as nets

VERSION = metadata.version('paddle2onnx')
IMAGES = np.random.default_rng(3).standard_normal([4, 3, 32, 32]).astype('float32')


def saved(folder: Path, name: str = 'MobileNetV2', output: str = 'logits', **kwargs: Any) -> Path:
    """Save a small network of the zoo whose batch norms have statistics, and return its prefix."""
    scope = paddle.static.Scope()
    net = build_classifier(name, [3, 32, 32], 5, seed=1, model_kwargs=kwargs, scope=scope)
    rng = np.random.default_rng(0)
    for var in slim.GraphWrapper(net.val_program).all_parameters():
        if len(var.shape()) == 1:
            value = rng.uniform(0.5, 1.5, var.shape()).astype('float32')
            slim.core.store_array(scope, var.name(), value)
    prefix = folder / name
    target = getattr(net, output)
    slim.runtime.save_inference_model(net.val_program, prefix, ['image'], [target], scope, check=False)
    return prefix


def run(file: Path, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime

    return list(onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider']).run(None, feeds))


@pytest.mark.parametrize(('name', 'kwargs'), [('MobileNetV2', {'scale': 0.25}), ('ShuffleNetV2', {'scale': 0.5})])
def test_onnxruntime_agrees_with_paddle(tmp_path: Path, name: str, kwargs: dict[str, Any]) -> None:
    prefix = saved(tmp_path, name, **kwargs)
    found = onnx.to_onnx(prefix, tmp_path / 'out' / 'net', feeds={'image': IMAGES})
    assert found.file == tmp_path / 'out' / 'net.onnx'
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['net.onnx']
    assert found.opset == 13 and found.converter == VERSION and found.runtime == metadata.version('onnxruntime')
    assert [parity.shapes['image'][0] for parity in found.parity] == [4, 5]
    assert all(parity.figures.relative_difference < 1e-5 for parity in found.parity)
    # Independent of the comparison that to_onnx makes: another batch size, and Paddle's executor.
    model = slim.runtime.load_inference_model(prefix, scope=paddle.static.Scope())
    wanted = slim.Executor().run(model.program, {'image': IMAGES[:1]}, model.fetches, model.scope)[0]
    np.testing.assert_allclose(
        run(found.file, {'image': IMAGES[:1]})[0], wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max()
    )


def test_programs_and_loaded_models(fresh: Any, tmp_path: Path) -> None:
    x = paddle.static.data('x', [2, 6])
    unused = paddle.static.data('unused', [2, 3])
    y = paddle.nn.functional.softmax(paddle.nn.Linear(6, 3)(x))
    assert (y + unused) is not None
    fresh.exe.run(fresh.startup)
    found = onnx.to_onnx(fresh.main, tmp_path / 'net.onnx', fetches=[y], scope=fresh.scope)
    assert [parity.shapes for parity in found.parity] == [{'x': [2, 6]}]
    with pytest.raises(ConfigError, match='fetches'):
        onnx.to_onnx(fresh.main, tmp_path / 'other.onnx')
    slim.runtime.save_inference_model(fresh.main, tmp_path / 'net', ['x'], [y])
    loaded = slim.runtime.load_inference_model(tmp_path / 'net', scope=paddle.static.Scope())
    again = onnx.to_onnx(loaded, tmp_path / 'again.onnx', check=False)
    assert again.parity == () and again.runtime is None
    feed = {'x': IMAGES.reshape(-1)[:12].reshape(2, 6)}
    np.testing.assert_allclose(run(found.file, feed)[0], run(again.file, feed)[0], rtol=1e-6)


def test_a_chosen_opset(tmp_path: Path) -> None:
    prefix = saved(tmp_path, scale=0.25)
    assert onnx.to_onnx(prefix, tmp_path / 'net', opset=15, check=False).opset == 15
    with pytest.raises(ConfigError, match='opset'):
        onnx.to_onnx(prefix, tmp_path / 'net', opset=3)


def test_a_saturated_softmax_hides_nothing(tmp_path: Path, fresh: Any) -> None:
    """With logits of hundreds a softmax is 0 and 1 whatever is wrong; its logarithm is not."""
    x = paddle.static.data('x', [None, 4])
    weight = paddle.nn.initializer.Assign(np.eye(4, dtype='float32') * 20)
    y = paddle.nn.functional.softmax(paddle.nn.Linear(4, 4, weight_attr=paddle.ParamAttr(initializer=weight))(x))
    fresh.exe.run(fresh.startup)
    slim.runtime.save_inference_model(fresh.main, tmp_path / 'net', ['x'], [y])
    feeds = {'x': np.array([[1.0, 0.0, -1.0, -2.0]], 'float32')}
    figures = onnx.to_onnx(tmp_path / 'net', tmp_path / 'net.onnx', feeds=feeds).parity[0].figures
    assert figures.difference < 1e-4

    def crooked(file: Any, fed: Any, timeout: Any) -> Any:
        return [[np.exp(20.0 * a['x'] * 1.01) / np.exp(20.0 * a['x'] * 1.01).sum(-1, keepdims=True)] for a in fed]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx.compare_with_paddle.__module__ + '.run_onnx', crooked)
        with pytest.raises(EquivalenceError, match='differ from the reference'):
            onnx.to_onnx(tmp_path / 'net', tmp_path / 'crooked.onnx', feeds=feeds)
    assert not (tmp_path / 'crooked.onnx').exists()


def test_no_process_is_started(tmp_path: Path) -> None:
    """The worker refuses processes, and says so where paddle2onnx tries; to_onnx asks for no optimizer that would."""
    prefix = saved(tmp_path, scale=0.25)
    program, parameters = slim.runtime.inference_model.model_files(prefix)
    job = {'program': str(program), 'parameters': str(parameters), 'opset': 13, 'upgrade': True}
    plain = onnx_process.ask('export', {**job, 'out': str(tmp_path / 'a.onnx'), 'optimizer': None}, 120)
    assert plain['attempts'] == []
    if VERSION.startswith('2.'):
        # The default optimizer of version 2 installs what it misses. The guard sees it: it would have seen the above.
        tried = onnx_process.ask('export', {**job, 'out': str(tmp_path / 'b.onnx'), 'optimizer': 'polygraphy'}, 120)
        assert any('pip' in attempt and 'install' in attempt for attempt in tried['attempts'])


@pytest.mark.parametrize(
    'start',
    [
        'import os; os.system("touch started")',
        'import subprocess; subprocess.run(["touch", "started"])',
        'import os; os.posix_spawn("/bin/touch", ["touch", "started"], os.environ)',
        'import os; os.fork() or open("started", "w").close()',
        'import os; os.execv("/bin/touch", ["touch", "started"])',
    ],
)
def test_the_guard_stops_every_way_to_start_a_process(tmp_path: Path, start: str) -> None:
    import subprocess
    import sys

    source = Path(onnx_worker.__file__).read_text('utf-8').split('def export')[0]
    code = (
        f'{source}\nattempts = forbid_processes()\ntry:\n    exec({start!r})\nexcept PermissionError:\n    '
        'raise SystemExit(len(attempts))'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_unknown_operators_are_named(fresh: Any, tmp_path: Path) -> None:
    x = paddle.static.data('x', [None, 4])
    y = paddle.nn.functional.relu(paddle.digamma(paddle.lgamma(paddle.nn.Linear(4, 4)(x))))
    fresh.exe.run(fresh.startup)
    slim.runtime.save_inference_model(fresh.main, tmp_path / 'net', ['x'], [y])
    (tmp_path / 'net.onnx').write_bytes(b'old')
    with pytest.raises(UnsupportedOpError, match=r"\['digamma', 'lgamma'\]"):
        onnx.to_onnx(tmp_path / 'net', tmp_path / 'net.onnx')
    assert (tmp_path / 'net.onnx').read_bytes() == b'old'
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ['.json', '.onnx', '.pdiparams'] or sorted(
        path.suffix for path in tmp_path.iterdir()
    ) == ['.onnx', '.pdiparams', '.pdmodel']


def test_errors_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match='is missing'):
        onnx.to_onnx(tmp_path / 'none', tmp_path / 'net.onnx')
    prefix = saved(tmp_path, scale=0.25)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="'image' takes float32"):
        onnx.to_onnx(prefix, tmp_path / 'net.onnx', feeds={'image': IMAGES.astype('float64')})
    with pytest.raises(DataError, match='of shape'):
        onnx.to_onnx(prefix, tmp_path / 'net.onnx', feeds={'image': IMAGES[:, :2]})
    with pytest.raises(DataError, match="has an input 'image'"):
        onnx.to_onnx(prefix, tmp_path / 'net.onnx', feeds={'x': IMAGES})
    with pytest.raises(DeployError, match='took over'):
        onnx.to_onnx(prefix, tmp_path / 'net.onnx', timeout=0.01)
    with pytest.raises(EquivalenceError, match='allowed: 1e-12'):
        onnx.to_onnx(prefix, tmp_path / 'net.onnx', tolerance=1e-12)
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(DeployError, match='cannot write'):
        onnx.to_onnx(prefix, tmp_path / 'file' / 'net.onnx', check=False)

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(DeployError, match='No space left'):
            onnx.to_onnx(prefix, tmp_path / 'net.onnx', check=False)
    (tmp_path / 'file').unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_quantized_models(tmp_path: Path) -> None:
    """paddle2onnx 1.3 converts the quantize_linear form, 2.1 none; the result is never taken for equal in silence."""
    net = nets.zoo('LeNet', (1, 12, 12))
    prefix = nets.quantize(net, tmp_path, onnx_format=True)
    if VERSION.startswith('2.'):
        with pytest.raises(DeployError, match='the model is quantized'):
            onnx.to_onnx(prefix, tmp_path / 'net.onnx')
        assert not (tmp_path / 'net.onnx').exists()
        return
    found = onnx.to_onnx(prefix, tmp_path / 'net.onnx', feeds=net.images, tolerance=0.2)
    assert found.parity[0].figures.relative_difference > 0
    assert b'QuantizeLinear' in found.file.read_bytes()


@pytest.mark.full
@pytest.mark.parametrize('name', sorted(slim.models.MODELS))
def test_the_zoo(tmp_path: Path, name: str) -> None:
    kwargs: dict[str, Any] = {} if name in ('LeNet', 'VisionTransformer') else {'scale': 0.5}
    shape = (1, 28, 28) if name == 'LeNet' else (3, 64, 64)
    if name == 'VisionTransformer':
        kwargs, shape = {'depth': 2}, (3, 32, 32)
    prefix = nets.save(nets.zoo(name, shape, **kwargs), tmp_path / 'net')
    found = onnx.to_onnx(prefix, tmp_path / 'net.onnx')
    assert all(parity.figures.relative_difference < 1e-4 for parity in found.parity)


@pytest.mark.parametrize(
    ('versions', 'of_paddle', 'words'),
    [
        ({'paddle2onnx': '2.1.0', 'onnxruntime': '1.20'}, '2.6.2', r'beside Paddle 2\.6\.2.*paddle2onnx==1\.3\.1'),
        ({'paddle2onnx': '1.2.4', 'onnxruntime': '1.20'}, '2.6.2', r'too old.*paddleslim-ng\[onnx\]'),
        ({'onnxruntime': '1.20'}, '3.3.1', r'needs paddle2onnx.*paddleslim-ng\[onnx\]'),
        ({'paddle2onnx': '2.1.0'}, '3.3.1', r'needs onnxruntime.*paddleslim-ng\[onnx\]'),
    ],
)
def test_versions_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], of_paddle: str, words: str
) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(onnx.metadata, 'version', version)
    monkeypatch.setattr(onnx.paddle, '__version__', of_paddle)
    with pytest.raises(DeployError, match=words):
        onnx.to_onnx(tmp_path / 'none', tmp_path / 'net.onnx')
