"""What is checked of every quantized model that was written: its integers, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, load_array
from paddleslim_ng.errors import DataError, EquivalenceError
from paddleslim_ng.quant.formats import QuantizedFormat
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['Agreement', 'check_integers', 'compare']


@dataclass(frozen=True)
class Agreement:
    """How far the outputs of a quantized model are from those of its simulation.

    Attributes:
        difference: largest absolute difference.
        relative_difference: the same as a fraction of the largest absolute output.
        steps: the same in quantization steps, were the outputs quantized like the coarsest activation (or, where there
            is none, weight) of the model.
    """

    difference: float
    relative_difference: float
    steps: float

    def __str__(self) -> str:
        """Report in words."""
        return (
            f'outputs differ from the simulation by {self.difference:.3g}, {self.relative_difference:.3g} of their '
            f'scale ({self.steps:.2f} steps)'
        )


def check_integers(
    model: InferenceModel, expected: Mapping[str, npt.NDArray[Any]], spec: QuantizationSpec, form: QuantizedFormat
) -> dict[str, int]:
    """Check that a reloaded model has the integers that its specification makes, and count those that differ.

    Returns:
        For each weight, the number of distinct integers.

    Raises:
        EquivalenceError: a weight holds something else.
    """
    distinct = {}
    for name, codes in expected.items():
        found = load_array(model.scope, form.integers(name))
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
    simulated: InferenceModel, reloaded: InferenceModel, feed: Mapping[str, npt.NDArray[Any]], spec: QuantizationSpec
) -> Agreement:
    """Run two models on the same feed.

    Raises:
        DataError: the simulation cannot run on it.
        EquivalenceError: the outputs have other shapes, or differ by more than one step.
    """
    coarsest = min(tensor.limit for tensor in spec.of_kind('activation') or spec.of_kind('weight'))
    try:
        expected = _run(simulated, feed)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(np.shape(array)) for name, array in feed.items()}
        raise DataError(f'the program cannot run on a feed of shapes {shapes}: pass a feed that suits it') from error
    difference = relative = 0.0
    for before, after in zip(expected, _run(reloaded, feed)):
        if before.shape != after.shape:
            raise EquivalenceError(f'the saved model gives shape {after.shape}, the simulation {before.shape}')
        if not np.all(np.isfinite(before)):
            raise DataError('the simulation gives NaN or infinity on this feed: pass one that suits the program')
        if not np.all(np.isfinite(after)):
            raise EquivalenceError('the saved model gives NaN or infinity where the simulation gives numbers')
        if not before.size or np.array_equal(before, after):
            continue
        gap = float(np.max(np.abs(before.astype('float64') - after.astype('float64'))))
        scale = float(np.max(np.abs(before.astype('float64'))))
        difference, relative = max(difference, gap), max(relative, gap / scale if scale else gap)
    if relative * coarsest > 1:
        raise EquivalenceError(
            f'the saved model differs from the simulation by {difference:.3g}, {relative:.3g} of the scale of the '
            f'outputs: {relative * coarsest:.2f} quantization steps, where rounding explains one; nothing was saved'
        )
    return Agreement(difference, relative, relative * coarsest)


def _run(model: InferenceModel, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    found = Executor().run(model.program, {name: feed[name] for name in model.feeds}, model.fetches, scope=model.scope)
    return [np.asarray(output) for output in found]
