"""Narrow networks, and their quantization with thresholds that cut nothing off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.core.ir_mode import ir_mode

F = paddle.nn.functional


class Net(NamedTuple):
    """A program with its parameters, and a feed."""

    program: Any
    feeds: list[str]
    fetches: list[Any]
    scope: Any
    feed: dict[str, Any]

    @property
    def model(self) -> tuple[Any, list[str], list[Any], Any]:
        """What calls that take an inference program want, in their order."""
        return self.program, self.feeds, self.fetches, self.scope

    def run(self, *fetches: Any) -> list[Any]:
        """Run the program in test mode."""
        return run(self.program, self.scope, self.feed, list(fetches) or self.fetches)


def run(program: Any, scope: Any, feed: Any, fetches: Any) -> list[Any]:
    """Run a program in test mode."""
    test = slim.core.clone_program(program, for_test=True)
    return [np.asarray(array) for array in slim.Executor().run(test, feed, fetches, scope=scope)]


def build(body: Callable[[Any], Any], shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Net:
    """Build ``body(x)``, which returns one output or several, with seeded parameters and plausible statistics."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    main.random_seed = startup.random_seed = seed + 1
    with (
        paddle.static.program_guard(main, startup),
        paddle.static.scope_guard(scope),
        paddle.utils.unique_name.guard(),
    ):
        out = body(paddle.static.data('x', [None, *shape], 'float32'))
        paddle.static.Executor(paddle.CPUPlace()).run(startup)
    random = np.random.default_rng(seed)
    graph = GraphWrapper(main)
    positive = {var.name() for op in graph.ops() for slot in ('Scale', 'Variance') for var in op.inputs(slot)}
    for var in graph.all_parameters():
        if len(var.shape()) == 1:
            low = 0.5 if var.name() in positive else -0.3
            store_array(scope, var.name(), random.uniform(low, low + 0.8, var.shape()).astype('float32'))
    feed = {'x': random.standard_normal((2, *shape)).astype('float32')}
    return Net(main, ['x'], list(out) if isinstance(out, tuple) else [out], scope, feed)


def conv_body(x: Any) -> Any:
    """Every kind of convolution, a residual sum and a product, with batch norm or bias."""
    x = F.relu(paddle.nn.BatchNorm2D(8)(paddle.nn.Conv2D(3, 8, 3, padding=1, bias_attr=False)(x)))
    x = F.relu(paddle.nn.Conv2D(8, 8, 3, padding=1, groups=8)(x))
    y = F.relu(paddle.nn.Conv2D(8, 16, 1)(x))
    y = y + F.relu(paddle.nn.Conv2D(16, 16, 1)(y))
    y = F.adaptive_avg_pool2d(y, 1)
    return paddle.nn.Linear(16, 10)(paddle.flatten(y, 1))


def conv_net() -> Net:
    """Return the network of :func:`conv_body`."""
    return build(conv_body)


def thresholds(net: Net, **options: Any) -> dict[str, float]:
    """Return the largest magnitudes of what the quantizable operators read."""
    names = slim.quant.find_targets(net.program, **options).activations
    return {name: float(np.abs(array).max()) for name, array in zip(names, net.run(*names))}


def spec_of(net: Net, **options: Any) -> slim.quant.QuantizationSpec:
    """Quantize a network; options are those of ``spec_from_thresholds``."""
    return slim.quant.spec_from_thresholds(net.program, thresholds(net), scope=net.scope, **options)


def state_of(net: Net) -> dict[str, Any]:
    """Return the parameters in a network's scope."""
    return {var.name(): load_array(net.scope, var.name()) for var in GraphWrapper(net.program).all_parameters()}


def assert_untouched(net: Net, ops: str, state: dict[str, Any]) -> None:
    """Check that a network is what ``repr(ops)`` and :func:`state_of` said before."""
    assert repr(GraphWrapper(net.program).ops()) == ops
    after = state_of(net)
    assert after.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(after[name], array)


def operators(program: Any, kind: str) -> list[Any]:
    """Return the operators of a type."""
    return [op for op in GraphWrapper(program).ops() if op.type() == kind]


def paddle_kernel(kind: str, arrays: dict[str, Any], attrs: dict[str, Any]) -> Any:
    """Run one legacy operator of Paddle on arrays by slot, ``X`` first; return its result."""
    scope = paddle.static.Scope()
    with ir_mode(pir=False):
        program = paddle.static.Program()
        block = program.global_block()
        with paddle.static.program_guard(program):
            paddle.static.data('X', list(arrays['X'].shape), str(arrays['X'].dtype))
        for name in list(arrays)[1:]:
            store_array(scope, name, arrays[name])
            block.create_parameter(name=name, shape=list(arrays[name].shape), dtype=str(arrays[name].dtype))
        block.create_var(name='Y', shape=[-1], dtype='float32')
        known = {item.name for item in slim.core.paddle_compat.operator_proto(kind).attrs}
        block.append_op(
            type=kind,
            inputs={name: [name] for name in arrays},
            outputs={'Y': ['Y']},
            attrs={key: value for key, value in attrs.items() if key in known},
        )
    return np.asarray(slim.Executor().run(program, {'X': arrays['X']}, ['Y'], scope=scope)[0])
