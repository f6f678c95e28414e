"""Measured engines: what ran, what did not and why, and that a process that dies takes nothing else with it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy import measure as package_measure
from paddleslim_ng.deploy.engines import ENGINES
from paddleslim_ng.deploy.kernel_count import KernelCount, count_heavy, kernels_of_inference
from paddleslim_ng.deploy.measure import measure
from paddleslim_ng.errors import ConfigError, DataError, DeployError
from paddleslim_ng.models import layers
from paddleslim_ng.runtime.latency import take_turns
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from tests.deploy import lite_nets as nets

SHAPE = (3, 16, 16)
FEW = {'repeats': 3, 'warmup': 1}


def net(width: int = 8) -> nets.Net:
    def body(image: Any) -> Any:
        y = layers.conv_bn(image, width, 3, name='first', act='relu')
        y = layers.conv_bn(y, width, 3, name='second', act='relu')
        return paddle.nn.Linear(width * 256, 4)(paddle.flatten(y, 1))

    return nets.build(body, SHAPE)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a float model, ``net``, and the same in int8, ``int8/net``."""
    paddle.enable_static()
    place = tmp_path_factory.mktemp('models')
    model = net()
    nets.save(model, place / 'net')
    nets.quantize(model, place, onnx_format=False)
    return place


def test_outputs_of_a_program_that_are_not_named_are_found() -> None:
    model = net()
    found = measure(model.program, model.images, engines=['plain'], scope=model.scope, **FEW)
    assert found.row('model', 'plain').latency is not None


def test_every_engine_has_a_row(folder: Path) -> None:
    feeds = {**net().images, 'unused': np.zeros([1], 'float32')}
    found = measure(folder / 'int8' / 'net', feeds, original=folder / 'net', **FEW)
    assert [(row.model, row.engine) for row in found.rows] == [
        (model, engine) for model in ('original', 'model') for engine in ENGINES
    ]
    assert found.baseline == 'original' and found.shapes['image'] == [2, *SHAPE]
    ran = {(row.model, row.engine) for row in found.rows if row.latency is not None}
    assert ran == {
        *(('original', engine) for engine in ('plain', 'onednn', 'bf16', 'lite_x86')),
        *(('model', engine) for engine in ('plain', 'onednn', 'int8', 'lite_x86')),
    }
    for row in found.rows:
        if row.latency is None:
            assert row.note and row.memory_mb is None
        else:
            assert 0 < row.latency.p10 <= row.latency.median <= row.latency.p90 < 1000
            assert row.memory_mb is not None and 0 < row.memory_mb < 500
            assert row.quantized == (row.model == 'model')
    # The engines compute the same network: fp32 to rounding, bf16 to its 8 bits.
    differences = {row.engine: row.difference for row in found.rows if row.model == 'original'}
    assert differences['plain'] is None
    assert differences['onednn'] is not None and differences['onednn'] < 1e-5
    assert differences['lite_x86'] is not None and differences['lite_x86'] < 1e-5
    assert differences['bf16'] is not None and 1e-5 < differences['bf16'] < 0.1
    assert 'not quantized' in found.row('original', 'int8').note
    assert 'measure on the device' in found.row('original', 'lite_arm').note
    assert 'simulates' in found.row('model', 'onednn').note
    kernels = {row.engine: row.kernels for row in found.rows if row.model == 'model' and row.kernels is not None}
    assert kernels == dict.fromkeys(('int8', 'lite_x86', 'lite_arm'), KernelCount(3, 3, 1))
    assert all(row.kernels is None and row.distance is None for row in found.rows if row.model == 'original')
    simulated = found.row('model', 'plain').distance
    assert simulated is not None and 0 < simulated.relative_difference < 0.1
    assert str(found).startswith('model') and all(sentence in str(found) for sentence in found.verdict)
    assert json.loads(json.dumps(found.as_dict()))['rows'][0]['latency']['repeats'] >= 1
    with pytest.raises(KeyError):
        found.row('model', 'onnx')


def test_programs_and_loaded_models(folder: Path) -> None:
    model = net()
    loaded = slim.runtime.load_inference_model(folder / 'net', scope=paddle.static.Scope())
    found = measure({'loaded': loaded, 'saved': folder / 'net'}, model.images, engines=['onednn'], **FEW)
    assert found.baseline == 'loaded'
    program = measure(
        slim.GraphWrapper(model.program),
        model.images,
        engines=['onednn', 'int8'],
        fetches=model.fetches,
        scope=model.scope,
        **FEW,
    )
    assert program.baseline is None and [row.model for row in program.rows] == ['model', 'model']
    assert program.row('model', 'onednn').latency is not None


def test_kernels_that_are_not_of_integers_are_counted(folder: Path) -> None:
    files = slim.runtime.inference_model.model_files(folder / 'int8' / 'net')
    heavy = count_heavy(slim.runtime.load_inference_model(folder / 'int8' / 'net', paddle.static.Scope()).program)
    assert heavy == 3
    float_kernels = kernels_of_inference(*files, net().images, heavy, precision='fp32')
    assert (float_kernels.int8, float_kernels.total, sum(float_kernels.floats.values())) == (0, 3, 3)
    missing = kernels_of_inference(*files, net().images, 5)
    assert (missing.int8, missing.total) == (3, 5) and 'not: 2 x kernels that oneDNN' in str(missing)


def test_without_paddle_lite_the_row_says_so(folder: Path, tmp_path: Path) -> None:
    found = measure(folder / 'net', net().images, engines=['lite_x86'], interpreter=tmp_path / 'python', **FEW)
    assert found.row('model', 'lite_x86').latency is None
    assert 'no Python with Paddle Lite' in found.row('model', 'lite_x86').note
    assert found.verdict[0] == 'nothing could be measured'


def test_the_other_format_is_translated_for_int8(tmp_path: Path) -> None:
    """Lite and int8 read .pdmodel only: a .json is translated on the way, and the user's folder stays as it was."""
    model = net()
    nets.save(model, tmp_path / 'net')
    before = sorted(tmp_path.iterdir())
    found = measure(tmp_path / 'net', model.images, engines=['onednn', 'lite_x86'], **FEW)
    assert all(row.latency is not None for row in found.rows)
    assert found.rows[1].difference is not None and found.rows[1].difference < 1e-5
    assert sorted(tmp_path.iterdir()) == before


def test_a_process_that_dies_is_one_row_less(folder: Path) -> None:
    files = slim.runtime.inference_model.model_files(folder / 'net')
    with PredictorProcess(*files) as healthy, PredictorProcess(*files) as doomed:
        for process in (healthy, doomed):
            process.set_inputs(net().images)
        os.kill(doomed._process.pid, signal.SIGKILL)
        found = take_turns({'healthy': healthy, 'doomed': doomed}, 3, 1)
        assert isinstance(found['doomed'], DeployError) and 'SIGKILL' in str(found['doomed'])
        assert isinstance(found['healthy'], slim.runtime.Latency) and found['healthy'].repeats >= 1
        assert healthy.peak_bytes() > healthy.library_bytes > 1e7
    assert healthy._process.poll() is not None


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    images = net().images
    for wrong in ({'engines': ['onedn']}, {'engines': []}, {'repeats': 0}, {'threads': 0}, {'warmup': -1}):
        with pytest.raises(ConfigError):
            measure(folder / 'net', images, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'onednn'"):
        measure(folder / 'net', images, engines=['onedn'])
    with pytest.raises(ConfigError, match='needs a model'):
        measure({}, images)
    with pytest.raises(ConfigError, match='give one of them'):
        measure({'original': folder / 'net'}, images, original=folder / 'net')
    with pytest.raises(ConfigError, match='not int'):
        measure(3, images)
    with pytest.raises(DataError, match='is missing'):
        measure(tmp_path / 'none', images)
    with pytest.raises(DataError, match="has an input 'image'"):
        measure(folder / 'net', {'x': images['image']})
    with pytest.raises(DataError, match='takes float32 of shape'):
        measure(folder / 'net', {'image': images['image'][:, :, :8]})
    with pytest.raises(DataError, match='not int64'):
        measure(folder / 'net', {'image': images['image'].astype('int64')})


def test_it_is_public() -> None:
    assert slim.deploy.measure is package_measure and package_measure is measure
    assert slim.deploy.Measurement is slim.deploy.measure.__globals__['Measurement']
