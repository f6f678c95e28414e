"""From a saved model to a compressed one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import auto_compress
from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from tests.compress.job_net import JobNet, batches

OPTIMIZER = {'type': 'Adam', 'learning_rate': 0.01}


def images(count: int = 4, seed: int = 0) -> Iterator[list[Any]]:
    for image, _ in batches(count, seed):
        yield [image]


def saved(folder: Path) -> str:
    net = JobNet()
    for image, label in batches(5):
        net.exe.run(net.main, {'x': image, 'y': label}, [], scope=net.scope)
    logits = [op.all_outputs()[0].name() for op in GraphWrapper(net.test).ops() if op.type() == 'elementwise_add'][-1]
    save_inference_model(net.test, folder / 'given' / 'model', ['x'], [logits], net.scope)
    return str(folder / 'given' / 'model')


def outputs(path: Any) -> Any:
    model = load_inference_model(path, paddle.static.Scope())
    (image,) = next(iter(images(4, 9)))
    found = Executor().run(model.program, {'x': image}, model.fetches, scope=model.scope)
    return np.asarray(found[0])


def test_pruned_distilled_and_quantized(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = outputs(path)
    config = {
        'version': 1.0,
        'strategies': {
            'cut': {'class': 'UniformPruneStrategy', 'target_ratio': 0.4, 'round_to': 1, 'pruned_params': 'conv.*'},
            'integers': {'class': 'QuantizationStrategy', 'start_epoch': 6},
        },
        'compressor': {'epoch': 10, 'strategies': ['cut', 'integers'], 'optimizer': OPTIMIZER},
    }
    made = auto_compress(path, lambda: images(5), lambda: images(3, 9), config, tmp_path / 'out', measured=False)
    assert made.after.flops is not None and made.before.flops is not None
    assert made.after.flops < 0.65 * made.before.flops
    distances = [1 - record.metrics['agreement'] for record in made.result.records]
    assert made.metrics['given']['agreement'] > 1 - 1e-6
    assert made.metrics['int8']['agreement'] == pytest.approx(1 - distances[-1], abs=0.01)
    losses = [record.train['loss'] for record in made.result.records]
    assert losses[-1] < 0.5 * losses[0] and distances[-1] < 0.8 * distances[0], (losses, distances)
    assert outputs(path).tobytes() == before.tobytes()
    integers, compressed = outputs(tmp_path / 'out' / 'int8'), outputs(tmp_path / 'out' / 'model')
    assert np.abs(integers - compressed).max() < 0.2 * np.abs(compressed).max()
    assert not np.array_equal(integers, compressed)
    assert made.before.file_bytes is not None and made.before.file_bytes > (made.after.file_bytes or 0) > 1000
    assert 'FLOPs' in str(made) and made.report.read_text().count('agreement')


def test_integers_alone_with_a_metric_and_times(tmp_path: Path) -> None:
    path = saved(tmp_path)
    config = {
        'version': 1.0,
        'strategies': {'integers': {'class': 'PostTrainingQuantStrategy', 'batch_nums': 2}},
        'compressor': {'strategies': ['integers']},
    }

    def accuracy(executor: Any, program: Any, feeds: list[str], fetches: list[Any]) -> float:
        image, label = next(iter(batches(1, 9, 16)))
        (found,) = executor.run(program, feed={feeds[0]: image}, fetch_list=fetches)
        return float((found.argmax(1) == label[:, 0]).mean())

    made = auto_compress(
        path,
        lambda: images(3),
        lambda: images(2, 9),
        config,
        tmp_path / 'out',
        eval_function=accuracy,
        engines=['plain'],
        repeats=3,
    )
    assert made.metrics['given']['metric'] == made.metrics['compressed']['metric']
    assert 0 <= made.metrics['int8']['metric'] <= 1
    assert made.verdict and 'int8' in str(made.measured)
    assert np.abs(outputs(tmp_path / 'out' / 'int8') - outputs(path)).max() < 0.1 * np.abs(outputs(path)).max()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    config = {'version': 1.0, 'compressor': {'epoch': 1}}
    with pytest.raises(ConfigError, match='eval_data'):
        auto_compress('nowhere', None, None, config, tmp_path)
    with pytest.raises(ConfigError, match='soft_label'):
        auto_compress('nowhere', None, [], config, tmp_path, loss='soft_labels')
    with pytest.raises(ConfigError, match='model_dir'):
        auto_compress(None, None, [], config, tmp_path)
    assert not list(tmp_path.iterdir())
