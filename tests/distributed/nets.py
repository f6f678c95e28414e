"""A small classifier, trained on parts of seeded batches by one rank or several."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleslim_ng.core import Executor, GraphWrapper, load_array, store_array
from paddleslim_ng.core.gradients import gradient_of, last_writer
from paddleslim_ng.core.insertion import Insertion, add_state

BATCH = 8
Arrays = dict[str, npt.NDArray[Any]]


class Net(NamedTuple):
    """Programs, and what is fetched."""

    main: Any
    startup: Any
    loss: Any
    scope: Any
    exe: Any


def build(minimize: Any, *, norm: bool = False, scheduler: Any = None) -> Net:
    """Build a network whose loss ``minimize`` is called with."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 1, 6, 6], 'float32')
        label = paddle.static.data('label', [-1, 1], 'int64')
        h = nn.Conv2D(1, 4, 3, weight_attr=paddle.ParamAttr(name='conv'), bias_attr=paddle.ParamAttr(name='bias'))(x)
        if norm:
            h = nn.BatchNorm2D(4)(h)
        h = paddle.flatten(F.relu(h), 1)
        h = nn.Linear(64, 5, weight_attr=paddle.ParamAttr(name='fc'), bias_attr=paddle.ParamAttr(name='fc_bias'))(h)
        loss = F.cross_entropy(h, label)
        minimize(loss)
    return Net(main, startup, loss, paddle.static.Scope(), Executor())


def momentum(rate: Any = 0.1) -> Any:
    return paddle.optimizer.Momentum(rate, 0.9, weight_decay=1e-3)


def initial(seed: int = 0) -> Arrays:
    """Return initial parameters that do not depend on Paddle."""
    random = np.random.RandomState(seed)
    shapes = {'conv': (4, 1, 3, 3), 'bias': (4,), 'fc': (64, 5), 'fc_bias': (5,)}
    return {name: (0.3 * random.randn(*shape)).astype('float32') for name, shape in shapes.items()}


def start(net: Net, parameters: Arrays | None = None) -> None:
    net.exe.run(net.startup, scope=net.scope)
    for name, array in (parameters or {}).items():
        store_array(net.scope, name, array)


def batch(step: int, rank: int = 0, size: int = 1) -> Arrays:
    """Return a rank's part of the batch of a step."""
    random = np.random.RandomState(100 + step)
    x, label = random.rand(BATCH, 1, 6, 6).astype('float32'), random.randint(0, 5, [BATCH, 1])
    part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    return {'x': x[part], 'label': label[part].astype('int64')}


def run(net: Net, step: int, rank: int = 0, size: int = 1) -> None:
    net.exe.run(net.main, feed=batch(step, rank, size), scope=net.scope)


def add_masks(net: Net) -> Arrays:
    """Mask the gradient of ``fc``, and itself behind its update; return the mask, three quarters of it zeros."""
    graph = GraphWrapper(net.main)
    fc = graph.var('fc')
    mask = add_state(graph, 'fc_mask', fc.shape(), 'float32')
    gradient = gradient_of(graph, fc)
    assert gradient is not None
    Insertion(graph, after=gradient.inputs()[-1], role='backward').op(
        'elementwise_mul', {'X': gradient, 'Y': mask}, into=gradient
    )
    graph = GraphWrapper(net.main)
    fc = graph.var('fc')
    Insertion(graph, after=last_writer(graph, fc), role='optimizer').op(
        'elementwise_mul', {'X': fc, 'Y': 'fc_mask'}, into=fc
    )
    return {'fc_mask': (np.random.RandomState(5).rand(64, 5) > 0.75).astype('float32')}


def arrays(net: Net, names: Any = None) -> Arrays:
    return {name: load_array(net.scope, name) for name in names or initial()}


def digest(found: Arrays) -> str:
    return hashlib.sha256(b''.join(found[name].tobytes() for name in sorted(found))).hexdigest()
