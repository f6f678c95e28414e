"""A small classifier with a residual branch, labels it predicts itself, and a way to measure it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.models.classification import Classifier, build_classifier
from paddleslim_ng.models.layers import conv_bn, global_average, linear
from paddleslim_ng.models.network import Network

PARAMETERS = ['c1_weights', 'c2_weights', 'dw_weights', 'c4_weights']
SCORES = 'scores'


class ResidualNet(Network):
    """c1 -> c2 -> depthwise -> c3 + c1, then c4 and a classifier."""

    def _build(self, image: Any, class_dim: int) -> Any:
        first = conv_bn(image, 12, 3, name='c1', act='relu')
        y = conv_bn(first, 16, 1, name='c2', act='relu')
        y = conv_bn(y, 16, 3, name='dw', groups=16, act='relu')
        y = conv_bn(y, 12, 1, name='c3')
        y = conv_bn(first + y, 20, 3, name='c4', stride=2, act='relu')
        return linear(global_average(y), class_dim, weight='fc_weights', bias='fc_offset')


@dataclass
class Measured:
    """The network, its data, and a count of evaluations.

    Attributes:
        feeds: four batches, the last one smaller.
        calls: programs that were evaluated, in order.
    """

    net: Classifier
    scope: Any
    feeds: list[dict[str, npt.NDArray[Any]]]
    calls: list[Any] = field(default_factory=list)

    @property
    def program(self) -> Any:
        return self.net.val_program

    def outputs(self, program: Any) -> list[npt.NDArray[Any]]:
        return [
            self.net.exe.run(program, feed=feed, fetch_list=[self.net.probabilities], scope=self.scope)[0]
            for feed in self.feeds
        ]

    def evaluate(self, program: Any) -> float:
        """Mean probability of the labels, a smooth metric."""
        self.calls.append(program)
        chosen = [np.take_along_axis(out, feed['label'], 1) for out, feed in zip(self.outputs(program), self.feeds)]
        return float(np.concatenate(chosen).astype('float64').mean())

    def parameters(self) -> dict[str, npt.NDArray[Any]]:
        names = [var.name() for var in GraphWrapper(self.program).all_parameters()]
        return {name: load_array(self.scope, name) for name in names}


@contextmanager
def measured(seed: int = 0) -> Iterator[Measured]:
    """Build the network into a scope of its own, with lively weights."""
    scope = paddle.static.Scope()
    rng = np.random.default_rng(seed)
    with paddle.static.scope_guard(scope), paddle.utils.unique_name.guard():
        net = build_classifier(ResidualNet(), [1, 8, 8], 5, seed=1, scope=scope)
        for name in sorted(var.name() for var in GraphWrapper(net.val_program).all_parameters()):
            shape = load_array(scope, name).shape
            if len(shape) > 1:
                new = rng.standard_normal(shape) * np.sqrt(
                    2 / (shape[0] if name.startswith('fc') else np.prod(shape[1:]))
                )
            else:
                new = rng.uniform(0.5, 1.5, shape) - (0.5 if 'offset' in name else 0.0)
            scope.find_var(name).get_tensor().set(new.astype('float32'), paddle.CPUPlace())
        images = [rng.standard_normal([size, 1, 8, 8]).astype('float32') for size in (6, 6, 6, 3)]
        result = Measured(net, scope, [{'image': x, 'label': np.zeros([len(x), 1], 'int64')} for x in images])
        for feed, out in zip(result.feeds, result.outputs(net.val_program)):
            feed['label'] = out.argmax(1, keepdims=True).astype('int64')
        yield result
