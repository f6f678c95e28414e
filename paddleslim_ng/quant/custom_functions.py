"""Functions of the user's in quantization-aware training: quantizers and what comes before them, such as PACT.

A function takes a Paddle variable (legacy) or value (PIR), builds what it likes with Paddle, parameters included, and
returns a variable of the same shape. It is called in a program of its own, where its argument is an input called
``<tensor>.input``, and its gradient is built there; both are then copied to where the tensor is read. So it works
before and after ``minimize`` alike. Names of what it builds, parameters included, get the tensor's name as a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, has_array, load_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError

__all__ = ['CustomFunction', 'Function', 'get_pact_optimizer', 'pact']

Function = Callable[[Any], Any]
_ARRIVING: Final = '@arriving_gradient'


def pact(x: Any, name: str | None = None) -> Any:
    """Cut a tensor off at a learned threshold (Choi et al. 2018), on both sides: an ``act_preprocess_func``.

    The threshold starts at 20, decays with 1e-4, and learns from what is cut off.

    Args:
        x: a Paddle variable or value.
        name: name of the threshold; that of ``x`` and ``_pact`` where None.

    Example:
        >>> slim.quant.quant_aware(program, place, act_preprocess_func=slim.quant.pact)
    """
    attr = paddle.ParamAttr(
        name=name or f'{GraphWrapper.name_of(x)}_pact',
        initializer=paddle.nn.initializer.Constant(20.0),
        regularizer=paddle.regularizer.L2Decay(1e-4),
    )
    threshold = paddle.static.create_parameter([1], 'float32', attr=attr)
    relu = paddle.nn.functional.relu
    x = x - relu(x - threshold)
    return x + relu(x * -1.0 - threshold)


def get_pact_optimizer() -> Any:
    """Return Momentum with a learning rate of 1e-4, for ``optimizer_func``."""
    return paddle.optimizer.Momentum(0.0001, 0.9)


class CustomFunction:
    """A function of the user's as a fake quantizer that no integers stand behind.

    Args:
        function: the function.
        x: the tensor that it is for.
        role: what the function is for: part of the names of what it builds.

    Attributes:
        learns: whether it has parameters that are trained.
        bits, axis, scale_name, count_name: None.
        initial: what the scope has to hold before the first run, by name.

    Raises:
        ConfigError: it is not callable, or does not return a variable of the shape and element type of ``x``.
    """

    bits: int | None = None
    axis: int | None = None
    scale_name: str | None = None
    count_name: str | None = None

    def __init__(self, function: Function, x: VarWrapper, role: str) -> None:
        if not callable(function):
            raise ConfigError(f'{role} must be a function, not {type(function).__name__}')
        self._prefix = f'{x.name()}.{role.removesuffix("_func")}.'
        self._input = f'{x.name()}.input'
        self.initial: dict[str, npt.NDArray[Any]] = {}
        self._parts: dict[str, list[VarWrapper]] = {}
        self._forward: dict[str, VarWrapper] = {}
        self._count = 0
        with matching_ir(x._graph.program):
            self._build(function, x, role)
        # After minimize no gradient comes by where none is needed further up; so that before it is the same, none does.
        self._stops = bool(x.raw.stop_gradient)
        self.learns = bool(self._gradients) and not self._stops

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the function; see :class:`~paddleslim_ng.quant.straight_through.FakeQuantizer`."""
        self._forward = e.here.copy(self._source, [self._result], {self._input: x}, self._prefix)
        y = self._forward[self._result]
        if self._stops:
            y.raw.stop_gradient = True
        return y

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Build the gradient of ``x``, and parts of those of the function's parameters."""
        known = {**self._forward, _ARRIVING: gradient}
        wanted = [
            *(self._gradients.values() if self.learns else ()),
            *([self._slope] if self._slope is not None else []),
        ]
        made = e.here.copy(self._source, wanted, known, f'{self._prefix}gradient_{self._count}.')
        self._count += 1
        for name, grad in self._gradients.items() if self.learns else ():
            self._parts.setdefault(self._prefix + name, []).append(made[grad])
        return made[self._slope] if self._slope is not None else e.scale(gradient, 0.0)

    def parameter_gradients(self, e: Expressions) -> dict[str, VarWrapper]:
        """Add up the parts of the gradients of the parameters; see :class:`LearnedQuantizer`."""
        found = {}
        for name, parts in self._parts.items():
            total = parts[0]
            for part in parts[1:]:
                total = e.add(total, part)
            found[name] = total
        return found

    def _build(self, function: Function, x: VarWrapper, role: str) -> None:
        program, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        with paddle.static.program_guard(program, startup), paddle.utils.unique_name.guard():
            given = paddle.static.data(self._input, list(x.shape()), x.dtype())
            given.stop_gradient = False
            result = _checked(function(given), x, role)
            names = self._name_parameters(program)
            arriving = paddle.static.data(_ARRIVING, list(x.shape()), x.dtype())
            graph = GraphWrapper(program)
            inputs = [given, *(graph.var(name).raw for name in names)]
            slopes = paddle.static.gradients([result], inputs, [arriving])
        self._source = GraphWrapper(program)
        self._result = GraphWrapper.name_of(result)
        found = [None if slope is None else GraphWrapper.name_of(slope) for slope in slopes]
        self._slope = found[0]
        self._gradients = {name: grad for name, grad in zip(names, found[1:]) if grad is not None}
        paddle.static.Executor(paddle.CPUPlace()).run(startup, scope=scope)
        kept = [var.name() for var in self._source.vars() if var.is_parameter() or var.persistable()]
        self.initial = {self._prefix + name: load_array(scope, name) for name in kept if has_array(scope, name)}

    @staticmethod
    def _name_parameters(program: Any) -> list[str]:
        """Return the names of the parameters that are trained."""
        graph = GraphWrapper(program)
        return [var.name() for var in graph.all_parameters() if not var.raw.stop_gradient]


def _checked(result: Any, x: VarWrapper, role: str) -> Any:
    try:
        shape, dtype = list(result.shape), result.dtype
    except AttributeError as error:
        raise ConfigError(f'{role} must return a variable, not {type(result).__name__}') from error
    if len(shape) != len(x.shape()) or any(-1 not in pair and pair[0] != pair[1] for pair in zip(shape, x.shape())):
        raise ConfigError(f'{role} returned the shape {shape} for {x!r}: it must keep the shape')
    if dtype != x.raw.dtype:
        raise ConfigError(f'{role} returned {dtype} for {x!r} of {x.dtype()}: it must keep the element type')
    return result
