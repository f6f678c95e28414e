"""Random networks for property tests: a list of blocks, each with a few numbers, that builds the same way each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from hypothesis import strategies as st
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, store_array

SIZE = 8
LEARNING_RATE = 0.01


class Block(NamedTuple):
    """One step of a network: what, and three small numbers that it interprets as it likes."""

    kind: str
    a: int
    b: int
    c: int


class Spec(NamedTuple):
    """A network and a request to prune it."""

    blocks: tuple[Block, ...]
    head: str
    seed: int
    chosen: tuple[int, ...]
    ratios: tuple[float, ...]


class Built(NamedTuple):
    """Training and evaluation program of a random network, with parameters drawn at random."""

    train: Any
    evaluation: Any
    scope: Any
    loss: Any
    outputs: list[str]
    feed: dict[str, Any]


class State:
    """What a block works on: the current tensor, and earlier ones that it may come back to."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self.kept: list[Any] = []
        self.outputs: list[Any] = []

    @property
    def channels(self) -> int:
        """Channels of the current tensor."""
        return int(self.x.shape[1])

    @property
    def size(self) -> int:
        """Height and width of the current tensor."""
        return int(self.x.shape[2])


_ACTIVATIONS: tuple[Callable[[Any], Any], ...] = (
    F.relu,
    F.leaky_relu,
    F.hardswish,
    F.swish,
    F.hardsigmoid,
    F.elu,
    lambda x: x * 0.5 + 0.25,
    lambda x: x,
)


def _activate(x: Any, which: int) -> Any:
    return _ACTIVATIONS[which % len(_ACTIVATIONS)](x)


def _normalize(x: Any, which: int) -> Any:
    channels = int(x.shape[1])
    kind = which % 6
    if kind <= 2:
        return nn.BatchNorm2D(channels)(x)
    if kind == 3 and int(x.shape[2]) > 1:
        return nn.InstanceNorm2D(channels)(x)
    if kind == 4:
        return nn.GroupNorm(next(g for g in (4, 3, 2, 1) if channels % g == 0), channels)(x)
    return x


def _convolution(x: Any, out: int, kernel: int = 3, groups: int = 1, bias: bool = True) -> Any:
    return nn.Conv2D(
        int(x.shape[1]), out, kernel, padding=kernel // 2, groups=groups, bias_attr=None if bias else False
    )(x)


def plain(s: State, a: int, b: int, c: int) -> None:
    """Convolution, normalization, activation."""
    s.x = _activate(_normalize(_convolution(s.x, 4 + 2 * (a % 5), 1 + 2 * (b % 2), bias=c % 2 == 0), b), c)


def depthwise(s: State, a: int, b: int, c: int) -> None:
    """Depthwise convolution with multiplier 1 or 2."""
    s.x = _activate(_normalize(_convolution(s.x, s.channels * (1 + a % 2), 3, s.channels, bias=b % 2 == 0), b), c)


def grouped(s: State, a: int, b: int, c: int) -> None:
    """Grouped convolution."""
    groups = next(g for g in (2 + a % 3, 2, 3, 1) if s.channels % g == 0)
    s.x = _activate(_normalize(_convolution(s.x, groups * (2 + b % 3), 3, groups, bias=c % 2 == 0), b), c)


def residual(s: State, a: int, b: int, c: int) -> None:
    """Two convolutions beside a shortcut, with or without projection."""
    out = s.channels if a % 3 else 4 + 2 * (b % 4)
    branch = _activate(_normalize(_convolution(s.x, 4 + 2 * (a % 4)), b), c)
    branch = _normalize(_convolution(branch, out, bias=a % 2 == 0), c)
    shortcut = s.x if out == s.channels else _convolution(s.x, out, 1)
    s.x = _activate(branch + shortcut, b)


def joined(s: State, a: int, b: int, c: int) -> None:
    """Dense connection: old channels and new ones side by side."""
    new = _activate(_convolution(s.x, 4 + 2 * (a % 3)), c)
    s.x = paddle.concat([new, s.x] if b % 2 else [s.x, new, s.x], axis=1)


def parted(s: State, a: int, b: int, c: int) -> None:
    """Halves that change places, or of which one is convolved."""
    if s.channels % 2:
        return
    half = s.channels // 2
    sections: Any = 2 if a % 2 else [half - 1, half + 1] if half > 1 else 2
    left, right = paddle.split(s.x, sections, axis=1)
    if b % 3 == 1:
        right = _activate(_convolution(right, 4 + c % 4), a)
    s.x = left * right if b % 3 == 2 and left.shape[1] == right.shape[1] else paddle.concat([right, left], axis=1)


def shuffled(s: State, a: int, b: int, c: int) -> None:
    """Channel shuffle by reshape and transpose."""
    groups = next(g for g in (2 + a % 3, 2, 3, 1) if s.channels % g == 0)
    h = paddle.reshape(s.x, [-1 if b % 2 else 0, groups, s.channels // groups, s.size, s.size])
    s.x = paddle.reshape(paddle.transpose(h, [0, 2, 1, 3, 4]), [-1 if c % 2 else 0, s.channels, s.size, s.size])


def squeezed(s: State, a: int, b: int, c: int) -> None:
    """Squeeze and excitation, by 1x1 convolutions or by linear layers."""
    mean = F.adaptive_avg_pool2d(s.x, 1)
    if b % 2:
        h = _convolution(_activate(_convolution(mean, 3 + a % 3, 1), c), s.channels, 1)
    else:
        h = nn.Linear(3 + a % 3, s.channels)(_activate(nn.Linear(s.channels, 3 + a % 3)(paddle.flatten(mean, 1)), c))
        h = paddle.unsqueeze(h, [2, 3])
    s.x = s.x * F.hardsigmoid(h)


def attention(s: State, a: int, b: int, c: int) -> None:
    """Self-attention over positions, with heads, and a residual connection."""
    if s.size > 4:
        s.x = F.avg_pool2d(s.x, 2)
    heads, width = 1 + a % 3, 2 + b % 3
    tokens = paddle.transpose(paddle.flatten(s.x, 2), [0, 2, 1])
    length = int(tokens.shape[1])

    def project(x: Any) -> Any:
        h = paddle.reshape(nn.Linear(s.channels, heads * width)(x), [0, length, heads, width])
        return paddle.transpose(h, [0, 2, 1, 3])

    q, k, v = project(tokens), project(tokens), project(tokens)
    weights = F.softmax((q @ paddle.transpose(k, [0, 1, 3, 2])) * 0.5, axis=-1)
    mixed = paddle.reshape(paddle.transpose(weights @ v, [0, 2, 1, 3]), [0, length, heads * width])
    out = nn.Linear(heads * width, s.channels)(mixed) + tokens
    if c % 3 == 0:
        out = nn.Linear(6, s.channels)(_activate(nn.Linear(s.channels, 6)(out), c)) + out
    s.x = paddle.reshape(paddle.transpose(out, [0, 2, 1]), [0, s.channels, s.size, s.size])


def pooled(s: State, a: int, b: int, c: int) -> None:
    """Halve the resolution and remember what was there."""
    if s.size < 2:
        return
    s.kept.append(s.x)
    s.x = F.max_pool2d(s.x, 2) if a % 2 else F.avg_pool2d(s.x, 2)


def pyramid(s: State, a: int, b: int, c: int) -> None:
    """Come back to the last finer map: both are brought to one width, added, and become an output."""
    if not s.kept:
        return
    width, finer = 4 + 2 * (a % 3), s.kept.pop()
    lateral = _convolution(finer, width, 1)
    top = _convolution(s.x, width, 1)
    s.outputs.append(_convolution(top, 3))
    s.x = lateral + F.interpolate(top, size=[int(finer.shape[2])] * 2, mode='nearest')


def sliced(s: State, a: int, b: int, c: int) -> None:
    """A range of channels, multiplied with the rest where they fit, else by itself."""
    cut = 1 + a % max(s.channels - 1, 1)
    if s.channels - cut < 2 or cut < 2:
        return
    s.x = s.x[:, cut:] if b % 2 else paddle.concat([s.x[:, :cut], F.relu(s.x[:, cut - 1 :])], axis=1)


def rearranged(s: State, a: int, b: int, c: int) -> None:
    """Pixel shuffle and the way back."""
    if s.channels % 4 or s.channels < 8 or s.size > 4:
        return
    h = F.pixel_shuffle(s.x, 2)
    s.x = F.avg_pool2d(_activate(h, c), 2) if b % 2 else h


def transposed(s: State, a: int, b: int, c: int) -> None:
    """Transposed convolution."""
    if s.size > 4:
        return
    s.x = _activate(nn.Conv2DTranspose(s.channels, 4 + 2 * (a % 3), 2, stride=2)(s.x), c)


def scaled(s: State, a: int, b: int, c: int) -> None:
    """PReLU by channel, clipping, or a product of two branches."""
    if a % 3 == 0:
        s.x = nn.PReLU(s.channels)(s.x)
    elif a % 3 == 1:
        s.x = paddle.clip(s.x, -1.0 if b % 2 else 0.1, 2.0)
    else:
        s.x = _convolution(s.x, s.channels, 1) * _activate(_convolution(s.x, s.channels, 1), c)


def picked(s: State, a: int, b: int, c: int) -> None:
    """Channels taken by step or by index, turned round, rolled, repeated."""
    steps: tuple[Callable[[Any], Any], ...] = (
        lambda x: x[:, b % 2 :: 2],
        lambda x: paddle.index_select(x, paddle.to_tensor(sorted({b % s.channels, c % s.channels, 1, 0})), axis=1),
        lambda x: paddle.flip(x, [1]),
        lambda x: paddle.roll(x, 1 + b % 3, axis=1),
        lambda x: paddle.repeat_interleave(x, 2, axis=1),
        lambda x: paddle.tile(x, [1, 2, 1, 1]),
    )
    try:
        s.x = steps[a % len(steps)](s.x)
    except TypeError:
        return  # Paddle 3.3.1 cannot build some of these on the legacy IR.
    s.x = _activate(_convolution(s.x, 4 + 2 * (c % 3)), c)


def weighed(s: State, a: int, b: int, c: int) -> None:
    """Weights from statistics across channels: mean, root mean square, or sum, over channels that may not be zero."""
    h = _activate(s.x, c)
    if a % 3 == 0:
        s.x = s.x * F.hardsigmoid(_convolution(paddle.mean(h, axis=1, keepdim=True), 1))
    elif a % 3 == 1:
        s.x = s.x * (paddle.mean(h * h, axis=1, keepdim=True) + 0.5) ** -0.5
    else:
        s.x = paddle.concat([s.x, paddle.mean(h, axis=1, keepdim=True)], axis=1)


def normalized_last(s: State, a: int, b: int, c: int) -> None:
    """Layer norm over channels that lie last."""
    h = nn.LayerNorm(s.channels)(paddle.transpose(s.x, [0, 2, 3, 1]))
    s.x = paddle.transpose(h, [0, 3, 1, 2])


BLOCKS: Mapping[str, Callable[[State, int, int, int], None]] = {
    function.__name__: function
    for function in (
        plain,
        depthwise,
        grouped,
        residual,
        joined,
        parted,
        shuffled,
        squeezed,
        attention,
        pooled,
        pyramid,
        sliced,
        rearranged,
        transposed,
        scaled,
        picked,
        weighed,
        normalized_last,
    )
}
_COMMON = [name for name in BLOCKS if name != 'normalized_last']


def specs(kinds: Sequence[str] = (), most: int = 6) -> st.SearchStrategy[Spec]:
    """Return a strategy for networks of these kinds of blocks; of any but layer norm, which freezes much, if none."""
    number = st.integers(0, 11)
    block = st.builds(Block, st.sampled_from(list(kinds) or _COMMON), number, number, number)
    return st.builds(
        Spec,
        st.lists(block, min_size=1, max_size=most).map(tuple),
        st.sampled_from(['pool', 'flatten', 'map']),
        st.integers(0, 999),
        st.lists(st.integers(0, 30), min_size=1, max_size=4).map(tuple),
        st.lists(st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.75, 0.95]), min_size=4, max_size=4).map(tuple),
    )


def _network(spec: Spec, x: Any) -> list[Any]:
    s = State(x)
    plain(s, 2, 0, 1)
    for block in spec.blocks:
        BLOCKS[block.kind](s, block.a, block.b, block.c)
    if spec.head == 'map':
        return [*s.outputs, _convolution(s.x, 3, 1)]
    h = F.adaptive_avg_pool2d(s.x, 1) if spec.head == 'pool' or s.size > 4 else s.x
    h = paddle.flatten(h, 1)
    return [*s.outputs, nn.Linear(int(h.shape[1]), 3)(h)]


def build(spec: Spec) -> Built:
    """Build both programs in double precision and draw every parameter."""
    train, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    default = paddle.get_default_dtype()
    paddle.set_default_dtype('float64')
    try:
        with paddle.static.program_guard(train, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 3, SIZE, SIZE], 'float64')
            outputs = _network(spec, x)
            names = [GraphWrapper.name_of(output) for output in outputs]
            evaluation = clone_program(train, for_test=True)
            loss = paddle.mean(outputs[0] * outputs[0])
            for output in outputs[1:]:
                loss = loss + paddle.mean(output * output)
            paddle.optimizer.SGD(LEARNING_RATE).minimize(loss)
        Executor().run(startup, scope=scope)
    finally:
        paddle.set_default_dtype(default)
    rng = np.random.default_rng(spec.seed)
    for var in GraphWrapper(train).all_parameters():
        present = load_array(scope, var.name())
        values = rng.standard_normal(present.shape)
        if present.ndim > 1:
            values /= np.sqrt(np.prod(present.shape[1:]))
        positive = (present == 1.0).all()
        store_array(scope, var.name(), (np.abs(values) + 0.5 if positive else values).astype(present.dtype))
    return Built(train, evaluation, scope, loss, names, {'x': rng.standard_normal((4, 3, SIZE, SIZE))})


def request(spec: Spec, net: Built) -> dict[str, float]:
    """Turn a spec's numbers into parameters and ratios."""
    weights = [var.name() for var in GraphWrapper(net.evaluation).all_parameters() if len(var.shape()) > 1]
    return {weights[number % len(weights)]: ratio for number, ratio in zip(spec.chosen, spec.ratios)}
