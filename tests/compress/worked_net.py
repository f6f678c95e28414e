"""A network that every worked file of ``configs/compress`` can compress, under the names of its own tensors."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.compress import Compressor
from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array
from tests.compress.job_net import ALONE, FEEDS, batches

# What worked files call tensors: the number of the convolution that computes them here.
_MAPS = {
    'conv2.tmp_0': 0, 'conv3.tmp_0': 1, 'conv5.tmp_0': 1, 'res2a.tmp_0': 0, 'res2c.tmp_0': 1, 'res5c.tmp_0': 1
}  # fmt: skip


class WorkedNet:
    """Two convolutions, one of them of 1x1, and a classifier.

    Args:
        prefix: of the names of parameters.
        scope: gets them; a new one where None.
    """

    def __init__(self, prefix: str = '', scope: Any = None) -> None:
        self.main, startup = paddle.static.Program(), paddle.static.Program()
        self.scope = scope if scope is not None else paddle.static.Scope()
        paddle.seed(3)

        def named(name: str) -> Any:
            return paddle.ParamAttr(name=prefix + name)

        with paddle.static.program_guard(self.main, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 2, 6, 6], 'float32')
            y = paddle.static.data('y', [-1, 1], 'int64')
            maps = F.relu(nn.Conv2D(2, 16, 3, padding=1, weight_attr=named('conv2'), bias_attr=False)(x))
            maps = F.relu(nn.Conv2D(16, 16, 1, weight_attr=named('conv3'), bias_attr=False)(maps))
            pooled = paddle.flatten(F.adaptive_avg_pool2d(maps, 1), 1)
            logits = nn.Linear(16, 4, weight_attr=named('fc'), bias_attr=False)(pooled)
            self.outputs = F.softmax(logits)
            self.loss = F.cross_entropy(logits, y)
            self.accuracy = paddle.static.accuracy(self.outputs, y)
        self.test = clone_program(self.main, for_test=True)
        Executor().run(startup, scope=self.scope)

    def names(self) -> dict[str, str]:
        """Return the names here of the tensors that worked files speak of."""
        convolutions = [op for op in GraphWrapper(self.main).ops() if op.type() == 'conv2d']
        found = {name: convolutions[index].all_outputs()[0].name() for name, index in _MAPS.items()}
        return {**found, 'softmax_0.tmp_0': GraphWrapper.name_of(self.outputs)}

    def compressor(self, **options: Any) -> Compressor:
        """Return a compressor of this network."""
        fetches = [('loss', self.loss)]
        return Compressor(
            None, self.scope, self.main, list(batches()), FEEDS, fetches, self.test, list(batches(2, 9)), FEEDS,
            [('top1_acc', self.accuracy), *fetches], ranks=ALONE, **options,
        )  # fmt: skip

    def zeros(self) -> float:
        """Return the largest share of zeros that a weight has."""
        weights = [load_array(self.scope, name) for name in ('conv2', 'conv3', 'fc')]
        return max(float((weight == 0).mean()) for weight in weights)
