"""Networks to translate, small versions where the sizes can be chosen, and the comparison of both IRs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.vision.models as vision

import paddleslim_ng as slim
from paddleslim_ng.core import Executor, GraphWrapper, clone_program, cut_program, translate_program
from tests.core.trained_like import make_trained_like

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Network:
    """A classifier.

    Attributes:
        build: makes the outputs from the image.
        shape: of the image, without the batch.
    """

    build: Callable[[Any], Any]
    shape: tuple[int, int, int] = (3, 32, 32)


TINY = {
    'ShuffleNetV2': {'scale': 0.25},
    'VisionTransformer': {'scale': 0.34, 'depth': 2, 'head_dim': 8},
    'VGG16': {'scale': 0.1, 'with_bn': True},
}


def _logits(name: str) -> Callable[[Any], Any]:
    def build(image: Any) -> Any:
        network = slim.models.create(name, **TINY.get(name, {'scale': 0.2}))
        network.net(image, 10)
        return network.logits

    return build


OURS = {name: Network(_logits(name)) for name in slim.models.MODELS}
VISION = {
    'alexnet': Network(lambda x: vision.alexnet(num_classes=10)(x), (3, 224, 224)),
    'densenet121': Network(lambda x: vision.densenet121(num_classes=10)(x)),
    'googlenet': Network(lambda x: vision.googlenet(num_classes=10)(x), (3, 224, 224)),
    'inception_v3': Network(lambda x: vision.inception_v3(num_classes=10)(x), (3, 96, 96)),
    'lenet': Network(lambda x: vision.LeNet()(x), (1, 28, 28)),
    'mobilenet_v1': Network(lambda x: vision.mobilenet_v1(scale=0.25, num_classes=10)(x)),
    'mobilenet_v2': Network(lambda x: vision.mobilenet_v2(scale=0.25, num_classes=10)(x)),
    'mobilenet_v3_small': Network(lambda x: vision.mobilenet_v3_small(scale=0.35, num_classes=10)(x)),
    'mobilenet_v3_large': Network(lambda x: vision.mobilenet_v3_large(scale=0.35, num_classes=10)(x)),
    'resnet18': Network(lambda x: vision.resnet18(num_classes=10)(x)),
    'resnet50': Network(lambda x: vision.resnet50(num_classes=10)(x)),
    'resnext50_32x4d': Network(lambda x: vision.resnext50_32x4d(num_classes=10)(x)),
    'wide_resnet50_2': Network(lambda x: vision.wide_resnet50_2(num_classes=10)(x)),
    'shufflenet_v2_x0_25': Network(lambda x: vision.shufflenet_v2_x0_25(num_classes=10)(x)),
    'shufflenet_v2_swish': Network(lambda x: vision.shufflenet_v2_swish(num_classes=10)(x)),
    'squeezenet1_0': Network(lambda x: vision.squeezenet1_0(num_classes=10)(x), (3, 64, 64)),
    'squeezenet1_1': Network(lambda x: vision.squeezenet1_1(num_classes=10)(x), (3, 64, 64)),
    'vgg11': Network(lambda x: vision.vgg11(num_classes=10)(x)),
    'vgg11_bn': Network(lambda x: vision.vgg11(batch_norm=True, num_classes=10)(x)),
}


@dataclass(frozen=True)
class Built:
    """A network with weights.

    Attributes:
        program: in training mode.
        outputs: its outputs.
        scope: holds its parameters.
    """

    program: Any
    outputs: list[Any]
    scope: Any


def build(network: Network) -> Built:
    """Build a network in the IR of Paddle's mode, with trained-like weights."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        made = network.build(paddle.static.data('image', [None, *network.shape]))
    outputs = list(made) if isinstance(made, (list, tuple)) else [made]
    Executor().run(startup, scope=scope)
    make_trained_like(main, scope, images(network, 8))
    return Built(main, outputs, scope)


def images(network: Network, count: int) -> dict[str, Any]:
    """Return a batch."""
    random = np.random.default_rng(count)
    return {'image': random.standard_normal((count, *network.shape)).astype('float32')}


def check_translation(network: Network) -> Any:
    """Translate a network, compare both IRs on two batch sizes, and return the legacy program."""
    built = build(network)
    test = clone_program(built.program, for_test=True)
    legacy = translate_program(built.program, ['image'], built.outputs)
    for count in (2, 3):
        feed = images(network, count)
        expected = Executor().run(test, feed, built.outputs, scope=built.scope)
        found = Executor().run(legacy, feed, built.outputs, scope=built.scope)
        for before, after in zip(expected, found):
            scale = np.abs(before).max()
            assert np.isfinite(before).all() and (before[0] != before[1]).any()
            assert np.ptp(before, axis=0).max() > 1e-3 * scale > 0, 'the outputs do not depend on the input'
            assert np.abs(before - after).max() <= TOLERANCE * scale
    check_same_graph(cut_program(test, ['image'], built.outputs), legacy)
    return legacy


def check_same_graph(pir: Any, legacy: Any) -> None:
    """Check that both programs show the same operators, names, shapes and parameters, constants aside."""
    constants = ('fill_constant', 'assign_value')
    left, right = GraphWrapper(pir), GraphWrapper(legacy)
    kinds = [[op.type() for op in graph.ops() if op.type() not in constants] for graph in (left, right)]
    assert kinds[0] == kinds[1]
    assert {var.name() for var in left.all_parameters()} == {var.name() for var in right.all_parameters()}
    shown = [var for var in right.vars() if left.has_var(var.name())]
    assert len(shown) >= len([op for op in right.ops() if op.type() not in constants])
    for var in shown:
        twin = left.var(var.name())
        assert (var.name(), var.shape(), var.dtype()) == (twin.name(), twin.shape(), twin.dtype())
