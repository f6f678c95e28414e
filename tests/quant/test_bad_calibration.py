"""Bad data and odd models, through every way in: an error that names them, or integers that are exact; never NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

import paddleslim_ng as slim
from paddleslim_ng.cli import main
from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.errors import DataError, SlimError
from paddleslim_ng.quant import QuantizationSpec, quant_post_static, quantize_model, read_feeds
from paddleslim_ng.runtime import data_inputs, load_inference_model
from tests.quant import quantized_nets as nets

SHAPE = (3, 8, 8)
FILTER = 'second_weights'


def body(x: Any) -> Any:
    """Two convolutions, one of them depthwise, and a product."""
    x = F.relu(nn.BatchNorm2D(8)(nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)(x)))
    x = F.relu(nn.Conv2D(8, 8, 3, groups=8, weight_attr=paddle.ParamAttr(name=FILTER))(x))
    return nn.Linear(8, 4)(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def images(count: int = 8, shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(1).standard_normal((count, *shape)).astype('float32')


class Model(NamedTuple):
    """A float model on disk, and a place for what is made from it."""

    prefix: Path
    folder: Path

    @property
    def written(self) -> Path:
        """Path without suffix of the quantized model."""
        return self.folder / 'int8' / 'model'


def save(folder: Path, change: Callable[[nets.Net], None] | None = None) -> Path:
    net = nets.build(body, SHAPE)
    if change is not None:
        change(net)
    slim.runtime.save_inference_model(*net.model[:1], folder / 'float', *net.model[1:], check=False)
    return folder / 'float'


@pytest.fixture(scope='module')
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paddle.enable_static()
    return save(tmp_path_factory.mktemp('sound'))


def by_model(model: Model, data: Any, batches: int | None) -> None:
    loaded = load_inference_model(model.prefix, paddle.static.Scope())
    feeds = read_feeds(data_inputs(loaded.program), data, batch_size=4, batch_nums=batches)
    quantize_model(loaded, feeds, model.written)


def by_files(model: Model, data: Any, batches: int | None) -> None:
    quant_post_static(
        None,
        model.prefix,
        model.written.parent,
        data_loader=data,
        batch_size=4,
        batch_nums=batches,
        optimize_model=True,
    )


class Refused(Exception):
    """What the command line ended with."""


def by_command(model: Model, data: Any, batches: int | None) -> None:
    np.save(model.folder / 'data.npy', data)
    arguments = ['quantize', model.prefix, '--data', model.folder / 'data.npy', '--batch-size', 4, '-o', model.written]
    code = main([*map(str, arguments), *(['--batches', str(batches)] if batches else [])])
    if code:
        raise Refused(str(code))


WAYS = {'quantize_model': by_model, 'quant_post_static': by_files, 'command line': by_command}
DATA = 3  # exit code of missing and of bad inputs


def spoiled(value: float) -> Any:
    data = images()
    data[5, 1, 2, 3] = value
    return data


class Bad(NamedTuple):
    """Calibration data of no use, and the words of the error."""

    data: Callable[[], Any]
    words: str
    batches: int | None = None


BAD = {
    'NaN': Bad(lambda: spoiled(np.nan), 'batch 2'),
    'infinity': Bad(lambda: spoiled(np.inf), 'batch 2'),
    'wrong size': Bad(lambda: images(shape=(3, 7, 8)), "'x' has the shape [4, 3, 7, 8]"),
    'wrong rank': Bad(lambda: images(shape=(3, 64)), "'x'"),
    'no images': Bad(lambda: images(0), 'no batch'),
    'too few images': Bad(images, 'ended after 2 of 3 batches', batches=3),
    'text': Bad(lambda: np.array(['seven'] * 4), "'x'"),
    'whole numbers': Bad(lambda: np.ones((8, *SHAPE), 'int64'), 'holds int64, and the program takes float32'),
    'complex numbers': Bad(lambda: images() + 1j, "'x'"),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('case', BAD)
def test_bad_data_is_an_error(
    case: str, way: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, model = BAD[case], Model(sound, tmp_path)
    with pytest.raises((DataError, Refused)) as caught:
        WAYS[way](model, bad.data(), bad.batches)
    said = capsys.readouterr().err if way == 'command line' else str(caught.value)
    assert bad.words in said, said
    if way == 'command line':
        assert str(caught.value) == str(DATA)
    assert not list(tmp_path.glob('int8/*'))


def empty_channel(net: nets.Net) -> None:
    array = load_array(net.scope, FILTER).copy()
    array[3] = 0.0
    store_array(net.scope, FILTER, array)


def empty_layer(net: nets.Net) -> None:
    store_array(net.scope, FILTER, np.zeros_like(load_array(net.scope, FILTER)))


def dead_activation(net: nets.Net) -> None:
    """Let the first batch norm shift everything below zero, so that what the second convolution reads is always 0."""
    for name, value in state_of_batch_norm(net):
        store_array(net.scope, name, np.full_like(load_array(net.scope, name), value))


def state_of_batch_norm(net: nets.Net) -> Iterator[tuple[str, float]]:
    (op,) = (op for op in slim.GraphWrapper(net.program).ops() if op.type() == 'batch_norm')
    yield op.inputs('Scale')[0].name(), 0.01
    yield op.inputs('Bias')[0].name(), -50.0


def tiny_weights(net: nets.Net) -> None:
    """One channel is forty orders of magnitude smaller than the others: its scale would be no float32."""
    array = load_array(net.scope, FILTER).copy()
    array[3] = np.float32(1e-44)
    store_array(net.scope, FILTER, array)


class Odd(NamedTuple):
    """A model or data that are unusual and right."""

    change: Callable[[nets.Net], None] | None = None
    data: Callable[[], Any] = images


ODD = {
    'a channel of zeros': Odd(empty_channel),
    'a layer of zeros': Odd(empty_layer),
    'an activation that is always zero': Odd(dead_activation),
    'images of zeros': Odd(data=lambda: np.zeros((8, *SHAPE), 'float32')),
    'one image': Odd(data=lambda: images(1)),
    'weights below the smallest scale': Odd(tiny_weights),
}


ONCE = next(iter(WAYS))  # the other ways end in the same function: one odd case for each of them


@pytest.mark.parametrize(
    ('case', 'way'), [(case, way) for case in ODD for way in WAYS if way == ONCE or case == next(iter(ODD))]
)
def test_what_is_odd_is_exact(case: str, way: str, tmp_path: Path) -> None:
    odd = ODD[case]
    model = Model(save(tmp_path, odd.change), tmp_path)
    WAYS[way](model, odd.data(), None)
    spec = QuantizationSpec.load(model.written.with_name('model.quantization.json'))
    assert len(spec.operators) == 3 and not spec.skipped
    for tensor in spec.tensors.values():
        assert np.all(np.isfinite(tensor.scale) & (tensor.scale > 0)), tensor.name
    reloaded = load_inference_model(model.written, paddle.static.Scope())
    integers = load_array(reloaded.scope, FILTER)
    assert integers.dtype == np.int8
    before = load_array(load_inference_model(model.prefix, paddle.static.Scope()).scope, FILTER)
    assert not integers[before == 0.0].any()
    feed = {'x': odd.data().astype('float32')}
    (found,) = slim.Executor().run(reloaded.program, feed, reloaded.fetches, scope=reloaded.scope)
    original = load_inference_model(model.prefix, paddle.static.Scope())
    (expected,) = slim.Executor().run(original.program, feed, original.fetches, scope=original.scope)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize(
    ('value', 'way', 'words'),
    [(np.nan, 'command line', FILTER), (np.nan, ONCE, FILTER), (np.inf, ONCE, 'the parameters')],
)
def test_weights_of_no_use_are_errors(
    value: float, way: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(net: nets.Net) -> None:
        array = load_array(net.scope, FILTER).copy()
        array[0, 0, 0, 0] = value
        store_array(net.scope, FILTER, array)

    model = Model(save(tmp_path, spoil), tmp_path)
    with pytest.raises((SlimError, Refused)) as caught:
        WAYS[way](model, images(), None)
    assert words in (capsys.readouterr().err if way == 'command line' else str(caught.value))
    assert not list(tmp_path.glob('int8/*'))


def test_an_operator_without_a_scale_stays_in_float_and_is_named(tmp_path: Path) -> None:
    """Thresholds that lack a tensor, or data that do not reach an operator, leave no scale of 0 behind."""
    net = nets.build(body, SHAPE)
    limits = nets.thresholds(net)
    missing = list(limits)[1]
    del limits[missing]
    spec = slim.quant.spec_from_thresholds(net.program, limits, scope=net.scope)
    assert len(spec.operators) == 2 and missing not in spec.tensors
    assert any(missing in reason for reason in spec.skipped.values())
    exported = slim.quant.export_quantized(net.program, spec, tmp_path / 'int8', *net.model[1:], feed=net.feed)
    assert set(spec.skipped.values()) == set(exported.skipped.values())
    reloaded = load_inference_model(tmp_path / 'int8', paddle.static.Scope())
    (found,) = slim.Executor().run(reloaded.program, net.feed, reloaded.fetches, scope=reloaded.scope)
    assert np.isfinite(found).all()
