"""A network with most of what makes pruning hard, for tests of criteria, selectors and saved models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import paddle.nn.functional as F

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, set_name, store_array
from paddleslim_ng.models.layers import channel_shuffle, conv, conv_bn, linear

PARAMETERS = ['c1_weights', 'c2_weights', 'c3_weights', 'c4_weights']
Array = npt.NDArray[Any]


@dataclass
class Built:
    """The programs, and a scope with lively weights.

    Attributes:
        train: with backward pass and optimizer.
        val: the same network in test mode.
    """

    train: Any
    val: Any
    scope: Any
    exe: Executor
    loss: str = 'loss'
    probabilities: str = 'probabilities'

    def values(self, program: Any) -> dict[str, Array]:
        names = [var.name() for var in GraphWrapper(program).vars() if var.persistable()]
        return {name: load_array(self.scope, name) for name in names}

    def predict(self, program: Any, scope: Any = None) -> Array:
        scope = self.scope if scope is None else scope
        return np.asarray(self.exe.run(program, feed(0), [self.probabilities], scope=scope)[0])

    def step(self, program: Any, count: int, scope: Any = None) -> list[float]:
        scope = self.scope if scope is None else scope
        return [float(self.exe.run(program, feed(n), [self.loss], scope=scope)[0]) for n in range(count)]


def feed(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {'x': rng.standard_normal([4, 3, 8, 8]).astype('float32'), 'y': rng.integers(0, 5, [4, 1])}


def network(x: Any, scale: int = 1) -> Any:
    """Residual block with a depthwise branch, unequal halves that change places, a shuffle, groups, a linear head."""
    narrow, wide = 12 * scale, 16 * scale
    first = conv_bn(x, narrow, 3, name='c1', act='relu')
    branch = conv_bn(first, narrow, 3, name='dw', groups=narrow, act='relu')
    first = first + conv_bn(branch, narrow, 1, name='c2')
    left, right = paddle.split(first, [5 * scale, 7 * scale], axis=1)
    swapped = paddle.concat([right, left], axis=1)
    last = conv_bn(swapped, wide, 3, name='c3', act='relu', stride=2)
    grouped = F.relu(conv(channel_shuffle(last, 4), wide, 3, name='c4', groups=4, bias=True))
    return linear(paddle.flatten(F.avg_pool2d(grouped, 2), 1), 5, weight='fc_weights', bias='fc_offset')


def fine_network(x: Any, scale: int = 1) -> Any:
    """Residual block with a depthwise branch and two more convolutions, in which channels leave one by one."""
    narrow, wide = 12 * scale, 16 * scale
    first = conv_bn(x, narrow, 3, name='c1', act='relu')
    branch = conv_bn(first, narrow, 3, name='dw', groups=narrow, act='relu')
    first = first + conv_bn(branch, narrow, 1, name='c2')
    last = conv_bn(first, wide, 3, name='c3', act='relu', stride=2)
    last = F.relu(conv(last, wide, 3, name='c4', bias=True))
    return linear(paddle.flatten(F.avg_pool2d(last, 2), 1), 5, weight='fc_weights', bias='fc_offset')


def build(seed: int = 0, optimizer: str = 'Momentum', scale: int = 1, body: Any = network) -> Built:
    """Build both programs, with names counted from zero, into a scope of their own."""
    paddle.enable_static()
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
        y = paddle.static.data('y', [-1, 1], 'int64')
        logits = body(x, scale)
        set_name(F.softmax(logits), 'probabilities')
        loss = set_name(paddle.mean(F.cross_entropy(logits, y)), 'loss')
        val = clone_program(main, for_test=True)
        options = {'momentum': 0.9} if optimizer == 'Momentum' else {}
        getattr(paddle.optimizer, optimizer)(learning_rate=0.05, **options).minimize(loss)
    exe = Executor()
    exe.run(startup, scope=scope)
    randomize(val, scope, seed)
    return Built(main, val, scope, exe)


def randomize(program: Any, scope: Any, seed: int) -> None:
    """Give every parameter values that differ from channel to channel."""
    rng = np.random.default_rng(seed)
    for var in sorted(GraphWrapper(program).all_parameters(), key=lambda var: var.name()):
        shape = var.shape()
        if len(shape) > 1:
            fan = shape[0] if var.name().startswith('fc') else np.prod(shape[1:])
            new = rng.standard_normal(shape) * np.sqrt(2 / fan)
        else:
            new = rng.uniform(0.5, 1.5, shape) - (0.5 if 'offset' in var.name() else 0.0)
        store_array(scope, var.name(), new.astype('float32'))


def shapes(program: Any) -> dict[str, tuple[int, ...]]:
    """Return every variable's shape, for comparing programs."""
    return {var.name(): var.shape() for var in GraphWrapper(program).vars()}
