"""Outputs against Paddle's own dynamic-graph networks with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.vision import models as vision

import paddleslim_ng as slim
from paddleslim_ng.models import layers

CASES: dict[str, tuple[Any, Callable[..., Any], int]] = {
    'mobilenet': (
        lambda: slim.models.MobileNet(scale=0.25),
        lambda: vision.mobilenet_v1(scale=0.25, num_classes=10),
        32,
    ),
    'resnet18': (slim.models.ResNet18, lambda: vision.resnet18(num_classes=10), 32),
    'shufflenet': (
        lambda: slim.models.ShuffleNetV2(scale=0.25),
        lambda: vision.shufflenet_v2_x0_25(num_classes=10),
        64,
    ),
    # An odd side at every pool, where rounding up and down agree.
    'squeezenet': (slim.models.SqueezeNet, lambda: vision.squeezenet1_1(num_classes=10), 29),
    'resnet50': (slim.models.ResNet50, lambda: vision.resnet50(num_classes=10), 32),
    'densenet121': (slim.models.DenseNet121, lambda: vision.densenet121(num_classes=10), 32),
}
SLOW = ('resnet50', 'densenet121')


def random_value(name: str, shape: list[int], random: np.random.RandomState) -> Any:
    if name.endswith(('_variance', '_scale')):
        return random.uniform(0.7, 1.3, shape).astype('float32')
    fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
    return (random.standard_normal(shape) * np.sqrt(2 / fan)).astype('float32')


@pytest.mark.parametrize('case', [pytest.param(c, marks=pytest.mark.full) if c in SLOW else c for c in CASES])
def test_same_function_as_paddle_vision(case: str, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, reference, size = CASES[case]
    created: list[tuple[str, list[int]]] = []
    original = layers.parameter

    def recording(name: str, shape: list[int], *args: Any, **kwargs: Any) -> Any:
        created.append((name, shape))
        return original(name, shape, *args, **kwargs)

    monkeypatch.setattr(layers, 'parameter', recording)
    network = ours()
    network.net(paddle.static.data('image', [None, 3, size, size], 'float32'), class_dim=10)
    program = slim.core.clone_program(fresh.main, for_test=True)
    fresh.exe.run(fresh.startup)
    random = np.random.RandomState(0)
    values = [random_value(name, shape, random) for name, shape in created]
    for (name, _), value in zip(created, values):
        slim.core.store_array(fresh.scope, name, value)
    images = random.standard_normal((2, 3, size, size)).astype('float32')
    found = slim.Executor().run(program, feed={'image': images}, fetch_list=[network.logits])[0]

    paddle.disable_static()
    model = reference()
    model.eval()
    if case == 'squeezenet':
        model._drop.mode = 'upscale_in_train'  # Paddle's halves its input when it evaluates
    state = model.state_dict()
    assert [list(tensor.shape) for tensor in state.values()] == [shape for _, shape in created]
    for tensor, value in zip(state.values(), values):
        tensor.set_value(value)
    expected = model(paddle.to_tensor(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
