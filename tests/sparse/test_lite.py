"""From sparse training to a file for Arm with sparse kernels, and what is said of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

import paddleslim_ng as slim
from paddleslim_ng.core import clone_program


class Pointwise:
    """Convolutions of 1x1 and others, trained sparse for a few steps."""

    def __init__(self, **options: Any) -> None:
        main, startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        paddle.seed(5)
        with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 3, 16, 16], 'float32')
            h = F.relu(nn.Conv2D(3, 32, 3, stride=2, padding=1, weight_attr=_named('stem'))(x))
            h = F.relu(nn.BatchNorm2D(48)(nn.Conv2D(32, 48, 1, weight_attr=_named('a'), bias_attr=False)(h)))
            h = F.relu(nn.Conv2D(48, 32, 1, weight_attr=_named('b'))(h))
            h = F.relu(nn.Conv2D(32, 32, 1, stride=2, weight_attr=_named('strided'))(h))
            self.out = F.adaptive_avg_pool2d(nn.Conv2D(32, 8, 1, weight_attr=_named('c'))(h), 1)
            paddle.optimizer.Momentum(0.01, 0.9).minimize(paddle.mean(self.out * self.out))
        exe = slim.Executor()
        exe.run(startup, scope=self.scope)
        pruner = slim.prune.UnstructuredPruner(main, scope=self.scope, **options)
        for number in range(3):
            images = np.random.default_rng(number).standard_normal((2, 3, 16, 16)).astype('float32')
            exe.run(main, feed={'x': images}, scope=self.scope)
            pruner.step()
        exe.run(main, feed={'x': images}, scope=self.scope)  # no step() before the export
        self.program = clone_program(main, for_test=True)

    def convert(self, path: Path, sparse: float) -> Any:
        return slim.deploy.to_lite(
            self.program, path, 'arm', sparse=sparse, feeds=['x'], fetches=[self.out], scope=self.scope
        )


def _named(name: str) -> Any:
    return paddle.ParamAttr(name=name)


def test_sparse_training_ends_in_sparse_kernels(tmp_path: Path) -> None:
    net = Pointwise(ratio=0.75, local_sparsity=True, prune_params_type='conv1x1_only')
    model = net.convert(tmp_path / 'sparse', 0.6)
    assert [kernel.op for kernel in model.nb.sparse_kernels] == ['sparse_conv2d'] * 3
    layers = {layer.weight: layer for layer in model.sparse_layers}
    assert {name for name, layer in layers.items() if layer.sparse} == {'a', 'b', 'c'}
    assert {name: layer.zeros for name, layer in layers.items()} == {'a': 1152, 'b': 1152, 'strided': 768, 'c': 192}
    assert 'strided: 75.0% zeros, dense kernel (stride [2, 2])' in model.report
    dense = slim.deploy.to_lite(net.program, tmp_path / 'dense', 'arm', feeds=['x'], fetches=[net.out], scope=net.scope)
    added = sum(layer.bytes_added for layer in layers.values())
    assert added < 0 and abs(model.file_bytes - dense.file_bytes - added) < 150 * 3
    assert dense.sparse_layers == ()


def test_layers_below_the_threshold_and_layers_that_grow(tmp_path: Path) -> None:
    net = Pointwise(ratio=0.3, layer_ratios={'a': 0.8, 'b': 0.1, 'stem': 0.5})
    model = net.convert(tmp_path / 'model', 0.25)
    layers = {layer.weight: layer for layer in model.sparse_layers}
    assert layers['stem'].obstacle == 'a filter of 3x3, stride [2, 2], padding [1, 1]'
    assert layers['b'].obstacle == 'below 0.25'
    assert layers['a'].sparse and layers['c'].sparse and len(model.nb.sparse_kernels) == 2
    assert layers['a'].bytes_added < 0 < layers['c'].bytes_added
    assert any('1 sparse layers take more bytes' in text and 'c +' in text for text in model.warnings)
