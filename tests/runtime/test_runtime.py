"""Inference models, feeds, latency and atomic files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng import runtime
from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.errors import ConfigError, DataError, DeployError, EquivalenceError, GraphError
from paddleslim_ng.runtime import inference_model

nn = paddle.nn


def classifier(fresh: Any, train: bool = False, dropout: float = 0.5) -> tuple[Any, Any, Any]:
    """Build conv, batch norm, dropout and a linear layer on [1, 8, 8] images with 3 classes."""
    image = paddle.static.data('image', [None, 1, 8, 8])
    label = paddle.static.data('label', [None, 1], 'int64')
    y = nn.functional.relu(nn.BatchNorm2D(4)(nn.Conv2D(1, 4, 3)(image)))
    y = nn.functional.dropout(y, dropout)
    logits = nn.Linear(4 * 36, 3)(paddle.flatten(y, 1))
    loss = paddle.mean(nn.functional.cross_entropy(logits, label))
    if train:
        paddle.optimizer.Momentum(0.1).minimize(loss)
    fresh.exe.run(fresh.startup)
    return image, logits, loss


@pytest.mark.parametrize('train', [False, True])
def test_saved_model_computes_the_same(fresh: Any, ir: str, tmp_path: Path, train: bool) -> None:
    image, logits, _ = classifier(fresh, train)
    saved = runtime.save_inference_model(fresh.main, tmp_path / 'sub' / 'net', [image], [logits])
    assert saved.program_file.suffix == {'pir': '.json', 'legacy': '.pdmodel'}[ir]
    assert sorted(p.name for p in (tmp_path / 'sub').iterdir()) == sorted(
        p.name for p in (saved.program_file, saved.parameter_file)
    )
    assert saved.difference is not None and saved.difference <= 1e-6
    assert saved.file_bytes == sum(p.stat().st_size for p in (tmp_path / 'sub').iterdir())
    x = np.random.default_rng(0).standard_normal([5, 1, 8, 8]).astype('float32')
    label = np.zeros([5, 1], 'int64')
    wanted = slim.Executor().run(
        slim.core.clone_program(fresh.main, for_test=True), feed={'image': x, 'label': label}, fetch_list=[logits]
    )
    model = runtime.load_inference_model(tmp_path / 'sub' / 'net', scope=paddle.static.Scope())
    program, feeds, fetches, scope = model
    assert feeds == ['image']
    assert not any(op.type() in ('dropout_grad', 'momentum') for op in slim.GraphWrapper(program).ops())
    found = slim.Executor().run(program, feed={'image': x}, fetch_list=fetches, scope=scope)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-6)


def test_names_and_given_feed(fresh: Any, tmp_path: Path) -> None:
    _, logits, _ = classifier(fresh)
    name = slim.GraphWrapper.name_of(logits)
    x = np.ones([3, 1, 8, 8], 'float32')
    saved = runtime.save_inference_model(fresh.main, str(tmp_path / 'net'), ['image'], [name], feed={'image': x})
    assert saved.relative_difference is not None and saved.relative_difference < 1e-6
    unchecked = runtime.save_inference_model(fresh.main, tmp_path / 'net2', ['image'], [name], check=False)
    assert unchecked.difference is None


def test_saving_refuses_before_writing(fresh: Any, tmp_path: Path) -> None:
    image, logits, loss = classifier(fresh)
    save = runtime.save_inference_model
    with pytest.raises(GraphError, match='label'):
        save(fresh.main, tmp_path / 'net', [image], [loss])
    with pytest.raises(GraphError, match='did you mean'):
        save(fresh.main, tmp_path / 'net', ['imag'], [logits])
    with pytest.raises(GraphError, match='not data inputs'):
        save(fresh.main, tmp_path / 'net', [logits], [logits])
    with pytest.raises(GraphError, match='fetches is empty'):
        save(fresh.main, tmp_path / 'net', [image], [])
    with pytest.raises(GraphError, match='no value for'):
        save(fresh.main, tmp_path / 'net', [image], [logits], scope=paddle.static.Scope())
    with pytest.raises(DataError, match='pass a feed'):
        save(fresh.main, tmp_path / 'net', [image], [logits], feed={'image': np.ones([2, 5], 'float32')})
    assert list(tmp_path.iterdir()) == []


def test_a_different_reload_is_an_error_and_keeps_the_old_files(
    fresh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, logits, _ = classifier(fresh)
    runtime.save_inference_model(fresh.main, tmp_path / 'net', [image], [logits])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    load = inference_model.load_inference_model

    def tampered(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        name = next(v.name() for v in slim.GraphWrapper(model.program).vars() if v.shape() == (144, 3))
        slim.core.store_array(model.scope, name, slim.core.load_array(model.scope, name) * 1.01)
        return model

    monkeypatch.setattr(inference_model, 'load_inference_model', tampered)
    with pytest.raises(EquivalenceError, match='nothing was saved'):
        runtime.save_inference_model(fresh.main, tmp_path / 'net', [image], [logits])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='is missing'):
        runtime.load_inference_model(tmp_path / 'none')


@pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has one IR')
def test_the_other_format_loads_and_runs(fresh: Any, tmp_path: Path, ir: str) -> None:
    with ir_mode(ir != 'pir'):
        main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        with paddle.static.program_guard(main, startup), paddle.static.scope_guard(scope):
            image = paddle.static.data('image', [None, 1, 8, 8])
            y = nn.Conv2D(1, 4, 3)(image)
            paddle.static.Executor().run(startup)
    saved = runtime.save_inference_model(main, tmp_path / 'net', [image], [y], scope=scope)
    assert saved.difference == 0.0
    model = runtime.load_inference_model(tmp_path / 'net', scope=paddle.static.Scope())
    assert slim.core.is_pir_program(model.program) == (ir != 'pir')
    with runtime.matching_ir(model.program):
        feed = {'image': np.ones([1, 1, 8, 8], 'float32')}
        out = slim.Executor().run(model.program, feed=feed, fetch_list=model.fetches, scope=model.scope)
    assert out[0].shape == (1, 4, 6, 6)
    assert paddle.framework.in_pir_mode() == (ir == 'pir')


@pytest.mark.skipif(paddle_compat.has_pir(), reason='this Paddle has both IRs')
def test_pir_models_need_a_paddle_with_pir(tmp_path: Path) -> None:
    (tmp_path / 'net.json').write_text('{}')
    (tmp_path / 'net.pdiparams').write_bytes(b'')
    with pytest.raises(GraphError, match='has no PIR'):
        runtime.load_inference_model(tmp_path / 'net')


def test_synthesized_feeds(fresh: Any) -> None:
    ids = paddle.static.data('ids', [None, 6], 'int64')
    label = paddle.static.data('label', [None, 1], 'int64')
    size = paddle.static.data('size', [None, None, 4])
    y = nn.Embedding(7, 4)(ids) + size
    loss = nn.functional.cross_entropy(nn.Linear(24, 3)(paddle.flatten(y, 1)), label)
    assert loss is not None
    assert [var.name() for var in runtime.data_inputs(fresh.main)] == ['ids', 'label', 'size']
    feeds = runtime.synthesize_feeds(fresh.main, batch=50, dynamic=6)
    assert feeds['ids'].shape == (50, 6) and feeds['ids'].dtype == np.int64
    assert feeds['ids'].min() >= 0 and feeds['ids'].max() == 6
    assert feeds['label'].max() == 2
    assert feeds['size'].shape == (50, 6, 4) and feeds['size'].dtype == np.float32
    again = runtime.synthesize_feeds(fresh.main, batch=50, dynamic=6)
    assert all((feeds[name] == again[name]).all() for name in feeds)
    assert runtime.synthesize_feeds(fresh.main, ['size'], shapes={'size': [None, 3, 4]})['size'].shape == (2, 3, 4)
    with pytest.raises(GraphError, match='no data input'):
        runtime.synthesize_feeds(fresh.main, ['y'])
    with pytest.raises(ConfigError, match='rank'):
        runtime.synthesize_feeds(fresh.main, shapes={'size': [2, 2]})


def test_latency_of_two_models(fresh: Any, tmp_path: Path) -> None:
    image, logits, _ = classifier(fresh)
    runtime.save_inference_model(fresh.main, tmp_path / 'a', [image], [logits])
    runtime.save_inference_model(fresh.main, tmp_path / 'b', [image], [logits])
    feeds = {'image': np.ones([1, 1, 8, 8], 'float32'), 'unused': np.ones([1], 'float32')}
    for onednn in (True, False):
        found = runtime.measure_latency(
            {'dense': tmp_path / 'a', 'pruned': tmp_path / 'b'}, feeds, repeats=10, warmup=2, onednn=onednn
        )
        assert list(found) == ['dense', 'pruned']
        for latency in found.values():
            assert 0 < latency.p10 <= latency.median <= latency.p90
            assert latency.repeats in (10, round(10 * (1 - latency.interrupted)))
            assert 'ms' in str(latency)
    with pytest.raises(DataError, match="input 'image'"):
        runtime.measure_latency([tmp_path / 'a'], {'x': feeds['image']})
    with pytest.raises(DataError, match='is missing'):
        runtime.measure_latency([tmp_path / 'c'], feeds)
    with pytest.raises(ConfigError):
        runtime.measure_latency([], feeds)
    (tmp_path / 'b.pdiparams').write_bytes(b'not parameters')
    with pytest.raises(DeployError, match='Paddle Inference'):
        runtime.measure_latency([tmp_path / 'b'], feeds)


def test_atomic_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'file.txt'
    runtime.atomic_write(path, 'old ü')
    assert path.read_text('utf-8') == 'old ü'
    runtime.atomic_write(str(path), b'new')
    assert path.read_bytes() == b'new'
    umask = os.umask(0o022)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask

    def crash(*_: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(os, 'fsync', crash)
    with pytest.raises(OSError, match='disk full'):
        runtime.atomic_write(path, 'lost')
    assert path.read_bytes() == b'new'
    assert [p.name for p in tmp_path.iterdir()] == ['file.txt']
