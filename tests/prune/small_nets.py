"""Small evaluation and training programs for the tests of the pruner's interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, has_array, load_array

Values = dict[str, npt.NDArray[Any]]


class Pair(NamedTuple):
    """A training and an evaluation program over one scope."""

    train: Any
    evaluation: Any
    scope: Any
    output: Any
    feed: dict[str, Any]


def convolution(x: Any, name: str, out: int, kernel: int = 3, groups: int = 1) -> Any:
    """A convolution whose weight has the given name."""
    return nn.Conv2D(
        int(x.shape[1]), out, kernel, padding=kernel // 2, groups=groups, weight_attr=paddle.ParamAttr(name=name)
    )(x)


def plain(x: Any) -> Any:
    """Two residual branches and a third convolution."""
    h = F.relu(nn.BatchNorm2D(8)(convolution(x, 'stem', 8)))
    h = F.relu(convolution(h, 'branch', 8) + h)
    h = F.relu(convolution(h, 'last', 12))
    return convolution(h, 'classes', 3, 1)


def crossed(x: Any) -> Any:
    """Halves that change places, so that it matters which positions leave."""
    h = F.relu(convolution(x, 'stem', 8))
    left, right = paddle.split(h, 2, axis=1)
    h = paddle.concat([right, h[:, 2:7], left], axis=1)
    return convolution(F.relu(h), 'classes', 3, 1)


def build(network: Callable[[Any], Any] = plain, shape: tuple[int, ...] = (-1, 3, 6, 6), seed: int = 0) -> Pair:
    """Build both programs; training is by Momentum on the mean square of the output."""
    train, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    paddle.seed(seed)
    with paddle.static.program_guard(train, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', list(shape), 'float32')
        output = network(x)
        evaluation = clone_program(train, for_test=True)
        paddle.optimizer.Momentum(0.01, 0.9).minimize(paddle.mean(output * output))
    Executor().run(startup, scope=scope)
    sizes = [size if size > 0 else 4 for size in shape]
    feed = {'x': np.random.default_rng(seed).standard_normal(sizes).astype('float32')}
    return Pair(train, evaluation, scope, output, feed)


def evaluate(pair: Pair, program: Any, scope: Any = None) -> npt.NDArray[Any]:
    """Return the output of a program for the pair's feed."""
    results = Executor().run(program, feed=pair.feed, fetch_list=[pair.output], scope=scope or pair.scope)
    return np.asarray(results[0])


def values(program: Any, scope: Any) -> Values:
    """Copy every persistable of a program out of a scope."""
    names = [var.name() for var in GraphWrapper(program).vars() if var.persistable()]
    return {name: load_array(scope, name) for name in names if has_array(scope, name)}


def describe(program: Any) -> list[Any]:
    """Return operators with the shapes and names of what they write, and shapes of parameters."""
    graph = GraphWrapper(program)
    ops = [(op.type(), [(var.name(), var.shape()) for var in op.all_outputs()]) for op in graph.ops()]
    return [*ops, *((var.name(), var.shape()) for var in graph.all_parameters())]


def same(left: Values, right: Values) -> bool:
    """Tell whether two sets of values are equal bit for bit."""
    return set(left) == set(right) and all(
        array.dtype == right[name].dtype
        and array.shape == right[name].shape
        and array.tobytes() == right[name].tobytes()
        for name, array in left.items()
    )
