"""A narrow network in training: five layers, with or without the backward pass and the optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.quant.buckets import Buckets

F = paddle.nn.functional


class Training:
    """A network whose middle layers are a depthwise and a plain convolution and a linear layer."""

    def __init__(self, optimizer: Any = None, minimize: bool = True, seed: int = 0) -> None:
        self.main, self.startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        self.optimizer = optimizer if optimizer is not None else paddle.optimizer.Momentum(0.05, 0.9)
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            image = paddle.static.data('image', [None, 2, 8, 8], 'float32')
            label = paddle.static.data('label', [None, 1], 'int64')
            x = F.relu(paddle.nn.Conv2D(2, 6, 3, padding=1)(image))
            x = F.relu(paddle.nn.Conv2D(6, 6, 3, padding=1, groups=6)(x))
            x = F.relu(paddle.nn.Conv2D(6, 10, 3, stride=2)(x))
            x = F.relu(paddle.nn.Linear(10, 7)(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
            self.logits = paddle.nn.Linear(7, 4)(x)
            self.loss = F.cross_entropy(self.logits, label)
        if minimize:
            self.minimize()
        rng = np.random.default_rng(seed)
        slim.Executor().run(self.startup, scope=self.scope)
        for var in GraphWrapper(self.main).all_parameters():
            size = 0.5 if len(var.shape()) > 1 else 0.1
            array = (size * rng.standard_normal(var.shape())).astype('float32')
            slim.core.store_array(self.scope, var.name(), array)
        self.rng = rng

    def minimize(self) -> None:
        """Build the backward pass and the optimizer."""
        with paddle.static.program_guard(self.main, self.startup):
            self.optimizer.minimize(self.loss)

    def start_optimizer(self) -> None:
        """Fill what the startup program knows and the scope lacks."""
        kept = self.parameters()
        slim.Executor().run(self.startup, scope=self.scope)
        for name, array in kept.items():
            slim.core.store_array(self.scope, name, array)

    def parameters(self) -> dict[str, Any]:
        """Return what the scope holds of the parameters."""
        names = [var.name() for var in GraphWrapper(self.main).all_parameters()]
        return {name: load_array(self.scope, name) for name in names}

    def batch(self, size: int = 16) -> dict[str, Any]:
        """Return images and labels."""
        labels = self.rng.integers(0, 4, (size, 1))
        images = self.rng.standard_normal((size, 2, 8, 8)) + labels.reshape(-1, 1, 1, 1) / 2
        return {'image': images.astype('float32'), 'label': labels}

    def train(self, steps: int) -> list[float]:
        """Return the losses of some steps."""
        run = slim.Executor().run
        return [float(run(self.main, self.batch(), [self.loss], scope=self.scope)[0]) for _ in range(steps)]

    def weight_read_by(self, output: str) -> Any:
        """Return what the layer with this output reads as its weight."""
        op = GraphWrapper(self.main).var(output).inputs()[0]
        slot = next(slot for slot in ('Filter', 'Y') if op.inputs(slot))
        return op.inputs(slot)[0].raw


def members(buckets: Buckets, array: Any) -> list[Any]:
    """Return the distinct values of each bucket, without what fills it up."""
    owner = buckets.from_rows(np.repeat(np.arange(buckets.count)[:, None], buckets.rows(array).shape[1], 1))
    return [np.unique(array[owner == bucket]) for bucket in range(buckets.count)]
