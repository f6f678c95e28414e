"""The search for options of post-training quantization: what it takes, what it shares, and that kills lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError, EquivalenceError
from paddleslim_ng.quant import calibrate, find_targets, quantization_trials, read_feeds
from paddleslim_ng.quant.post_training_search import quant_post_hpo
from paddleslim_ng.quant.quantization_trials import SearchedModel
from paddleslim_ng.quant.trial_data import SharedCalibration, StoredFeeds, joined_feeds
from paddleslim_ng.runtime import InferenceModel, data_inputs, load_inference_model, save_inference_model
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional
IMAGES = np.random.default_rng(3).standard_normal((24, 3, 8, 8)).astype('float32') ** 3
QUICK: dict[str, Any] = {'batch_size': (2, 4), 'batch_num': (2, 6), 'runcount_limit': 4}


def body(x: Any) -> Any:
    x = F.relu(nn.Conv2D(3, 8, 3, padding=1)(x))
    x = F.relu(nn.Conv2D(8, 8, 3)(x))
    return nn.Linear(8, 5)(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def samples() -> Iterator[Any]:
    for image in IMAGES:
        yield [image]


@pytest.fixture(name='net')
def a_net() -> nets.Net:
    return nets.build(body)


@pytest.fixture(scope='module', name='saved')
def a_saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paddle.enable_static()
    net, path = nets.build(body), tmp_path_factory.mktemp('saved') / 'float'
    save_inference_model(net.program, path / 'model', net.feeds, net.fetches, net.scope, check=False)
    return path


@pytest.fixture(name='folder')
def a_folder(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / 'float')
    return tmp_path


def search(folder: Path, out: str = 'int8', **options: Any) -> SearchedModel:
    given = {'train_sample_generator': samples, **QUICK, **options}
    return quant_post_hpo(slim.Executor(), paddle.CPUPlace(), folder / 'float' / 'model', folder / out, **given)


def outputs(prefix: Path, feed: Any) -> Any:
    model = load_inference_model(prefix, paddle.static.Scope())
    return np.asarray(slim.Executor().run(model.program, feed, model.fetches, scope=model.scope)[0])


def distance(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_best_of_all_trials_is_on_disk(folder: Path) -> None:
    found = search(folder, eval_sample_generator=samples, activation_bits=4)
    assert len(found.trials) == 4
    losses = [trial.loss for trial in found.trials]
    assert found.best.loss == min(losses) < max(losses)
    feed = {'x': IMAGES}
    on_disk = distance(outputs(found.exported.prefix, feed), outputs(folder / 'float' / 'model', feed))
    assert on_disk == pytest.approx(found.best.loss, rel=0.1)
    names = sorted(path.name for path in (folder / 'int8').iterdir())
    assert names == ['model.pdiparams', 'model.pdmodel', 'model.quantization.json', 'model.search.json']
    logged = json.loads(found.log.read_text())['trials']
    assert [trial['loss'] for trial in logged] == losses
    assert f'distance from float {found.best.loss:.4g}' in str(found)


def test_statistics_of_more_images_add_to_those_of_fewer(net: nets.Net) -> None:
    model = InferenceModel(*net.model)
    tensors = find_targets(model.program).activations
    read = read_feeds(data_inputs(model.program), samples, samples=True, batch_size=1)
    shared = SharedCalibration(model, tensors, StoredFeeds(read), 4)
    for count in (10, 4, 17, 10, 99):
        seen = shared.statistics(count)
        batches = [{'x': IMAGES[start : min(start + 4, count)]} for start in range(0, min(count, 24), 4)]
        alone = calibrate(model.program, batches, tensors, model.scope)
        assert seen.images == min(count, 24)
        for name in tensors:
            np.testing.assert_array_equal(seen[name].counts, alone[name].counts)
            assert (seen[name].abs_max, seen[name].row_abs_max) == (alone[name].abs_max, alone[name].row_abs_max)
    assert shared.units_run == (8 + 2) + 4 + (8 + 1) + 8


def test_observers_share_one_pass(folder: Path) -> None:
    found = search(folder, batch_size=4, batch_num=5, runcount_limit=6, bias_correct=False)
    assert found.calibrated == 20
    assert len({trial.options['algo'] for trial in found.trials}) > 1


def test_batches_of_a_loader(folder: Path) -> None:
    loader = [{'x': IMAGES[start : start + 6]} for start in range(0, 24, 6)]
    found = search(folder, train_sample_generator=None, train_dataloader=loader, eval_dataloader=loader)
    assert 4 <= found.calibrated < 4 * 4, 'all data is used where it ends before batch_num'
    assert all(np.isfinite(trial.loss) for trial in found.trials)


def test_a_metric_of_the_user(folder: Path) -> None:
    asked: list[int] = []

    def metric(executor: Any, program: Any, feeds: list[str], fetches: list[Any]) -> Any:
        (out,) = executor.run(program, feed={feeds[0]: IMAGES}, fetch_list=fetches)
        asked.append(len(asked))
        return np.asarray(out).mean()

    found = search(folder, eval_function=metric, activation_bits=4)
    assert len(asked) == 5, 'the float model, and four trials'
    before, after = (
        outputs(prefix, {'x': IMAGES}).mean() for prefix in (folder / 'float/model', folder / 'int8/model')
    )
    assert abs(after - before) / abs(before) == pytest.approx(found.best.loss, rel=0.05, abs=1e-5)


def options_of(found: SearchedModel) -> list[Any]:
    return [(dict(trial.options), trial.loss) for trial in found.trials]


KILLED = """
import os, sys, signal
from pathlib import Path
import paddle
paddle.enable_static()
from tests.quant import test_post_training_search as here
from paddleslim_ng.quant.trial_log import TrialLog
save, count = TrialLog.save, []
def kill(log):
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    count.append(0)
    save(log)
TrialLog.save = kill
here.search(Path(sys.argv[1]), runcount_limit=4, activation_bits=4)
"""


def test_a_killed_search_goes_on_to_the_same_result(folder: Path) -> None:
    """Killed when the third trial, best or not, is made and perhaps written, and not yet in the log."""
    command = [sys.executable, '-c', KILLED, str(folder)]
    assert subprocess.run(command, env={**os.environ}, capture_output=True).returncode == -signal.SIGKILL
    log = folder / 'int8' / 'model.search.json'
    assert len(json.loads(log.read_text())['trials']) == 2
    assert np.isfinite(outputs(folder / 'int8' / 'model', {'x': IMAGES})).all()
    resumed = search(folder, activation_bits=4)
    whole = search(folder, 'whole', activation_bits=4)
    assert options_of(resumed) == options_of(whole)
    for name in ('model.pdiparams', 'model.quantization.json'):
        assert (folder / 'int8' / name).read_bytes() == (folder / 'whole' / name).read_bytes()
    found, expected = (outputs(item.exported.prefix, {'x': IMAGES}) for item in (resumed, whole))
    np.testing.assert_array_equal(found, expected)


def test_logs_of_other_searches(folder: Path) -> None:
    found = search(folder, runcount_limit=2)
    with pytest.raises(CheckpointError, match='another search, as space, weight_bits differ'):
        search(folder, runcount_limit=2, weight_bits=4, algo='avg')
    fresh = search(folder, runcount_limit=1, weight_bits=4, algo='avg', resume=False)
    assert len(fresh.trials) == 1
    found.log.write_text(found.log.read_text()[:-30])
    with pytest.raises(CheckpointError, match='damaged'):
        search(folder, weight_bits=4, algo='avg')


def test_time_is_limited(folder: Path) -> None:
    found = search(folder, max_seconds=1e-6, runcount_limit=50)
    assert len(found.trials) == 1, 'the first one always runs'


def test_a_metric_that_fails_leaves_the_best_so_far(folder: Path) -> None:
    calls: list[int] = []

    def metric(*_: Any) -> float:
        calls.append(0)
        if len(calls) == 4:
            raise ZeroDivisionError('no samples')
        return 1.0 + 0.1 * len(calls)

    with pytest.raises(ZeroDivisionError):
        search(folder, eval_function=metric)
    assert np.isfinite(outputs(folder / 'int8' / 'model', {'x': IMAGES})).all()
    assert len(json.loads((folder / 'int8' / 'model.search.json').read_text())['trials']) == 2


def test_a_trial_whose_files_are_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = quantization_trials.export_quantized, []

    def export(*args: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == 1:
            raise EquivalenceError('the outputs differ')
        return real(*args, **options)

    monkeypatch.setattr(quantization_trials, 'export_quantized', export)
    found = search(folder)
    assert found.trials[0].reason == 'the outputs differ' and np.isinf(found.trials[0].loss)
    assert found.best is not found.trials[0] and 'failed:' in str(found)
    calls.clear()
    with pytest.raises(EquivalenceError, match='none of 1 trials succeeded: the outputs differ'):
        search(folder, 'other', runcount_limit=1)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'algo': ['hist', 'histogram']}, "algo='histogram' is not available"),
        ({'algo': []}, 'algo leaves nothing'),
        ({'weight_quantize_type': 'channel'}, 'weight_quantize_type'),
        ({'bias_correct': ['yes']}, 'bias_correct'),
        ({'hist_percent': (0.99, 1.5)}, 'hist_percent must be'),
        ({'hist_percent': (0.99, 0.9)}, 'hist_percent must be'),
        ({'batch_size': 0}, 'batch_size must be'),
        ({'batch_num': (1.5, 2)}, 'batch_num must be'),
        ({'runcount_limit': 0}, 'runcount_limit'),
        ({'max_seconds': 0}, 'max_seconds'),
        ({'weight_bits': 1}, 'bits must be'),
        ({'train_sample_generator': None}, '0 sources'),
        ({'train_dataloader': [IMAGES]}, '2 sources'),
        ({'eval_sample_generator': samples, 'eval_dataloader': [IMAGES]}, 'give one of eval'),
        ({'quantizable_op_type': ['conv2']}, 'conv2'),
        ({'quantizable_op_type': ['conv2d_transpose']}, 'no operator can be quantized'),
        ({'save_params_filename': 'other'}, 'save_params_filename'),
    ],
)
def test_arguments_of_no_use(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        search(folder, **options)
    assert not (folder / 'int8').exists()


def test_data_of_no_use(folder: Path) -> None:
    with pytest.raises(DataError, match='empty'):
        search(folder, train_sample_generator=lambda: iter(()))
    with pytest.raises(DataError, match='eval_function returned nan'):
        search(folder, eval_function=lambda *_: np.nan)
    with pytest.raises(DataError, match=r'NaN|finite'):
        search(folder, train_sample_generator=lambda: iter([[np.full((3, 8, 8), np.nan, 'float32')]] * 4))
    assert not (folder / 'int8').exists()


def test_batch_norms_are_folded(tmp_path: Path) -> None:
    net = nets.conv_net()
    save_inference_model(net.program, tmp_path / 'float' / 'model', net.feeds, net.fetches, net.scope)
    found = search(tmp_path, optimize_model=True, runcount_limit=1, onnx_format=False)
    assert not [op for op in GraphWrapper(found.model.program).ops() if op.type() == 'batch_norm']
    assert found.exported.format == 'fake_quantize'


def test_joined_feeds() -> None:
    units = [{'x': IMAGES[n : n + 1]} for n in range(5)]
    assert [len(feed['x']) for feed in joined_feeds(units, 2)] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([feed['x'] for feed in joined_feeds(units, 2)]), IMAGES[:5])
