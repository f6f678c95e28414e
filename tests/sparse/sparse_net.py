"""A small network with every kind of parameter, trained with Adam, and pruners for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import GraphWrapper, load_array

PRUNABLE = ('conv', 'point', 'depth', 'fc')
SIZES = {'conv': 8 * 3 * 9, 'point': 16 * 8, 'depth': 16 * 9, 'fc': 16 * 4}


class SparseNet:
    """The network with its scope and batches that depend on their number alone."""

    def __init__(self, optimizer: Any = None, train: bool = True) -> None:
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.scope = paddle.static.Scope()
        self.exe = paddle.static.Executor(paddle.CPUPlace())
        paddle.seed(3)
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
            label = paddle.static.data('label', [-1, 1], 'int64')
            h = nn.Conv2D(3, 8, 3, weight_attr=_named('conv'), bias_attr=False)(x)
            h = F.relu(nn.BatchNorm2D(8)(h))
            h = F.relu(nn.Conv2D(8, 16, 1, weight_attr=_named('point'))(h))
            h = F.relu(nn.Conv2D(16, 16, 3, groups=16, weight_attr=_named('depth'))(h))
            h = paddle.flatten(F.adaptive_avg_pool2d(h, 1), 1)
            self.logits = nn.Linear(16, 4, weight_attr=_named('fc'))(h)
            self.loss = F.cross_entropy(self.logits, label)
            if train:
                (optimizer or paddle.optimizer.Adam(0.01)).minimize(self.loss)

    def start(self) -> None:
        self.exe.run(self.startup, scope=self.scope)

    def train(self, number: int) -> None:
        rng = np.random.default_rng(number)
        feed = {'x': rng.standard_normal((4, 3, 8, 8)).astype('float32'), 'label': rng.integers(0, 4, (4, 1))}
        self.exe.run(self.main, feed=feed, scope=self.scope)

    def value(self, name: str) -> npt.NDArray[Any]:
        return load_array(self.scope, name)

    def zeros(self, name: str) -> int:
        values = self.value(name)
        return int(values.size - np.count_nonzero(values))

    def persistables(self) -> dict[str, npt.NDArray[Any]]:
        names = [var.name() for var in GraphWrapper(self.main).vars() if var.persistable()]
        return {name: self.value(name) for name in names if not name.startswith('learning_rate')}


def _named(name: str) -> Any:
    return paddle.ParamAttr(name=name)
