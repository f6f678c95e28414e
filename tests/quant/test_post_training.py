"""From a saved float model and digits to a checked model of integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

import paddleslim_ng as slim
from paddleslim_ng.core import load_array
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant import QuantizationSpec, quant_post_static, quantize, quantize_model, read_feeds, simulate
from paddleslim_ng.runtime import InferenceModel, data_inputs, load_inference_model, save_inference_model


class Trained(NamedTuple):
    """A small network that knows the digits, on disk."""

    prefix: Path
    calibration: Any
    images: Any
    labels: Any
    accuracy: float


def accuracy(model: InferenceModel, images: Any, labels: Any) -> float:
    (logits,) = slim.Executor().run(model.program, {model.feeds[0]: images}, model.fetches, scope=model.scope)
    return float((logits.argmax(1) == labels.reshape(-1)).mean())


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    paddle.enable_static()
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = 3
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 1, 16, 16], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        h = image
        for channels, kernel, stride, groups in ((16, 3, 2, 1), (16, 3, 1, 16), (32, 1, 1, 1), (32, 3, 2, 1)):
            layer = nn.Conv2D(h.shape[1], channels, kernel, stride, kernel // 2, groups=groups, bias_attr=False)
            h = F.relu(nn.BatchNorm2D(channels)(layer(h)))
        logits = nn.Linear(32, 10)(paddle.flatten(F.adaptive_avg_pool2d(h, 1), 1))
        loss = F.cross_entropy(logits, label)
        paddle.optimizer.Adam(0.02).minimize(loss)
    exe = slim.Executor()
    exe.run(startup, scope=scope)
    data = slim.data.digits(size=16, sizes=(1000, 200, 500))
    order = np.random.default_rng(0)
    for _ in range(80):
        rows = order.choice(1000, 64, replace=False)
        exe.run(main, {'image': data.train.images[rows], 'label': data.train.labels[rows]}, scope=scope)
    prefix = tmp_path_factory.mktemp('trained') / 'float'
    save_inference_model(main, prefix, ['image'], [logits], scope)
    model = load_inference_model(prefix, paddle.static.Scope())
    images, labels = data.test.images, data.test.labels
    reached = accuracy(model, images, labels)
    assert reached > 0.85
    return Trained(prefix, data.train.images[:64], images, labels, reached)


@pytest.mark.parametrize('algo', ['abs_max', 'avg', 'hist', 'KL', 'mse', 'emd', 'min_max', 'ptf'])
def test_every_observer_keeps_the_accuracy(trained: Trained, algo: str, tmp_path: Path) -> None:
    done = quant_post_static(
        None,
        trained.prefix,
        tmp_path / 'int8',
        data_loader=trained.calibration,
        batch_size=16,
        algo=algo,
        optimize_model=True,
    )
    assert done.exported is not None
    reloaded = load_inference_model(tmp_path / 'int8' / 'model', paddle.static.Scope())
    reached = accuracy(reloaded, trained.images, trained.labels)
    # A narrow network: KL cuts more than the others, as the facts of larger ones have it, too.
    assert reached > trained.accuracy - (0.06 if algo == 'KL' else 0.03), (reached, trained.accuracy)
    assert done.exported.file_bytes < done.exported.float_bytes
    assert QuantizationSpec.load(tmp_path / 'int8' / 'model.quantization.json') == done.spec
    assert '64 images in 4 batches' in str(done)
    assert done.folded is not None and len(done.folded.folded) == 4 and not done.folded.skipped


def forms(images: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    samples = list(images)
    yield 'array', {'data_loader': images}
    yield 'list of batches', {'data_loader': [images[i : i + 16] for i in range(0, 64, 16)]}
    yield 'generator of batches', {'batch_generator': lambda: ([images[i : i + 16]] for i in range(0, 64, 16))}
    yield 'generator of samples', {'sample_generator': lambda: ((image,) for image in samples)}
    yield 'mappings', {'data_loader': [{'image': images[i : i + 16]} for i in range(0, 64, 16)]}


def test_every_form_of_data_gives_the_same(trained: Trained, tmp_path: Path) -> None:
    found = {}
    for name, source in forms(trained.calibration):
        done = quant_post_static(None, trained.prefix, tmp_path / name, batch_size=16, algo='avg', **source)
        found[name] = done.spec
    first = found.pop('array')
    assert len(found) == 4
    for name, spec in found.items():
        assert spec == first, name


def test_a_dataloader(trained: Trained, tmp_path: Path) -> None:
    class Images(paddle.io.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(trained.calibration)

        def __getitem__(self, index: int) -> Any:
            return trained.calibration[index]

    loader = paddle.io.DataLoader(Images(), batch_size=16, places=[paddle.CPUPlace()], return_list=True)
    done = quant_post_static(None, trained.prefix, tmp_path / 'a', data_loader=loader, algo='avg')
    other = quant_post_static(
        None, trained.prefix, tmp_path / 'b', data_loader=trained.calibration, batch_size=16, algo='avg'
    )
    assert done.spec == other.spec


@pytest.mark.parametrize(
    ('weights', 'activations', 'format'), [(4, 8, 'quantize_linear'), (8, 6, 'fake_quantize'), (3, 16, 'decomposed')]
)
def test_unequal_bits_are_what_they_say(
    trained: Trained, weights: int, activations: int, format: str, tmp_path: Path
) -> None:
    model = load_inference_model(trained.prefix, paddle.static.Scope())
    before = {
        var.name(): load_array(model.scope, var.name()) for var in slim.GraphWrapper(model.program).all_parameters()
    }
    feeds = read_feeds(data_inputs(model.program), trained.calibration, batch_size=32)
    done = quantize_model(model, feeds, tmp_path / 'q', weight_bits=weights, activation_bits=activations, format=format)
    assert done.exported is not None
    assert max(done.exported.distinct.values()) <= 2**weights - 1
    for tensor in done.spec.of_kind('weight'):
        integers = quantize(load_array(done.model.scope, tensor.name), tensor)
        assert tensor.bits == weights
        assert done.exported.distinct[tensor.name] == len(np.unique(integers))
    assert {tensor.bits for tensor in done.spec.of_kind('activation')} == {activations}
    for name, array in before.items():
        np.testing.assert_array_equal(load_array(model.scope, name), array)


def test_other_observers_need_no_other_pass(trained: Trained) -> None:
    model = load_inference_model(trained.prefix, paddle.static.Scope())
    done = quantize_model(
        model, read_feeds(data_inputs(model.program), trained.calibration, batch_size=32), algo='hist'
    )
    assert done.exported is None
    limits = {name: slim.quant.threshold(done.statistics[name], 'abs_max') for name in done.statistics}
    spec = slim.quant.spec_from_thresholds(done.model.program, limits, scope=done.model.scope)
    simulated = simulate(done.model.program, spec, done.model.scope)
    names = [slim.GraphWrapper.name_of(item) for item in done.model.fetches]
    program = slim.GraphWrapper(simulated.program)
    fetches = [program.var(name).raw for name in names]
    reached = accuracy(
        InferenceModel(simulated.program, model.feeds, fetches, simulated.scope), trained.images, trained.labels
    )
    assert reached > trained.accuracy - 0.03


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'algo': 'hits'}, ConfigError, "unknown algo 'hits'.*did you mean 'hist'"),
        ({'weight_bits': 1}, ConfigError, 'bits must be a whole number from 2 to 16'),
        ({'weight_quantize_type': 'channel'}, ConfigError, "weight_quantize_type='channel' is not available"),
        ({'activation_quantize_type': 'abs'}, ConfigError, 'activation_quantize_type'),
        ({'quantizable_op_type': ['conv4d']}, ConfigError, "'conv4d' cannot be quantized"),
        ({'batch_nums': 9}, DataError, 'ended after 2 of 9 batches'),
        ({'sample_generator': lambda: iter(())}, ConfigError, '2 sources of calibration data'),
        ({'save_params_filename': 'other.pdiparams'}, ConfigError, 'to go with'),
        ({'skip_tensor_list': ['imag']}, slim.SlimError, "skip_tensor_list names 'imag'"),
    ],
)
def test_refusals_write_nothing(
    trained: Trained, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    arguments = {'data_loader': trained.calibration, 'batch_size': 32, **options}
    with pytest.raises(error, match=message):
        quant_post_static(None, trained.prefix, tmp_path / 'int8', **arguments)
    assert not list(tmp_path.glob('int8/*'))


def test_bad_data_is_named(trained: Trained, tmp_path: Path) -> None:
    spoiled = trained.calibration.copy()
    spoiled[40, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match='batch 2'):
        quant_post_static(None, trained.prefix, tmp_path / 'int8', data_loader=spoiled, batch_size=32)
    with pytest.raises(DataError, match=r"'image' has the shape \[1, 1, 8, 8\]"):
        quant_post_static(None, trained.prefix, tmp_path / 'int8', data_loader=np.zeros((4, 1, 8, 8), 'float32'))

    def failing() -> Iterator[Any]:
        yield [trained.calibration[:8]]
        raise KeyError('the disk is gone')

    with pytest.raises(DataError, match=r'failed at batch 2: KeyError.*the disk is gone'):
        quant_post_static(None, trained.prefix, tmp_path / 'int8', batch_generator=failing)
    assert not list(tmp_path.glob('int8/*'))
