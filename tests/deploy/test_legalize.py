"""Each pass against the failure that it prevents, and against Paddle, for which nothing may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy.legalize import PASSES, legalize
from paddleslim_ng.deploy.lite_process import LiteProcess
from paddleslim_ng.errors import ConfigError, DeployError, GraphError
from paddleslim_ng.models import layers
from tests.deploy import lite_nets as nets


def remove_output(program: Any, kind: str, slot: str) -> int:
    ops = [op for op in program.global_block().ops if op.type == kind and slot in op.desc.output_names()]
    for op in ops:
        op.desc.remove_output(slot)
    return len(ops)


def run_legacy(program: Any, parameters: Path, images: Any) -> Any:
    """Run a legacy inference program with Paddle, its parameters read from a file."""
    folder = parameters.parent / 'rewritten'
    folder.mkdir()
    (folder / 'net.pdmodel').write_bytes(program.desc.serialize_to_string())
    (folder / 'net.pdiparams').write_bytes(parameters.read_bytes())
    model = slim.runtime.load_inference_model(folder / 'net', paddle.static.Scope())
    return slim.Executor().run(model.program, feed=images, fetch_list=model.fetches, scope=model.scope)[0]


def flatten_net() -> nets.Net:
    return nets.zoo('LeNet', (1, 12, 12), scale=0.5)


def norm_net() -> nets.Net:
    return nets.build(lambda image: layers.layer_norm(layers.conv(image, 4, 1, name='first'), name='norm'), (1, 4, 8))


def plain_norm_net() -> nets.Net:
    return nets.build(lambda image: F.layer_norm(layers.conv(image, 4, 1, name='first'), [8]), (1, 4, 8))


def instance_norm_net() -> nets.Net:
    return nets.build(lambda image: paddle.nn.InstanceNorm2D(4)(layers.conv(image, 4, 1, name='first')), (1, 4, 8))


def relu6_net() -> nets.Net:
    return nets.build(lambda image: F.relu6(layers.conv(image, 4, 1, name='first') * 4.0), (3, 4, 4))


@pytest.mark.parametrize(
    ('make', 'kind', 'slot', 'words'),
    [
        (flatten_net, 'flatten_contiguous_range', 'XShape', 'SIGSEGV'),
        (norm_net, 'layer_norm', 'Mean', 'SIGABRT'),
        (norm_net, 'layer_norm', 'Variance', 'SIGABRT'),
        (instance_norm_net, 'instance_norm', 'SavedMean', 'SIGABRT'),
    ],
)
def test_missing_outputs_end_the_converter(make: Any, kind: str, slot: str, words: str, tmp_path: Path) -> None:
    net = make()
    prefix = nets.save(net, tmp_path / 'net', 'pdmodel')
    parameters = prefix.with_suffix('.pdiparams')
    program = nets.read_program(prefix.with_suffix('.pdmodel'))
    removed = remove_output(program, kind, slot)
    assert removed or slot in ('XShape', 'SavedMean')  # Paddle drops these by itself
    others = legalize(program, skip=['missing_outputs'])
    assert others.keys() == {'empty_slots', 'missing_attributes', 'channel_biases', 'quantized_products'}
    assert not others['missing_attributes'] + others['quantized_products']
    with pytest.raises(DeployError, match=words):
        nets.convert_as_is(program, parameters, tmp_path, 'x86')
    assert legalize(program)['missing_outputs'] >= 1
    assert legalize(program)['missing_outputs'] == 0
    assert nets.convert_as_is(program, parameters, tmp_path, 'x86').on_target('x86')
    np.testing.assert_allclose(run_legacy(program, parameters, net.images), nets.expected(net), rtol=1e-5, atol=1e-6)


def test_empty_slots_end_the_converter(tmp_path: Path) -> None:
    net = plain_norm_net()
    prefix = nets.save(net, tmp_path / 'net', 'pdmodel')
    parameters = prefix.with_suffix('.pdiparams')
    program = nets.read_program(prefix.with_suffix('.pdmodel'))
    (norm,) = (op for op in program.global_block().ops if op.type == 'layer_norm')
    for slot in ('Scale', 'Bias'):
        norm.desc.set_input(slot, [])
    legalize(program, skip=['empty_slots'])
    with pytest.raises(DeployError, match='SIGSEGV'):
        nets.convert_as_is(program, parameters, tmp_path, 'arm')
    assert legalize(program)['empty_slots'] >= 1
    assert legalize(program)['empty_slots'] == 0
    assert nets.convert_as_is(program, parameters, tmp_path, 'arm').on_target('arm')
    np.testing.assert_allclose(run_legacy(program, parameters, net.images), nets.expected(net), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('make', 'kind', 'attribute'), [(relu6_net, 'relu6', 'threshold'), (relu6_net, 'scale', 'bias')]
)
def test_missing_attributes_end_the_converter(make: Any, kind: str, attribute: str, tmp_path: Path) -> None:
    net = make()
    prefix = nets.save(net, tmp_path / 'net', 'pdmodel')
    parameters = prefix.with_suffix('.pdiparams')
    program = nets.read_program(prefix.with_suffix('.pdmodel'))
    for op in program.global_block().ops:
        if op.type == kind and op.has_attr(attribute):
            op.desc.remove_attr(attribute)
    with pytest.raises(DeployError, match=f'SIGABRT.*No attributes called {attribute} found for {kind}'):
        nets.convert_as_is(program, parameters, tmp_path, 'arm')
    assert legalize(program)['missing_attributes'] >= 1
    assert legalize(program)['missing_attributes'] == 0
    assert nets.convert_as_is(program, parameters, tmp_path, 'arm').on_target('arm')
    np.testing.assert_allclose(run_legacy(program, parameters, net.images), nets.expected(net), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('onnx_format', [False, True])
def test_quantized_products_give_nan_on_x86(onnx_format: bool, tmp_path: Path) -> None:
    net = nets.zoo('LeNet', (1, 12, 12))
    prefix = nets.quantize(net, tmp_path, onnx_format)
    parameters = prefix.with_suffix('.pdiparams')
    program = nets.read_program(prefix.with_suffix('.pdmodel'))
    reference = slim.runtime.load_inference_model(prefix, paddle.static.Scope())
    simulated = slim.Executor().run(
        reference.program, feed=net.images, fetch_list=reference.fetches, scope=reference.scope
    )[0]
    legalize(program, skip=['quantized_products'])
    bare = nets.convert_as_is(program, parameters, tmp_path, 'x86')
    assert bare.counts()['matmul_v2 x86 fp32'] == 3
    assert not np.isfinite(run_nb(bare.path, net.images)).all()
    assert legalize(program)['quantized_products'] == 3
    assert legalize(program)['quantized_products'] == 0
    cured = nets.convert_as_is(program, parameters, tmp_path, 'x86')
    assert cured.counts()['fc x86 int8'] == 3
    assert np.isfinite(run_nb(cured.path, net.images)).all()
    np.testing.assert_allclose(run_legacy(program, parameters, net.images), simulated, rtol=1e-5, atol=1e-6)


def run_nb(path: Path, images: Any) -> Any:
    with LiteProcess(path) as process:
        process.set_inputs(images)
        process.run()
        return next(iter(process.outputs().values()))


def test_products_that_stay_as_they_are(tmp_path: Path) -> None:
    """Products of a float model, and quantized ones of two activations, are no business of the pass."""
    net = nets.zoo('VisionTransformer', (1, 16, 16), scale=0.34, depth=1, head_dim=8)
    prefix = nets.save(net, tmp_path / 'net', 'pdmodel')
    assert legalize(nets.read_program(prefix.with_suffix('.pdmodel')))['quantized_products'] == 0
    quantized = nets.read_program(nets.quantize(net, tmp_path, False).with_suffix('.pdmodel'))
    products = [op for op in slim.GraphWrapper(quantized).ops() if op.type() == 'matmul_v2']
    by_weights = [op for op in products if op.inputs('Y')[0].persistable() or len(op.inputs('Y')[0].shape()) == 2]
    assert legalize(quantized)['quantized_products'] == len(by_weights) == len(products) - 2


def biased_net() -> nets.Net:
    def body(image: Any) -> Any:
        maps = F.relu(paddle.nn.Conv2D(3, 8, 3)(image))
        maps = F.relu(paddle.nn.Conv2D(8, 8, 3, groups=8)(maps))
        return paddle.nn.Conv2DTranspose(8, 4, 2)(maps)

    return nets.build(body, (3, 8, 8))


def test_biases_become_part_of_the_convolution(tmp_path: Path) -> None:
    net = biased_net()
    prefix = nets.save(net, tmp_path / 'net', 'pdmodel')
    parameters = prefix.with_suffix('.pdiparams')
    program = nets.read_program(prefix.with_suffix('.pdmodel'))
    reshaped = len([op for op in program.global_block().ops if op.type == 'reshape2'])
    legalize(program, skip=['channel_biases'])
    bare = nets.convert_as_is(program, parameters, tmp_path, 'x86')
    assert len([kernel for kernel in bare.kernels if 'elementwise_add' in kernel.op]) == reshaped
    assert legalize(program)['channel_biases'] == reshaped
    assert legalize(program)['channel_biases'] == 0
    cured = nets.convert_as_is(program, parameters, tmp_path, 'x86')
    assert {kernel.op for kernel in cured.kernels} <= {
        'feed',
        'fetch',
        'conv2d',
        'depthwise_conv2d',
        'conv2d_transpose',
        'io_copy_once',
        'calib_once',
    }
    np.testing.assert_allclose(run_nb(cured.path, net.images), nets.expected(net), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run_legacy(program, parameters, net.images), nets.expected(net), rtol=1e-5, atol=1e-6)


def test_what_legalize_takes(tmp_path: Path, ir: str) -> None:
    net = relu6_net()
    if ir == 'pir':
        with pytest.raises(GraphError, match='format="pdmodel"'):
            legalize(net.program)
    with pytest.raises(ConfigError, match='no such pass'):
        legalize(net.program, skip=['missing_output'])
    assert len({item.name for item in PASSES}) == len(PASSES) == 5
    assert all(item.requires and item.ensures and item.prevents for item in PASSES)
