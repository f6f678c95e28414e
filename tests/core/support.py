"""What the tests of ``core`` share: how programs are built, and what a configuration of Paddle refuses to build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from paddleslim_ng.core import is_pir_program

LEGACY_OF_3 = not paddle.__version__.startswith('2.') and not paddle.framework.in_pir_mode()


class Net(NamedTuple):
    """A program, its startup program, and the variables of interest."""

    main: Any
    startup: Any
    vars: dict[str, Any]


@contextmanager
def refusals_skip() -> Iterator[None]:
    """Skip where Paddle 3 itself refuses to build a legacy graph; its functions bind to PIR only."""
    try:
        yield
    except (TypeError, AttributeError) as error:
        if LEGACY_OF_3:
            pytest.skip(f'Paddle refuses: {str(error).strip()[:80]}')
        raise


def build(make: Callable[[Any], dict[str, Any]], shape: tuple[int, ...] = (-1, 4, 8, 8)) -> Net:
    """Build a program over one input ``x`` in a name space of its own."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    with (
        refusals_skip(),
        paddle.static.program_guard(main, startup),
        paddle.utils.unique_name.guard(),
    ):
        found = make(paddle.static.data('x', list(shape), 'float32'))
    return Net(main, startup, found)


def small(optimizer: Callable[[], Any] | None = None, classes: int = 3) -> Net:
    """A convolutional classifier with batch norm, a depthwise convolution, a split and dropout."""

    def make(x: Any) -> dict[str, Any]:
        label = paddle.static.data('label', [-1, 1], 'int64')
        h = nn.Conv2D(4, 8, 3, weight_attr=paddle.ParamAttr(name='w'))(x)
        h = F.relu(nn.BatchNorm2D(8)(h))
        h = nn.Conv2D(8, 8, 3, groups=8, bias_attr=False)(h)
        a, b = paddle.split(h, 2, 1)
        h = F.dropout(paddle.concat([b, a], 1), 0.5)
        h = paddle.flatten(F.adaptive_avg_pool2d(h, 1), 1)
        logits = nn.Linear(8, classes)(h)
        loss = F.cross_entropy(logits, label)
        if optimizer is not None:
            optimizer().minimize(loss)
        return {'logits': logits, 'loss': loss, 'half': a}

    return build(make)


def batch(count: int = 4, seed: int = 0, shape: tuple[int, ...] = (4, 8, 8), classes: int = 3) -> dict[str, Any]:
    random = np.random.RandomState(seed)
    return {
        'x': random.rand(count, *shape).astype('float32'),
        'label': random.randint(0, classes, [count, 1]).astype('int64'),
    }


def types(graph: Any) -> list[str]:
    return [op.type() for op in graph.ops()]


def is_pir(net: Net) -> bool:
    return is_pir_program(net.main)
