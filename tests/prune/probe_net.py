"""Small networks ``conv1 -> OP -> conv2 -> pool -> fc``, one for each way channels can go through an operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleslim_ng.core import Executor, GraphWrapper, load_array, store_array

CHANNELS, HEIGHT, WIDTH = 8, 6, 10
EXACT = 'exact'

Op = Callable[[Any], Any]


@dataclass(frozen=True)
class Probe:
    """One operator pattern and what pruning ``w1``, the filter before it, must come to.

    Attributes:
        name: of the test.
        op: maps the 8-channel feature map [N, 8, 6, 10] to what the rest of the network reads.
        expect: ``'exact'``, or a piece of the obstacle that must be named.
        kept: channels of ``w1`` left at ratio .5; None: whatever is left, but fewer than all.
        ratio: share asked for.
        trains: False, or the reason why two training steps are not compared.
        params: what is pruned.
    """

    name: str
    op: Op
    expect: str = EXACT
    kept: int | None = 4
    ratio: float = 0.5
    trains: bool | str = True
    params: tuple[str, ...] = ('w1',)


def configuration() -> str:
    """``'pir'``, ``'legacy'`` (3.x without PIR) or ``'2.6'``."""
    if paddle.__version__.startswith('2.'):
        return '2.6'
    return 'pir' if paddle.framework.in_pir_mode() else 'legacy'


@dataclass
class Net:
    """A built probe.

    Attributes:
        test: forward program.
        train: the same with Momentum.
        loss: name of the loss.
    """

    test: Any
    train: Any
    loss: str
    values: dict[str, npt.NDArray[Any]]


def attr(name: str) -> Any:
    return paddle.ParamAttr(name=name)


def conv(x: Any, out: int, kernel: int = 3, name: str | None = None, **options: Any) -> Any:
    """A convolution that keeps the spatial size, with a bias."""
    last = options.get('data_format', 'NCHW') == 'NHWC'
    layer = nn.Conv2D(
        x.shape[-1 if last else 1],
        out,
        kernel,
        padding=kernel // 2,
        weight_attr=attr(name) if name else None,
        **options,
    )
    return layer(x)


def head(h: Any) -> Any:
    """Read whatever an operator makes: a convolution over images and sequences, then a classifier."""
    if len(h.shape) == 5:
        h = nn.Conv3D(h.shape[1], 6, 3, padding=1)(h)
    elif len(h.shape) == 4:
        h = conv(h, 6)
    elif len(h.shape) == 3:
        h = nn.Linear(h.shape[2], 6)(h)
    if len(h.shape) > 2:
        axes = list(range(2, len(h.shape))) if len(h.shape) > 3 else [1]
        h = paddle.mean(h, axis=axes)
    return nn.Linear(h.shape[1], 5)(h)


def build(probe: Probe, train: bool = False) -> tuple[Any, Any, str]:
    """Build the program of a probe, with an optimizer where ``train``; return it, its startup program, and the loss."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 3, HEIGHT, WIDTH], 'float32')
        h = nn.Conv2D(3, CHANNELS, 3, padding=1, weight_attr=attr('w1'), bias_attr=attr('b1'))(x)
        results = probe.op(h)
        logits = [head(r) for r in (results if isinstance(results, tuple) else (results,))]
        if train:
            total = logits[0] if len(logits) == 1 else logits[0] + logits[1]
            loss = paddle.mean(F.square_error_cost(total, paddle.full([1], 0.1)))
            paddle.optimizer.Momentum(0.05, 0.9).minimize(loss)
            return main, startup, GraphWrapper.name_of(loss)
    return main, startup, ''


def fill(program: Any, startup: Any, scope: Any, seed: int = 3) -> None:
    """Give every parameter lively values: no zero bias, no unit scale."""
    Executor().run(startup, scope=scope)
    rng = np.random.default_rng(seed)
    for name in sorted(var.name() for var in GraphWrapper(program).all_parameters()):
        old = load_array(scope, name)
        if not np.issubdtype(old.dtype, np.floating):
            continue
        spread = 1 / math.sqrt(max(np.prod(old.shape[1:]), 1)) if old.ndim > 1 else 0.3
        new = rng.standard_normal(old.shape) * spread + (0.9 if old.ndim == 1 else 0)
        store_array(scope, name, np.abs(new).astype(old.dtype) if old.ndim == 1 else new.astype(old.dtype))


def feed(seed: int = 5) -> dict[str, npt.NDArray[np.float32]]:
    return {'x': np.random.default_rng(seed).standard_normal([4, 3, HEIGHT, WIDTH]).astype('float32')}


def either(function: Callable[..., Any], kind: str, **attrs: Any) -> Callable[..., Any]:
    """Call a Paddle function; where it refuses legacy variables, append the operator it stands for."""

    def call(*tensors: Any) -> Any:
        try:
            return function(*tensors)
        except TypeError as error:
            if 'must be Value' not in str(error):
                raise
        slots = ('X', 'Y')
        return append(kind, dict(zip(slots, tensors)), attrs)

    return call


def append(kind: str, inputs: dict[str, Any], attrs: dict[str, Any] | None = None, result: str = 'Out') -> Any:
    """Append a legacy operator and return its result."""
    block = paddle.static.default_main_program().current_block()
    first = next(iter(inputs.values()))
    like = first[0] if isinstance(first, (list, tuple)) else first
    out = block.create_var(name=paddle.utils.unique_name.generate(kind + '.tmp'), dtype=like.dtype)
    block.append_op(type=kind, inputs=inputs, outputs={result: [out]}, attrs=attrs or {})
    return out
