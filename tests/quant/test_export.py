"""Quantized models on disk: integers of the right width, the simulation's outputs, and int8 kernels on the runtimes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError, GraphError
from paddleslim_ng.quant import FORMATS, QuantizationSpec, export_quantized, quantize, simulate
from paddleslim_ng.quant import formats as formats_module
from paddleslim_ng.runtime import load_inference_model
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional
# Packed, 8 bits are what they are decomposed.
EIGHT_BITS = [name for name in FORMATS if name != 'packed']


def layers(x: Any) -> Any:
    """Transposed convolutions, grouped ones, and products of three axes with and without bias."""
    x = F.relu(nn.Conv2DTranspose(4, 6, 2, groups=2)(x))
    x = F.relu(nn.Conv2DTranspose(6, 6, 2, bias_attr=False)(x))
    x = F.relu(nn.Conv2D(6, 6, 3, groups=3)(x))
    x = paddle.reshape(x, [0, 6, 16])
    x = F.relu(nn.Linear(16, 12)(x))
    return nn.Linear(12, 5, bias_attr=False)(x)


def channels_last(x: Any) -> Any:
    """Convolutions with channels behind height and width, the second one to a single pixel."""
    x = F.relu(nn.Conv2D(4, 6, 3, data_format='NHWC')(x))
    return nn.Conv2D(6, 5, 2, data_format='NHWC', bias_attr=False)(x)


def shared(x: Any) -> Any:
    """A layer that is used twice, and two layers with one weight, which is two variables on PIR."""
    conv = nn.Conv2D(4, 4, 1)
    x = paddle.flatten(F.relu(conv(F.relu(conv(x)))), 1)
    one, two = (nn.Linear(64, 64, weight_attr=paddle.ParamAttr(name='shared')) for _ in range(2))
    return two(F.relu(one(x)))


NETS: Mapping[str, Callable[[], nets.Net]] = {
    'convolutions': nets.conv_net,
    'others': lambda: nets.build(layers, (4, 4, 4)),
    'shared': lambda: nets.build(shared, (4, 4, 4)),
    'channels last': lambda: nets.build(channels_last, (4, 4, 4)),
}


def export(net: nets.Net, folder: Path, format: str, spec: QuantizationSpec, **options: Any) -> Any:
    program, feeds, fetches, scope = net.model
    return export_quantized(
        program, spec, folder / 'int8', feeds, fetches, scope, format=format, feed=net.feed, **options
    )


def outputs_of(exported: Any, feed: Any) -> Any:
    model = load_inference_model(exported.prefix, paddle.static.Scope())
    return slim.Executor().run(model.program, feed, model.fetches, scope=model.scope)[0]


@pytest.mark.parametrize('weight_quantize_type', ['channel_wise_abs_max', 'abs_max'])
@pytest.mark.parametrize('format', EIGHT_BITS)
@pytest.mark.parametrize('case', NETS)
def test_formats(case: str, format: str, weight_quantize_type: str, tmp_path: Path) -> None:
    net = NETS[case]()
    before, state = repr(GraphWrapper(net.program).ops()), nets.state_of(net)
    spec = nets.spec_of(net, weight_quantize_type=weight_quantize_type, weight_bits=7)
    exported = export(net, tmp_path, format, spec)
    assert not exported.skipped
    assert not exported.left_out
    assert exported.agreement.operators < 1e-5
    assert exported.agreement.steps <= 1
    simulated = simulate(net.program, spec, net.scope)
    (expected,) = slim.Executor().run(simulated.program, net.feed, net.fetches, scope=simulated.scope)
    found = outputs_of(exported, net.feed)
    assert np.abs(found - expected).max() == pytest.approx(exported.agreement.difference, rel=1e-3, abs=1e-6)
    assert exported.agreement.from_float == pytest.approx(
        np.abs(net.run()[0] - expected).max() / np.abs(expected).max(), rel=0.01
    )
    # Some of it is quantized at all.
    assert exported.agreement.from_float > 1e-3
    nets.assert_untouched(net, before, state)


@pytest.mark.parametrize('bits', [2, 4])
@pytest.mark.parametrize('format', FORMATS)
def test_few_bits_are_few_bits(format: str, bits: int, tmp_path: Path) -> None:
    """Every runtime reads the files as 8 bits, in which fewer are contained."""
    net = nets.conv_net()
    spec = nets.spec_of(net, weight_bits=bits, activation_bits=bits)
    exported = export(net, tmp_path, format, spec)
    assert exported.distinct.keys() == {tensor.name for tensor in spec.of_kind('weight')}
    assert max(exported.distinct.values()) == 2**bits - 1
    model = load_inference_model(exported.prefix, paddle.static.Scope())
    for tensor in spec.of_kind('weight'):
        expected = quantize(load_array(net.scope, tensor.name), tensor)
        codes = FORMATS[format].read(model.scope, tensor, expected.shape)
        assert codes.dtype == (np.float32 if format == 'fake_quantize' else np.int8)
        np.testing.assert_array_equal(codes, expected)
    for op in GraphWrapper(model.program).ops():
        if op.type() in ('quantize_linear', 'dequantize_linear'):
            assert [op.raw.attr(name) for name in ('qmin', 'qmax', 'bit_length')] == [-127, 127, 8]


def test_sixteen_bits(tmp_path: Path) -> None:
    net = nets.conv_net()
    spec = nets.spec_of(net, weight_bits=16, activation_bits=12)
    with pytest.raises(ConfigError, match=r"at most 8: take another of \['fake_quantize', 'decomposed', 'packed'\]"):
        export(net, tmp_path, 'quantize_linear', spec)
    exported = export(net, tmp_path, 'decomposed', spec)
    assert exported.agreement.from_float < 2e-3
    model = load_inference_model(exported.prefix, paddle.static.Scope())
    codes = [load_array(model.scope, f'{tensor.name}@integers') for tensor in spec.of_kind('weight')]
    assert {array.dtype for array in codes} == {np.dtype('int16')}
    with pytest.raises(ConfigError, match='known: '):
        export(net, tmp_path, 'onnx', spec)


def test_sizes_are_those_on_disk(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        return nn.Linear(256, 256)(F.relu(nn.Linear(256, 256)(x)))

    net = nets.build(body, (256,))
    spec = nets.spec_of(net)
    sizes = {}
    for format in FORMATS:
        exported = export(net, tmp_path / format, format, spec)
        files = [exported.program_file, exported.parameter_file]
        assert exported.file_bytes == sum(path.stat().st_size for path in files)
        assert sorted(path.name for path in (tmp_path / format).iterdir()) == sorted(path.name for path in files)
        assert f'{exported.file_bytes:,} bytes' in str(exported)
        sizes[format] = exported.file_bytes / exported.float_bytes
    assert sizes['quantize_linear'] < 0.29
    assert sizes['decomposed'] < 0.29
    assert 1 < sizes['fake_quantize'] < 1.05


def test_weights_alone(tmp_path: Path) -> None:
    net = nets.conv_net()
    spec = slim.quant.spec_from_thresholds(net.program, None, scope=net.scope, weight_bits=4)
    for format in ('quantize_linear', 'decomposed'):
        exported = export(net, tmp_path / format, format, spec)
        assert exported.agreement.relative_difference < 1e-5
    with pytest.raises(ConfigError, match='reads 0 activations; take quantize_linear'):
        export(net, tmp_path, 'fake_quantize', spec)


def test_activations_alone(tmp_path: Path) -> None:
    """Sums and products of activations, as full quantization takes them."""

    def body(x: Any) -> Any:
        h = F.relu(x) + x
        return F.softmax(h) if paddle.__version__.startswith('2.') else h + F.relu(h)

    net = nets.build(body, (6, 5))
    limits = nets.thresholds(net, full=True)
    spec = slim.quant.spec_from_thresholds(net.program, limits, scope=net.scope, is_full_quantize=True)
    assert spec.operators
    assert not spec.of_kind('weight')
    for format in FORMATS:
        exported = export(net, tmp_path / format, format, spec)
        assert exported.agreement.operators < 1e-5
        assert exported.agreement.from_float > 1e-4


def test_zero_points(tmp_path: Path) -> None:
    net = nets.conv_net()
    spec = nets.spec_of(net)
    name = spec.of_kind('activation')[-1].name
    tensor = dataclasses.replace(spec.tensors[name], zero_point=-127, scale=spec.tensors[name].scale / 2)
    weight = next(tensor for tensor in spec.of_kind('weight'))
    moved = dataclasses.replace(weight, zero_point=5, scale=weight.scale * 1.1)
    affine = QuantizationSpec({**spec.tensors, name: tensor, weight.name: moved}, spec.operators)
    assert export(net, tmp_path, 'decomposed', affine).agreement.operators < 1e-5
    for format in ('quantize_linear', 'fake_quantize'):
        with pytest.raises(ConfigError, match=r'zero point .* take decomposed'):
            export(net, tmp_path, format, affine)


def test_operators_that_the_outputs_do_not_need_are_left_out_and_listed(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        h = F.relu(nn.Conv2D(3, 4, 3)(x))
        return nn.Conv2D(4, 2, 1)(h), nn.Conv2D(4, 3, 1)(h)

    net = nets.build(body)
    limits = nets.thresholds(net)
    spec = slim.quant.spec_from_thresholds(net.program, limits, scope=net.scope)
    exported = export(net._replace(fetches=net.fetches[:1]), tmp_path, 'quantize_linear', spec)
    assert len(exported.left_out) == 1
    assert len(exported.distinct) == 2
    assert f'not needed for the outputs: {exported.left_out[0]}' in str(exported)
    limits.pop('x')
    some = slim.quant.spec_from_thresholds(net.program, limits, scope=net.scope)
    again = export(net, tmp_path, 'quantize_linear', some)
    assert list(again.skipped.values()) == ["its input 'x' has no threshold"]
    assert "its input 'x' has no threshold" in str(again)
    with pytest.raises(ConfigError, match='nothing to export'):
        export(net, tmp_path, 'quantize_linear', QuantizationSpec({}, {}))


@pytest.mark.parametrize('wrong', ['scale', 'integers'])
@pytest.mark.parametrize('format', EIGHT_BITS)
def test_what_was_written_wrongly_is_not_saved(
    format: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nets.conv_net()
    spec = nets.spec_of(net)
    export(net, tmp_path, format, spec)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    row = FORMATS[format]

    def write(graph: Any, placed: Any, integers: Any) -> Any:
        arrays = row.write(graph, placed, integers)
        scale = next(item for item in arrays if item.endswith(('@scale', '@step')))
        weight = next(iter(integers))
        name = scale if wrong == 'scale' else next(item for item in arrays if item in (weight, f'{weight}@integers'))
        arrays[name] = arrays[name] * arrays[name].dtype.type(2) if wrong == 'scale' else arrays[name] + 1
        return arrays

    changed = {**FORMATS, format: dataclasses.replace(row, write=write)}
    monkeypatch.setattr(formats_module, 'FORMATS', changed)
    with pytest.raises(EquivalenceError, match='nothing was saved'):
        export(net, tmp_path, format, spec)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_feeds_and_folders_of_no_use(tmp_path: Path) -> None:
    net = nets.conv_net()
    spec = nets.spec_of(net)
    wrong = net._replace(feed={'x': np.zeros([2, 5, 8, 8], 'float32')})
    with pytest.raises(DataError, match=r"feed of shapes \{'x': \[2, 5, 8, 8\]\}"):
        export(wrong, tmp_path, 'quantize_linear', spec)
    wrong = net._replace(feed={'x': np.full([2, 3, 8, 8], np.nan, 'float32')})
    with pytest.raises(DataError, match='NaN'):
        export(wrong, tmp_path, 'quantize_linear', spec)
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot write the model'):
        export(net, tmp_path / 'file', 'quantize_linear', spec)
    with pytest.raises(GraphError, match='depend on the data inputs'):
        export(net._replace(feeds=[]), tmp_path, 'quantize_linear', spec)
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize(('format', 'bits'), [('quantize_linear', 8), ('fake_quantize', 8), ('fake_quantize', 4)])
def test_int8_kernels_in_paddle_lite(format: str, bits: int, tmp_path: Path) -> None:
    net = nets.conv_net()
    folded = slim.quant.fold_batch_norm(*net.model, feed=net.feed)
    net = nets.Net(*folded.model, net.feed)
    exported = export(net, tmp_path, format, nets.spec_of(net, weight_bits=bits, activation_bits=bits))
    result = slim.deploy.to_lite(exported.prefix, tmp_path / 'arm', 'arm', 'int8', check=False)
    counts = result.nb.counts()
    assert counts['conv2d arm int8'] == 3
    assert counts['depthwise_conv2d arm int8'] == 1
    assert counts['fc arm int8'] == 1
    # Biases and activations are part of these kernels: the residual sum is the only one left.
    assert {kernel.op for kernel in result.kernels if kernel.precision == 'fp32'} <= {
        'elementwise_add',
        'pool2d',
        *(['clip'] if bits < 8 else []),
    }
    assert counts['elementwise_add arm fp32'] == 1


def test_paddle_lite_computes_what_the_simulation_does(tmp_path: Path) -> None:
    """Arm files cannot run here. Lite's int8 convolutions for x86 can, but sums of two products overflow in them."""
    net = nets.build(lambda x: nn.Conv2D(8, 16, 3, bias_attr=False)(x), (8, 8, 8))
    spec = nets.spec_of(net, weight_bits=5)
    exported = export(net, tmp_path, 'quantize_linear', spec)
    result = slim.deploy.to_lite(exported.prefix, tmp_path / 'x86', 'x86', 'int8', check=False)
    assert result.nb.counts()['conv2d x86 int8'] == 1
    with slim.deploy.LiteProcess(result.file) as process:
        process.set_inputs(net.feed)
        process.run()
        (found,) = process.outputs().values()
    simulated = simulate(net.program, spec, net.scope)
    (expected,) = slim.Executor().run(simulated.program, net.feed, net.fetches, scope=simulated.scope)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def in_paddle_inference(exported: Any, feed: Any) -> Any:
    """Run the int8 kernels of Paddle Inference."""
    with PredictorProcess(exported.program_file, exported.parameter_file, precision='int8') as process:
        process.set_inputs(feed)
        process.run()
        (found,) = process.outputs().values()
    return found


def as_paddle_inference_reads_it(net: nets.Net, spec: QuantizationSpec) -> Any:
    """Run the simulation with weights of products cut off where Paddle's int8 kernels do.

    Paddle takes the scale of the j-th output from the j-th run of as many weights, in memory, as there are inputs, as
    if the matrix were transposed.
    """
    simulated = simulate(net.program, spec, net.scope)
    for op in nets.operators(simulated.program, 'matmul_v2'):
        for var in op.inputs('Y'):
            if var.is_parameter():
                weight = load_array(simulated.scope, var.name())
                scale = np.abs(weight.reshape(weight.shape[::-1])).max(1) / 127
                store_array(simulated.scope, var.name(), np.clip(np.rint(weight / scale), -128, 127) * scale)
    return slim.Executor().run(simulated.program, net.feed, net.fetches, scope=simulated.scope)[0]


@pytest.mark.parametrize(
    ('format', 'weight_bits', 'activation_bits'),
    [('quantize_linear', 8, 8), ('fake_quantize', 8, 8), ('quantize_linear', 4, 4)],
)
def test_int8_in_paddle_inference(format: str, weight_bits: int, activation_bits: int, tmp_path: Path) -> None:
    """Its int8 kernels round where the simulation does, and their results once more on the way to the next one."""
    net = nets.conv_net()
    spec = nets.spec_of(net, weight_bits=weight_bits, activation_bits=activation_bits)
    exported = export(net, tmp_path, format, spec)
    found, expected = in_paddle_inference(exported, net.feed), as_paddle_inference_reads_it(net, spec)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
    assert not np.array_equal(found, expected)


NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    'MobileNet': ((3, 64, 64), {'scale': 0.25}),
    'MobileNetV2': ((3, 64, 64), {'scale': 0.25}),
    'ResNet18': ((3, 64, 64), {'scale': 0.25}),
    'VisionTransformer': ((3, 32, 32), {'scale': 0.34, 'depth': 2, 'head_dim': 8}),
}


@pytest.mark.full
@pytest.mark.parametrize('format', ['quantize_linear', 'fake_quantize'])
@pytest.mark.parametrize('name', NETWORKS)
def test_networks(name: str, format: str, tmp_path: Path) -> None:
    """All that has weights is int8 on Arm and in Paddle Inference, and computes what the simulation does."""
    shape, kwargs = NETWORKS[name]
    network = slim.models.create(name, **kwargs)

    def body(x: Any) -> Any:
        network.net(x, 10)
        return network.logits

    net = nets.build(body, shape)
    folded = slim.quant.fold_batch_norm(*net.model, feed=net.feed)
    assert not folded.skipped
    net = nets.Net(*folded.model, net.feed)
    spec = nets.spec_of(net)
    exported = export(net, tmp_path, format, spec)
    assert exported.agreement.operators < 1e-5
    result = slim.deploy.to_lite(exported.prefix, tmp_path / 'arm', 'arm', 'int8', check=False)
    with_weights = [kernel for kernel in result.kernels if kernel.op in ('conv2d', 'depthwise_conv2d', 'fc')]
    assert len(with_weights) == len(spec.operators)
    assert {kernel.precision for kernel in with_weights} == {'int8'}
    assert not any(kernel.op == 'batch_norm' for kernel in result.kernels)
    found, expected = in_paddle_inference(exported, net.feed), as_paddle_inference_reads_it(net, spec)
    bound = max(0.03, 2 * exported.agreement.from_float)
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()
