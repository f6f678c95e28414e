"""How far a quantized model is from the float model: by its outputs, or by a metric of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import DataError
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.runtime import InferenceModel

__all__ = ['MetricDistance', 'OutputDistance']


class OutputDistance:
    """The relative distance of outputs: the root of the mean square difference over that of the float outputs.

    The mean over the outputs of the model. 0 is the float model; that of a model that gives zeros is 1.

    Args:
        model: the float model.
        feeds: what is compared on.
        place: device; the CPU where None.
    """

    def __init__(self, model: InferenceModel, feeds: Sequence[Feed], place: Any = None) -> None:
        self._feeds = list(feeds)
        self._runner = Executor(place)
        self._expected = self._run(model)

    def __call__(self, model: InferenceModel) -> float:
        """Return the distance of a model with the same outputs.

        Raises:
            DataError: its outputs are not finite.
        """
        pairs = zip(zip(*self._expected), zip(*self._run(model)))
        return float(np.mean([_relative(before, after) for before, after in pairs]))

    def _run(self, model: InferenceModel) -> list[list[npt.NDArray[Any]]]:
        rows = []
        for batch, feed in enumerate(self._feeds, start=1):
            given = {name: feed[name] for name in model.feeds}
            found = self._runner.run(model.program, given, model.fetches, scope=model.scope)
            rows.append([np.asarray(output).astype(np.float64) for output in found])
            if not all(np.isfinite(output).all() for output in rows[-1]):
                raise DataError(f'outputs are not finite on batch {batch} of the evaluation data')
        return rows


def _relative(before: Sequence[npt.NDArray[Any]], after: Sequence[npt.NDArray[Any]]) -> float:
    difference = sum(float(np.square(one - two).sum()) for one, two in zip(before, after))
    size = sum(float(np.square(one).sum()) for one in before)
    return float(np.sqrt(difference / size)) if size else float(np.sqrt(difference))


class MetricDistance:
    """The relative distance of a metric: ``|quantized - float| / |float|``, as PaddleSlim has it.

    Args:
        function: ``function(executor, program, feed names, fetch targets)`` returns a number; the parameters are in
            the scope that is Paddle's global one during the call.
        executor: what it is given; one for the CPU where None.
        model: the float model.
    """

    def __init__(self, function: Callable[..., Any], executor: Any, model: InferenceModel) -> None:
        self._function = function
        self._executor = executor if executor is not None else Executor()
        self.of_float = self._value(model)

    def __call__(self, model: InferenceModel) -> float:
        """Return the distance of a model.

        Raises:
            DataError: the metric is not finite.
        """
        gap = abs(self._value(model) - self.of_float)
        return gap / abs(self.of_float) if self.of_float else gap

    def _value(self, model: InferenceModel) -> float:
        program, feeds, fetches, scope = model
        with paddle.static.scope_guard(scope), matching_ir(program):
            value = float(np.asarray(self._function(self._executor, program, list(feeds), list(fetches))).reshape(()))
        if not np.isfinite(value):
            raise DataError(f'eval_function returned {value}: it must be a finite number')
        return value
