"""A network of which one layer hardly matters, with a metric that tells: agreement with what it computed at first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.compress import Compressor, Strategy
from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, store_array
from tests.compress.job_net import ALONE


class PruneNet:
    """Four convolutions, of which two are added; what ``conv_idle`` computes counts for little.

    Args:
        seed: of its weights.
        optimizer: momentum where None.
        depthwise: put a depthwise convolution behind the first one.

    Attributes:
        calls: how often the metric was measured outside of the evaluations of epochs.
        values: what the metric says instead, one after the other.
    """

    def __init__(self, seed: int = 3, optimizer: Any = None, *, depthwise: bool = False) -> None:
        self.main, startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        self.exe = Executor()
        paddle.seed(seed)
        with paddle.static.program_guard(self.main, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 3, 6, 6], 'float32')
            y = paddle.static.data('y', [-1, 8], 'float32')
            first = F.relu(_conv('conv_a', 3, 32, padding=1)(x))
            if depthwise:
                first = F.relu(_conv('conv_groups', 32, 32, padding=1, groups=32)(first))
            idle = F.relu(_conv('conv_idle', 3, 48, padding=1)(x))
            joined = paddle.concat([first, idle], 1)
            added = F.relu(_conv('conv_b', 80, 48)(joined) + _conv('conv_c', 80, 48)(joined))
            out = nn.Linear(48, 8, weight_attr=paddle.ParamAttr(name='fc'))(
                paddle.flatten(F.adaptive_avg_pool2d(added, 1), 1)
            )
            self.loss = paddle.mean((out - y) ** 2)
            self.out = out
            graph = GraphWrapper(self.main)
            self.loss_name, self.out_name = graph.var(self.loss).name(), graph.var(out).name()
            self.test = clone_program(self.main, for_test=True)
            (optimizer or paddle.optimizer.Momentum(1e-4, 0.9)).minimize(self.loss)
        self.exe.run(startup, scope=self.scope)
        store_array(self.scope, 'conv_idle', load_array(self.scope, 'conv_idle') * np.float32(0.01))
        self.image = np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype('float32')
        self.wanted = self._outputs(self.test)
        self.calls = 0
        self.values: Iterator[float] | None = None

    def _outputs(self, program: Any) -> npt.NDArray[Any]:
        feed = {'x': self.image, 'y': np.zeros([16, 8], 'float32')}
        (found,) = self.exe.run(program, feed=feed, fetch_list=[self.out_name], scope=self.scope)
        return np.asarray(found)

    def agree(self, program: Any, scope: Any) -> float:
        """Return 1 for the same outputs, and less the more they differ."""
        self.calls += 1
        if self.values is not None:
            return next(self.values)
        return float(np.exp(-np.abs(self._outputs(program) - self.wanted).mean() / np.abs(self.wanted).mean()))

    def data(self) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        for index in range(2):
            yield self.image[index * 8 : index * 8 + 8], self.wanted[index * 8 : index * 8 + 8]

    def compressor(self, **options: Any) -> Compressor:
        """Return a compressor of this network; keyword arguments replace what is given here."""
        given: dict[str, Any] = {
            'scope': self.scope,
            'train_program': self.main,
            'train_reader': self.data,
            'train_feed_list': ['x', 'y'],
            'train_fetch_list': [('loss', self.loss_name)],
            'eval_program': self.test,
            'eval_fetch_list': [('out', self.out_name)],
            'eval_func': {'agree': self.agree},
            'ranks': ALONE,
        }
        return Compressor(**{**given, **options})

    def run(self, *strategies: Strategy, **options: Any) -> Any:
        """Run a job with some strategies."""
        compressor = self.compressor(**options)
        for strategy in strategies:
            compressor.add_strategy(strategy)
        return compressor.run()


def _conv(name: str, *sizes: int, **options: Any) -> Any:
    return nn.Conv2D(*sizes, 3, weight_attr=paddle.ParamAttr(name=name), bias_attr=False, **options)
