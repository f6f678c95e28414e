"""Every network of the zoo, pruned everywhere at once, equals the original with the same channels zeroed."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.core.paddle_compat import new_scope
from paddleslim_ng.models import build_classifier

# Name, constructor arguments, image shape. Narrow networks; the transformer needs whole patches.
SMALL = [
    ('MobileNet', {'scale': 0.25}, [3, 32, 32]),
    ('MobileNetV2', {'scale': 0.25}, [3, 32, 32]),
    ('MobileNetV3Small', {'scale': 0.35}, [3, 32, 32]),
    ('ResNet18', {'scale': 0.25}, [3, 32, 32]),
    ('ShuffleNetV2', {'scale': 0.5}, [3, 32, 32]),
    ('SqueezeNet', {'scale': 0.25}, [3, 64, 64]),
    ('VisionTransformer', {}, [3, 32, 32]),
]
LARGE = [
    ('MobileNetV3Large', {'scale': 0.35}, [3, 32, 32]),
    ('ResNet34', {'scale': 0.25}, [3, 32, 32]),
    ('ResNet50', {'scale': 0.25}, [3, 32, 32]),
    ('ResNet101', {'scale': 0.25}, [3, 32, 32]),
    ('VGG16', {'scale': 0.25}, [3, 32, 32]),
    ('DenseNet121', {'scale': 0.25}, [3, 32, 32]),
    ('GoogLeNet', {'scale': 0.25}, [3, 64, 64]),
]


def _build(name: str, kwargs: dict[str, Any], shape: list[int], scope: Any) -> Any:
    net = build_classifier(name, shape, 10, seed=1, model_kwargs=kwargs, scope=scope)
    rng = np.random.default_rng(0)
    # Statistics and scales as training leaves them, so that no channel is trivially dead or alike.
    for var in slim.GraphWrapper(net.val_program).all_parameters():
        if len(var.shape()) == 1:
            store_array(scope, var.name(), rng.uniform(0.5, 1.5, var.shape()).astype('float32'))
    return net


def _prune_everywhere(name: str, kwargs: dict[str, Any], shape: list[int], ratio: float) -> None:
    scope = new_scope()
    net = _build(name, kwargs, shape, scope)
    parameters = slim.GraphWrapper(net.val_program).all_parameters()
    params = [var.name() for var in parameters if len(var.shape()) >= 2]
    values = {var.name(): load_array(scope, var.name()) for var in parameters}
    pruner = slim.prune.Pruner()
    with paddle.static.scope_guard(scope):
        pruned, _, _ = pruner.prune(
            net.val_program, scope, params, [ratio] * len(params), verify=1e-4, outputs=[net.logits]
        )
    figures = pruner.report.equivalence
    assert figures is not None
    assert figures.effect > 1e-3
    assert figures.max_relative < 1e-4
    cut = sum(entry.removed > 0 for entry in pruner.report.pruned)
    assert cut >= 0.6 * len(params), pruner.report
    before = slim.analysis.flops(net.val_program)
    assert slim.analysis.flops(pruned) < 0.75 * before
    for entry in pruner.report.skipped:
        assert entry.reasons
    sizes = {var.name(): var.shape() for var in slim.GraphWrapper(pruned).all_parameters()}
    assert sizes == {key: load_array(scope, key).shape for key in values}


@pytest.mark.parametrize(('name', 'kwargs', 'shape'), SMALL, ids=[row[0] for row in SMALL])
def test_small_networks(name: str, kwargs: dict[str, Any], shape: list[int]) -> None:
    _prune_everywhere(name, kwargs, shape, 0.5)


@pytest.mark.full
@pytest.mark.parametrize(('name', 'kwargs', 'shape'), LARGE, ids=[row[0] for row in LARGE])
def test_large_networks(name: str, kwargs: dict[str, Any], shape: list[int]) -> None:
    _prune_everywhere(name, kwargs, shape, 0.5)
