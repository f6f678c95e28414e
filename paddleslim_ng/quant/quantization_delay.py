"""Fake quantization that has no effect until a number of training steps was taken (PocketFlow's ``quant_delay``).

Until then the program computes what the float program computes, bit for bit, while scales follow the data already. The
steps are counted in the graph, in a persistable tensor, so that training loops and checkpoints need not know.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion, add_state
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.aware_types import AwareQuantizer
from paddleslim_ng.quant.learned_quantizers import Learner

__all__ = ['DELAY_STEPS', 'DelayedQuantizer', 'QuantizationDelay']

DELAY_STEPS: Final = 'quant_delay.steps'
# float32 counts up to here by ones.
_MOST: Final = 2**24


class QuantizationDelay:
    """The counter of one training program.

    Args:
        delay: number of steps that are taken without quantization.

    Attributes:
        initial: what the scope has to hold before the first run, by name.

    Raises:
        ConfigError: ``delay`` is no whole number from 0 to 2**24.
    """

    def __init__(self, delay: int) -> None:
        if isinstance(delay, bool) or not isinstance(delay, int) or not 0 <= delay <= _MOST:
            raise ConfigError(f'quant_delay must be a number of steps from 0 to {_MOST}, not {delay!r}')
        self._delay = delay
        self.initial: dict[str, npt.NDArray[np.float32]] = {DELAY_STEPS: np.zeros([1], np.float32)}

    def is_over(self, e: Expressions) -> VarWrapper:
        """Return 1 once so many steps were taken, before that 0."""
        return e.at_most(e.constant(self._delay), self._steps(e.here.graph))

    def count(self, graph: GraphWrapper) -> None:
        """Build the counting at the end of a program; clones for test drop it. The count ends with the delay."""
        with matching_ir(graph.program):
            steps = self._steps(graph)
            e = Expressions(Insertion(graph, role='optimizer'))
            following = e.here.op('elementwise_min', {'X': e.scale(steps, 1.0, 1.0), 'Y': e.constant(self._delay)})
            e.here.op('assign', {'X': following}, into=steps)

    @staticmethod
    def _steps(graph: GraphWrapper) -> VarWrapper:
        if graph.has_var(DELAY_STEPS):
            return graph.var(DELAY_STEPS)
        return add_state(graph, DELAY_STEPS, [1], 'float32')


class DelayedQuantizer:
    """A fake quantizer that passes its tensor on as it is until a delay is over, and its gradient with it.

    ``y = a * f(x) + (1 - a) * x``, where ``a`` is 0 or 1.

    Args:
        inner: any fake quantizer; its state follows the data from the first step on.
        delay: the counter, which all quantizers of a program share.
    """

    def __init__(self, inner: AwareQuantizer, delay: QuantizationDelay) -> None:
        self._inner = inner
        self._delay = delay
        self._over: VarWrapper | None = None
        self.initial: dict[str, npt.NDArray[np.float32]] = {}

    def __getattr__(self, name: str) -> Any:
        """Return bits, axis, names and what else belongs to the quantizer within."""
        return getattr(self._inner, name)

    def parameter_gradients(self, e: Expressions) -> dict[str, VarWrapper]:
        """Return the gradients of the parameters of the quantizer within."""
        return self._inner.parameter_gradients(e) if isinstance(self._inner, Learner) else {}

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the quantizer; see :class:`~paddleslim_ng.quant.straight_through.FakeQuantizer`."""
        quantized = self._inner.forward(e, x)
        self.initial = {**self._inner.initial, **self._delay.initial}
        self._over = self._delay.is_over(e)
        return e.add(e.scale_by(quantized, self._over), e.scale_by(x, self._rest(e)))

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Build the gradient of ``x``."""
        over = self._over if self._over is not None else self._delay.is_over(e)
        passed = self._inner.backward(e, x, y, e.scale_by(gradient, over))
        return e.add(passed, e.scale_by(gradient, self._rest(e)))

    def _rest(self, e: Expressions) -> VarWrapper:
        over = self._over if self._over is not None else self._delay.is_over(e)
        return e.scale(over, -1.0, 1.0)
