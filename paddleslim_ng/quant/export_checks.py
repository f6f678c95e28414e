"""What is checked of every quantized model that was written: its integers, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor
from paddleslim_ng.errors import DataError, EquivalenceError
from paddleslim_ng.quant.formats import QuantizedFormat
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['Agreement', 'check_integers', 'compare']

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """How far the outputs of a quantized model are from those of its simulation. All but ``difference`` are fractions.

    Attributes:
        difference: largest absolute difference.
        relative_difference: the same as a fraction of the largest absolute output.
        steps: the same in quantization steps, were the outputs quantized like the coarsest activation (or, where there
            is none, weight) of the model.
        from_float: how far the simulation is from the float model.
        operators: largest difference of a single operator from that of the simulation on the same inputs, integers.
    """

    difference: float
    relative_difference: float
    steps: float
    from_float: float
    operators: float

    def __str__(self) -> str:
        """Report in words."""
        return (
            f'outputs differ from the simulation by {self.difference:.3g}, {self.relative_difference:.3g} of their '
            f'scale ({self.steps:.2f} steps; each operator by {self.operators:.1g} at most), and the simulation from '
            f'float by {self.from_float:.3g}'
        )


def check_integers(
    model: InferenceModel, expected: Arrays, spec: QuantizationSpec, form: QuantizedFormat
) -> dict[str, int]:
    """Check that a reloaded model has the integers that its specification makes, and count those that differ.

    Returns:
        For each weight, the number of distinct integers.

    Raises:
        EquivalenceError: a weight holds something else.
    """
    distinct = {}
    for name, codes in expected.items():
        found = form.read(model.scope, spec.tensors[name], codes.shape)
        count = np.unique(found).size
        largest = 2 * spec.tensors[name].limit + 1
        if not np.array_equal(found, codes) or count > largest:
            raise EquivalenceError(
                f'the file holds {count} distinct values of type {found.dtype} for the weight {name!r}, which are not '
                f'the integers (at most {largest} different ones) of its quantization; nothing was saved'
            )
        distinct[name] = int(count)
    return distinct


def compare(
    original: InferenceModel,
    simulated: InferenceModel,
    reloaded: InferenceModel,
    feed: Arrays,
    spec: QuantizationSpec,
    operators: float,
) -> Agreement:
    """Run the float model, its simulation and the reloaded quantized model on the same feed.

    Rounding in floating point decides now and then between two neighbouring integers, and in a deep network what
    follows from it adds up: to one step, or to what quantization itself has changed, but not to more than twice that.

    Raises:
        EquivalenceError: the reloaded model gives other shapes, numbers that are not finite, or more than that.
        DataError: the simulation gives numbers that are not finite.
    """
    coarsest = min(tensor.limit for tensor in spec.of_kind('activation') or spec.of_kind('weight'))
    expected = _run(simulated, feed)
    if not all(np.all(np.isfinite(array)) for array in expected):
        raise DataError('the simulation gives NaN or infinity on this feed: pass one that suits the program')
    difference, relative = _distance(expected, _run(reloaded, feed), 'the saved model')
    _, from_float = _distance(expected, _run(original, feed), 'the float model')
    if relative > max(1 / coarsest, 2 * from_float):
        raise EquivalenceError(
            f'the saved model differs from the simulation by {difference:.3g}, {relative:.3g} of the scale of the '
            f'outputs: {relative * coarsest:.2f} quantization steps, and the simulation differs from the float model '
            f'by {from_float:.3g} only; nothing was saved'
        )
    return Agreement(difference, relative, relative * coarsest, from_float, operators)


def _run(model: InferenceModel, feed: Arrays) -> list[npt.NDArray[Any]]:
    found = Executor().run(model.program, {name: feed[name] for name in model.feeds}, model.fetches, scope=model.scope)
    return [np.asarray(output) for output in found]


def _distance(expected: list[npt.NDArray[Any]], found: list[npt.NDArray[Any]], which: str) -> tuple[float, float]:
    """Return the largest difference, absolute and as a fraction of the largest expected number."""
    difference = relative = 0.0
    for before, after in zip(expected, found):
        if before.shape != after.shape:
            raise EquivalenceError(f'{which} gives shape {after.shape} where the simulation gives {before.shape}')
        if not np.all(np.isfinite(after)):
            raise EquivalenceError(f'{which} gives NaN or infinity where the simulation gives numbers')
        if not before.size or np.array_equal(before, after):
            continue
        gap = float(np.max(np.abs(before.astype('float64') - after.astype('float64'))))
        scale = float(np.max(np.abs(before.astype('float64'))))
        difference, relative = max(difference, gap), max(relative, gap / scale if scale else gap)
    return difference, relative
