"""Networks of the zoo, quantized: integer kernels in the Arm file and in Paddle Inference, and their speed there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy.kernel_count import KernelCount, count_heavy, kernels_in_nb, kernels_of_inference
from paddleslim_ng.quant import QuantizedModel, quantize_model
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from tests.deploy import lite_nets


class Network(NamedTuple):
    """A network of the zoo.

    Attributes:
        small: its options in the normal suite.
        products: products of activations, which only full quantization takes.
        in_float: convolutions that Paddle Inference computes in float, since the result of a shortcut's convolution,
            which they add, has no scale; the last one, since nothing quantized reads what it makes.
    """

    name: str
    small: dict[str, Any]
    products: int = 0
    in_float: int = 0


ZOO = (
    Network('MobileNet', {'scale': 0.25}),
    Network('MobileNetV2', {'scale': 0.25}),
    Network('ResNet18', {'scale': 0.25}, in_float=4),
    Network('VisionTransformer', {'scale': 0.34, 'depth': 2, 'head_dim': 8}, products=4),
)


def quantized(network: Network, size: int, options: dict[str, Any], batch: int, folder: Path) -> QuantizedModel:
    """Save a network in float and quantized, as ``float`` and ``int8``."""
    net = lite_nets.zoo(network.name, (3, size, size), **options)
    lite_nets.save(net, folder / 'float')
    model = slim.runtime.load_inference_model(folder / 'float', paddle.static.Scope())
    return quantize_model(model, [{'image': images(size, batch)}], folder / 'int8', algo='abs_max')


def images(size: int, batch: int) -> Any:
    return np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype('float32')


def check_kernels(network: Network, done: QuantizedModel, size: int, folder: Path) -> None:
    """Every convolution and product by weights is of integers, on Arm and, but for known ones, in Paddle Inference."""
    heavy = count_heavy(done.model.program)
    assert len(done.spec.operators) == heavy - network.products and len(done.spec.skipped) == network.products
    assert done.folded is not None and not done.folded.skipped
    arm = slim.deploy.to_lite(folder / 'int8', folder / 'arm', 'arm', 'int8')
    counted = kernels_in_nb(slim.deploy.read_nb(arm.file))
    assert (counted.int8, counted.total) == (heavy - network.products, heavy)
    assert str(counted) in arm.report and 'structure verified, not executed' in arm.report
    assert not any(kernel.op == 'batch_norm' for kernel in arm.kernels)
    files = (folder / 'int8.pdmodel', folder / 'int8.pdiparams')
    here = kernels_of_inference(*files, {'image': images(size, 1)}, heavy)
    assert (here.int8, here.total) == (heavy - network.products - network.in_float, heavy), str(here)
    if not network.products + network.in_float:
        assert here == KernelCount(heavy, heavy, counted.int8_products)


@pytest.mark.parametrize('network', ZOO, ids=[network.name for network in ZOO])
def test_integer_kernels(network: Network, tmp_path: Path) -> None:
    check_kernels(network, quantized(network, 32, network.small, 2, tmp_path), 32, tmp_path)


def cpu_medians(folder: Path, feed: dict[str, Any], repeats: int) -> Sequence[float]:
    """Run float and int8 in turns and return the median CPU milliseconds of each."""
    files = slim.runtime.inference_model.model_files(folder / 'float')
    quantized_files = slim.runtime.inference_model.model_files(folder / 'int8')
    times: tuple[list[float], list[float]] = ([], [])
    with PredictorProcess(*files) as first, PredictorProcess(*quantized_files, precision='int8') as second:
        for process in (first, second):
            process.set_inputs(feed)
            process.run(3)
        for _ in range(repeats):
            for process, found in zip((first, second), times):
                found.append(process.run(2).cpu[-1])
    return [float(np.median(found)) for found in times]


# What int8 brings at 224 pixels, batch of 4; figures of a shared machine, so half of what a quiet one showed is asked.
FASTER = {'MobileNet': 1.6, 'MobileNetV2': 1.3, 'ResNet18': 1.3, 'VisionTransformer': 1.2}


@pytest.mark.full
@pytest.mark.parametrize('network', ZOO, ids=[network.name for network in ZOO])
def test_at_full_size(network: Network, tmp_path: Path) -> None:
    """The networks as they are, at 224 pixels: kernels, size and speed."""
    transformer = network.name == 'VisionTransformer'
    options = {'depth': 4} if transformer else {}
    done = quantized(network, 224, options, 2, tmp_path)
    check_kernels(network._replace(products=8 if transformer else 0), done, 224, tmp_path)
    assert done.exported is not None and done.exported.file_bytes < 0.35 * done.exported.float_bytes
    before, after = cpu_medians(tmp_path, {'image': images(224, 4)}, 5)
    assert before / after > FASTER[network.name], (before, after)
