"""A network of any widths, trained by any optimizer, and its pruned twin built without the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import Executor, GraphWrapper, has_array, load_array, store_array

Array = npt.NDArray[Any]
Values = dict[str, Array]
STEPS = 3


class Widths(NamedTuple):
    """Channels of the first convolution's two halves, and of the last one."""

    left: int
    right: int
    last: int


FULL = Widths(6, 6, 8)
RATIOS = {'w1': 0.4, 'w3': 0.5}


class Net(NamedTuple):
    """A training program with what is needed to run it."""

    main: Any
    startup: Any
    scope: Any
    loss: Any
    dtype: str


Minimize = Callable[[Any], None]


def _convolution(x: Any, name: str, channels: int, out: int, groups: int = 1, bias: bool = True) -> Any:
    bias_attr = _named(f'{name}_bias') if bias else False
    return nn.Conv2D(channels, out, 3, padding=1, groups=groups, weight_attr=_named(name), bias_attr=bias_attr)(x)


def _named(name: str) -> Any:
    return paddle.ParamAttr(name=name)


def network(x: Any, widths: Widths) -> Any:
    """A residual block with a depthwise branch, halves that change places, and a linear head."""
    first = widths.left + widths.right
    # A bias before batch norm has no gradient but rounding errors, which adaptive optimizers blow up.
    h = _convolution(x, 'w1', 3, first, bias=False)
    h = F.relu(nn.BatchNorm2D(first, weight_attr=_named('bn_weight'), bias_attr=_named('bn_bias'))(h))
    branch = _convolution(F.relu(_convolution(h, 'dw', first, first, groups=first)), 'w2', first, first)
    left, right = paddle.split(h + branch, [widths.left, widths.right], axis=1)
    h = F.relu(_convolution(paddle.concat([right, left], axis=1), 'w3', first, widths.last))
    h = paddle.flatten(F.adaptive_avg_pool2d(h, 1), 1)
    return nn.Linear(widths.last, 4, weight_attr=_named('fc'), bias_attr=_named('fc_bias'))(h)


def build(minimize: Minimize, widths: Widths = FULL, dtype: str = 'float64') -> Net:
    """Build the training program; ``minimize`` gets the loss inside the program's guards."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    default = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    paddle.seed(7)
    try:
        with (
            paddle.static.scope_guard(scope),
            paddle.static.program_guard(main, startup),
            paddle.utils.unique_name.guard(),
        ):
            x = paddle.static.data('x', [-1, 3, 6, 6], dtype)
            label = paddle.static.data('label', [-1, 1], 'int64')
            loss = F.cross_entropy(network(x, widths), label)
            minimize(loss)
            Executor().run(startup, scope=scope)
    finally:
        paddle.set_default_dtype(default)
    return Net(main, startup, scope, loss, dtype)


def train(
    net: Net, program: Any, scope: Any, first: int, steps: int = STEPS, after: Callable[[], None] | None = None
) -> list[float]:
    """Train for some steps on batches numbered from ``first`` and return the losses."""
    losses = []
    exe = Executor()
    with paddle.static.scope_guard(scope):
        for number in range(first, first + steps):
            rng = np.random.default_rng(number)
            feed = {'x': rng.standard_normal((8, 3, 6, 6)).astype(net.dtype), 'label': rng.integers(0, 4, (8, 1))}
            losses.append(
                float(np.asarray(exe.run(program, feed=feed, fetch_list=[net.loss], scope=scope)[0]).reshape(()))
            )
            if after is not None:
                after()
    return losses


def state(program: Any, scope: Any) -> Values:
    """Copy every persistable of a program out of a scope."""
    names = [var.name() for var in GraphWrapper(program).vars() if var.persistable()]
    return {name: load_array(scope, name) for name in names if has_array(scope, name)}


def kept(weight: Array, ratio: float) -> Array:
    """Positions along axis 0 that stay when the lowest L1 norms leave."""
    norms = np.abs(weight).sum(axis=(1, 2, 3))
    remove = int(np.floor(len(norms) * ratio + 0.5))
    return np.sort(np.argsort(norms, kind='stable')[remove:])


def expected_cut(
    values: Mapping[str, Array], widths: Widths = FULL, ratios: Mapping[str, float] | None = None
) -> tuple[Widths, Values]:
    """Slice parameters and everything shaped like them by hand, from the structure of :func:`network`.

    Returns:
        Widths of the network that is left, and its values.
    """
    ratios = RATIOS if ratios is None else ratios
    first, last = kept(values['w1'], ratios['w1']), kept(values['w3'], ratios['w3'])
    total = widths.left + widths.right
    swapped = np.concatenate([np.arange(widths.left, total), np.arange(widths.left)])
    joined = np.flatnonzero(np.isin(swapped, first))
    slices: dict[str, dict[int, Array]] = {
        **{name: {0: first} for name in ('w1', 'dw', 'dw_bias', 'w2_bias', 'bn_weight', 'bn_bias')},
        **{name: {0: first} for name in values if name in ('batch_norm2d_0.w_0', 'batch_norm2d_0.w_1')},
        'w2': {0: first, 1: first},
        'w3': {0: last, 1: joined},
        'w3_bias': {0: last},
        'fc': {0: last},
        'fc_bias': {},
    }
    result = {}
    for name, array in values.items():
        owner = max((known for known in slices if name.startswith(known)), key=len, default=None)
        front = array.ndim - values[owner].ndim if owner else 0
        if owner and front >= 0 and array.shape[front:] == values[owner].shape:
            for axis, positions in slices[owner].items():
                array = np.take(array, positions, axis=axis + front)
        result[name] = array
    left = int((first < widths.left).sum())
    return Widths(left, len(first) - left, len(last)), result


def fill(net: Net, values: Mapping[str, Array]) -> None:
    """Copy values into a freshly built network, of which every persistable must be given and fit."""
    for name, own in state(net.main, net.scope).items():
        assert values[name].shape == own.shape or own.size == 1, (name, values[name].shape, own.shape)
        store_array(net.scope, name, values[name])


def largest_difference(left: Mapping[str, Array], right: Mapping[str, Array]) -> float:
    """Largest absolute difference over all values, which must have the same names and shapes."""
    assert set(left) == set(right), set(left) ^ set(right)
    worst = 0.0
    for name, array in left.items():
        assert array.shape == right[name].shape or array.size == right[name].size == 1, name
        if array.size:
            difference = array.astype(np.float64).ravel() - right[name].astype(np.float64).ravel()
            worst = max(worst, float(np.abs(difference).max()))
    return worst
