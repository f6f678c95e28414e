"""Whether every quantized operator of a program computes what that of its simulation computes, each for itself.

Compared from end to end, two deep networks that round alike drift apart: the last bit of a sum decides on which side of
a half an activation falls, and what follows differs by a step. So each operator is given the same inputs in both
programs, from the grid that integers stand for, where no last bit decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper, cut_program
from paddleslim_ng.errors import EquivalenceError
from paddleslim_ng.quant.placement import operator_of
from paddleslim_ng.quant.quantizers import fake_quantize
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['Step', 'check_operators', 'independent_groups']

Arrays = Mapping[str, npt.NDArray[Any]]
_TOLERANCE = 1e-4


class Step(NamedTuple):
    """A part of a program that is run alone.

    Attributes:
        output: name of the tensor that it makes.
        inputs: names of the tensors that it reads.
    """

    output: str
    inputs: tuple[str, ...]


def check_operators(
    simulated: InferenceModel, quantized: InferenceModel, part: GraphWrapper, feed: Arrays, spec: QuantizationSpec
) -> float:
    """Run every quantized operator in both programs on the same inputs.

    Args:
        simulated: the simulation.
        quantized: the quantized program, with the names of the float program.
        part: the float program.
        feed: of the simulation, which gives the inputs.
        spec: what is quantized.

    Returns:
        The largest difference of an operator's outputs, as a fraction of the largest of them.

    Raises:
        EquivalenceError: it is more than rounding of floating-point numbers explains; the message names the operator.
    """
    worst = 0.0
    for group in _groups(part, spec):
        names = list(dict.fromkeys(name for operator in group for name in operator.inputs))
        outputs = [operator.output for operator in group]
        inputs = _on_grid(simulated, names, feed, spec)
        expected, found = (_run(model, names, outputs, inputs) for model in (simulated, quantized))
        for name, before, after in zip(outputs, expected, found):
            worst = max(worst, _difference(name, before, after))
    return worst


def _groups(part: GraphWrapper, spec: QuantizationSpec) -> Iterator[list[Step]]:
    return independent_groups(
        Step(output, tuple(var.name() for var in operator_of(part, output).all_inputs() if not var.persistable()))
        for output in spec.operators
    )


def independent_groups(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Yield groups of steps none of which reads what another one of the same group makes; one run serves a group."""
    pending = list(steps)
    while pending:
        group: list[Step] = []
        read: set[str] = set()
        made: set[str] = set()
        for step in pending:
            if step.output not in read and not made.intersection(step.inputs):
                group.append(step)
                read.update(step.inputs)
                made.add(step.output)
        yield group
        pending = [step for step in pending if step.output not in made]


def _on_grid(model: InferenceModel, names: list[str], feed: Arrays, spec: QuantizationSpec) -> dict[str, Any]:
    given = {name: feed[name] for name in model.feeds}
    computed = [name for name in names if name not in given]
    arrays = Executor().run(model.program, given, computed, scope=model.scope) if computed else []
    values = {**given, **dict(zip(computed, map(np.asarray, arrays)))}
    return {
        name: fake_quantize(values[name], spec.tensors[name]) if name in spec.tensors else values[name]
        for name in names
    }


def _run(model: InferenceModel, names: list[str], outputs: list[str], inputs: Arrays) -> list[npt.NDArray[Any]]:
    part = cut_program(model.program, names, outputs)
    return [np.asarray(array) for array in Executor().run(part, inputs, outputs, scope=model.scope)]


def _difference(name: str, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    if before.shape != after.shape:
        raise EquivalenceError(
            f'the quantized operator that makes {name!r} gives shape {after.shape}, not {before.shape}'
        )
    if not before.size:
        return 0.0
    gap = float(np.max(np.abs(before.astype('float64') - after.astype('float64'))))
    scale = float(np.max(np.abs(before.astype('float64'))))
    relative = gap / scale if scale else gap
    if not relative <= _TOLERANCE:
        raise EquivalenceError(
            f'the quantized operator that makes {name!r} is off by {gap:.3g}, {relative:.3g} of its outputs, on '
            'inputs that are exact integers in both: its scale, bits or axis are not those of the simulation; nothing '
            'was saved'
        )
    return relative
