"""Small classifiers that serve as students and teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.core.teachers import teacher_of


class Net:
    """Convolution, batch norm, relu, dropout, pool and two linear layers, with a loss.

    Args:
        width: channels.
        prefix: of the names of parameters.
        scope: takes the parameters.
        image: name of the input.
        minimize: an optimizer that trains it on its own, or None.
        seed: of the initial values.
    """

    def __init__(
        self,
        width: int,
        prefix: str = '',
        scope: Any = None,
        image: str = 'image',
        minimize: Any = None,
        seed: int = 1,
        batch: int | None = None,
    ) -> None:
        self.scope = scope if scope is not None else paddle.static.Scope()
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.main.random_seed = self.startup.random_seed = seed
        self.exe = paddle.static.Executor(paddle.CPUPlace())

        def named(name: str) -> Any:
            return paddle.ParamAttr(name=prefix + name)

        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            x = paddle.static.data(image, [batch, 2, 6, 6], 'float32')
            label = paddle.static.data('label', [batch, 1], 'int64')
            h = nn.Conv2D(2, width, 3, weight_attr=named('conv'), bias_attr=False)(x)
            norm = nn.BatchNorm2D(width, weight_attr=named('scale'), bias_attr=named('shift'))
            self.features = F.relu(norm(h))
            h = paddle.flatten(F.adaptive_avg_pool2d(self.features, 2), 1)
            h = F.dropout(nn.Linear(4 * width, 8, weight_attr=named('hidden'))(h), 0.5)
            self.logits = nn.Linear(8, 4, weight_attr=named('fc'))(h)
            self.loss = F.cross_entropy(self.logits, label)
            if minimize is not None:
                minimize.minimize(self.loss)
        self.start()

    def start(self) -> None:
        self.exe.run(self.startup, scope=self.scope)
        rng = np.random.default_rng(self.main.random_seed)
        for name in self.statistics():
            store_array(self.scope, name, rng.uniform(0.5, 1.5, load_array(self.scope, name).shape).astype('float32'))

    def statistics(self) -> list[str]:
        norms = [op for op in GraphWrapper(self.main).ops() if op.type() == 'batch_norm']
        (norm,) = [op for op in norms if teacher_of(op) is None]
        return [norm.inputs(slot)[0].name() for slot in ('Mean', 'Variance')]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {
            var.name(): load_array(self.scope, var.name())
            for var in GraphWrapper(self.main).vars()
            if var.persistable() and not var.name().startswith('learning_rate')
        }


def batch(number: int = 0, size: int = 4) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(number)
    return {
        'image': rng.standard_normal((size, 2, 6, 6)).astype('float32'),
        'label': rng.integers(0, 4, (size, 1)),
    }
