"""The model zoo through Paddle Lite, dense and pruned, for Arm and, with parity, for x86. Run by make test-full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddleslim_ng as slim
from tests.deploy import lite_nets as nets

pytestmark = pytest.mark.full

SMALL: dict[str, Any] = {'scale': 0.25}
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    'LeNet': ((1, 28, 28), {}),
    'MobileNet': ((3, 64, 64), SMALL),
    'MobileNetV2': ((3, 64, 64), SMALL),
    'MobileNetV3Small': ((3, 64, 64), SMALL),
    'MobileNetV3Large': ((3, 64, 64), SMALL),
    'ShuffleNetV2': ((3, 64, 64), SMALL),
    'SqueezeNet': ((3, 64, 64), SMALL),
    'GoogLeNet': ((3, 64, 64), SMALL),
    'ResNet18': ((3, 64, 64), SMALL),
    'ResNet50': ((3, 64, 64), SMALL),
    'DenseNet121': ((3, 64, 64), SMALL),
    'VGG16': ((3, 32, 32), {'scale': 0.125}),
    'VisionTransformer': ((3, 32, 32), {'scale': 0.34, 'depth': 2, 'head_dim': 8}),
}


def pruned(net: nets.Net) -> nets.Net:
    """Take an uneven share of the channels of every convolution and product that lets go of some."""
    program = slim.core.clone_program(net.program, for_test=True)
    graph = slim.GraphWrapper(program)
    names = [var.name() for var in graph.all_parameters() if var.name().endswith('_weights')]
    cut, _, _ = slim.prune.Pruner().prune(program, net.scope, names, [0.3] * len(names), place=None)
    kept = [slim.core.lookup(cut, fetch) for fetch in net.fetches]
    return net._replace(program=cut, fetches=kept)


@pytest.mark.parametrize('form', ['dense', 'pruned'])
@pytest.mark.parametrize('name', NETWORKS)
def test_zoo(name: str, form: str, tmp_path: Path) -> None:
    shape, kwargs = NETWORKS[name]
    net = nets.zoo(name, shape, **kwargs)
    dense = slim.GraphWrapper(net.program).numel_params()
    if form == 'pruned':
        net = pruned(net)
        assert slim.GraphWrapper(net.program).numel_params() < 0.9 * dense
    arm = slim.deploy.to_lite(net.program, tmp_path / 'arm', fetches=net.fetches, scope=net.scope)
    assert arm.nb.targets == ('arm',)
    x86 = slim.deploy.to_lite(net.program, tmp_path / 'x86', 'x86', fetches=net.fetches, scope=net.scope)
    figures = slim.deploy.verify(x86, net.images).figures
    assert figures is not None
    assert figures.spread == 0
    assert figures.top1 == 1
    assert figures.relative_difference < 2e-5
    with slim.deploy.LiteProcess(x86.file) as process:
        process.set_inputs(net.images)
        process.run()
        (found,) = process.outputs().values()
    reference = nets.expected(net)
    np.testing.assert_allclose(found, reference, atol=2e-5 * np.abs(reference).max())


@pytest.mark.parametrize('onnx_format', [False, True])
@pytest.mark.parametrize('name', ['LeNet', 'MobileNet', 'ResNet18', 'VisionTransformer'])
def test_quantized_zoo(name: str, onnx_format: bool, tmp_path: Path) -> None:
    """Every convolution and product of weights has int8 kernels, on both devices."""
    shape, kwargs = NETWORKS[name]
    net = nets.zoo(name, shape, **kwargs)
    prefix = nets.quantize(net, tmp_path, onnx_format)
    products = [op for op in slim.GraphWrapper(net.program).ops() if op.type() in ('matmul_v2', 'mul')]
    for target in ('arm', 'x86'):
        result = slim.deploy.to_lite(prefix, tmp_path / target, target, 'int8', check=False)
        by_weights = [kernel for kernel in result.kernels if kernel.op in ('fc', 'mul')]
        attention = 4 if name == 'VisionTransformer' else 0
        assert len(by_weights) == len(products) - attention
        convolutions = [kernel for kernel in result.kernels if kernel.op in ('conv2d', 'depthwise_conv2d')]
        assert {kernel.precision for kernel in (*by_weights, *convolutions)} == {'int8'}
        if target == 'x86':
            verification = slim.deploy.verify(result, net.images, check=False)
            assert verification.figures is not None
            assert verification.figures.finite
