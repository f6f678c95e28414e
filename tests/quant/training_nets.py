"""Narrow networks in training, before or after ``minimize``, for quantization-aware training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array

F = paddle.nn.functional
FEED = {
    'x': np.random.default_rng(5).standard_normal((4, 3, 8, 8)).astype('float32'),
    'label': np.random.default_rng(6).integers(0, 5, (4, 1)),
}


class TrainingNet(NamedTuple):
    """A training program, its loss and logits, its startup program and its parameters."""

    program: Any
    startup: Any
    loss: Any
    logits: Any
    scope: Any

    def steps(self, count: int, program: Any = None, fetches: Any = None, feed: Any = None) -> list[Any]:
        """Run a number of steps and return what each of them gives."""
        executor = slim.Executor()
        return [
            [
                np.asarray(item)
                for item in executor.run(
                    program or self.program, feed or feed_of(step), fetches or [self.loss], scope=self.scope
                )
            ]
            for step in range(count)
        ]

    def state(self) -> dict[str, Any]:
        """Return the parameters in the scope."""
        return {var.name(): load_array(self.scope, var.name()) for var in GraphWrapper(self.program).all_parameters()}


def feed_of(step: int) -> dict[str, Any]:
    """Return another batch for every step."""
    random = np.random.default_rng(100 + step)
    images = random.standard_normal((4, 3, 8, 8)).astype('float32') * np.float32(1 + 0.1 * step)
    return {'x': images, 'label': random.integers(0, 5, (4, 1))}


def body(x: Any) -> Any:
    """Convolutions of every kind, one tensor that two of them read, a residual sum, and a fully connected layer."""
    nn = paddle.nn
    x = F.relu(nn.BatchNorm2D(8)(nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)(x)))
    y = F.relu(nn.Conv2D(8, 8, 3, padding=1, groups=8)(x))
    z = nn.Conv2D(8, 8, 1)(x)
    y = F.relu(nn.Conv2D(8, 8, 1)(y) + z)
    y = F.adaptive_avg_pool2d(y, 1)
    return nn.Linear(8, 5)(paddle.flatten(y, 1))


def build(
    network: Callable[[Any], Any] = body, seed: int = 0, optimizer: Callable[[], Any] | None = None
) -> TrainingNet:
    """Build a network with a loss, without backward part, with seeded parameters."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = seed + 1
    with (
        paddle.static.program_guard(main, startup),
        paddle.static.scope_guard(scope),
        paddle.utils.unique_name.guard(),
    ):
        logits = network(paddle.static.data('x', [None, 3, 8, 8], 'float32'))
        label = paddle.static.data('label', [None, 1], 'int64')
        loss = paddle.mean(F.softmax_with_cross_entropy(logits, label))
        paddle.static.Executor(paddle.CPUPlace()).run(startup)
    random = np.random.default_rng(seed)
    for var in GraphWrapper(main).all_parameters():
        shape = var.shape()
        if len(shape) > 1:
            values = random.standard_normal(shape) * (2 / np.prod(shape[1:] if len(shape) == 4 else shape[:1])) ** 0.5
            store_array(scope, var.name(), values.astype('float32'))
    net = TrainingNet(main, startup, loss, logits, scope)
    return minimize(net, net.program, optimizer()) if optimizer is not None else net


def minimize(net: TrainingNet, program: Any, optimizer: Any) -> TrainingNet:
    """Minimize the loss in a program, the net's own or a descendant of it; return the net with that program."""
    startup = paddle.static.Program()
    with paddle.static.program_guard(program, startup), paddle.static.scope_guard(net.scope):
        loss = slim.core.lookup(program, net.loss)
        with paddle.utils.unique_name.guard('optimizer_'):
            optimizer.minimize(loss)
        paddle.static.Executor(paddle.CPUPlace()).run(startup)
    return TrainingNet(program, startup, loss, slim.core.lookup(program, net.logits), net.scope)
