"""What a runtime computes in a quantized model, whole and layer by layer, beside what Paddle computes in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.quant.blocks import find_blocks
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.error_figures import ErrorSums
from paddleslim_ng.quant.layer_runs import RuntimeFunction, run_part
from paddleslim_ng.quant.local_agreement import Step, independent_groups
from paddleslim_ng.quant.placement import operator_of
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['Layer', 'LayerComparison', 'Whole', 'largest_difference', 'layers_of']

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A part of the program that is compared by itself, see :class:`~paddleslim_ng.quant.LayerError`."""

    output: str
    inputs: tuple[str, ...]
    operators: tuple[str, ...]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Whole:
    """Errors by tensor, and the outputs of each batch."""

    sums: Mapping[str, ErrorSums]
    outputs: list[list[Array]]


def layers_of(model: InferenceModel, spec: QuantizationSpec) -> list[Layer]:
    """Return the quantized layers of a model: whole blocks where operators make up one, else operators alone."""
    graph = GraphWrapper(model.program)
    here = QuantizationSpec(
        spec.tensors, {name: reads for name, reads in spec.operators.items() if graph.has_var(name)}, {}
    )
    found = {
        operator: Layer(block.output, block.inputs, block.operators, block.weights)
        for block in find_blocks(graph, here, model.fetches)
        for operator in block.operators
    }
    weights = {tensor.name for tensor in spec.of_kind('weight')}
    for name, reads in here.operators.items():
        if name not in found:
            inputs = tuple(var.name() for var in operator_of(graph, name).all_inputs() if not var.persistable())
            found[name] = Layer(name, inputs, (name,), tuple(read for read in reads if read in weights))
    unique = {layer.output: layer for name in here.operators for layer in [found[name]]}
    return list(unique.values())


class LayerComparison:
    """Runs the quantized program on the runtime, and the float one in Paddle's executor."""

    def __init__(
        self,
        exact: InferenceModel,
        quantized: InferenceModel,
        feeds: Sequence[Feed],
        runtime: RuntimeFunction,
        place: Any,
    ) -> None:
        self._exact, self._quantized = exact, quantized
        self._feeds, self._runtime = feeds, runtime
        self._runner = Executor(place)

    def whole(self, names: Sequence[str]) -> Whole:
        """Compare tensors of the whole model."""
        exact = self._in_float(names)
        found = run_part(self._quantized, self._quantized.feeds, names, self._feeds, self._runtime)
        count = len(self._exact.fetches)
        return Whole(_sums(names, exact, found), [row[:count] for row in found])

    def layers(self, layers: Sequence[Layer]) -> dict[str, ErrorSums]:
        """Compare layers, each of which is fed what it reads in float."""
        sums: dict[str, ErrorSums] = {}
        for group in independent_groups(Step(layer.output, layer.inputs) for layer in layers):
            inputs = list(dict.fromkeys(name for step in group for name in step.inputs))
            outputs = [step.output for step in group]
            rows = self._in_float([*inputs, *outputs])
            feeds = [dict(zip(inputs, row)) for row in rows]
            found = run_part(self._quantized, inputs, outputs, feeds, self._runtime)
            sums.update(_sums(outputs, [row[len(inputs) :] for row in rows], found))
        return sums

    def _in_float(self, names: Sequence[str]) -> list[list[Array]]:
        program, inputs, _, scope = self._exact
        rows = []
        for feed in self._feeds:
            given = {name: feed[name] for name in inputs}
            computed = [name for name in names if name not in given]
            arrays = self._runner.run(program, given, computed, scope=scope) if computed else []
            values = {**given, **dict(zip(computed, map(np.asarray, arrays)))}
            rows.append([np.asarray(values[name]) for name in names])
        return rows


def _sums(
    names: Sequence[str], exact: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]
) -> dict[str, ErrorSums]:
    sums = {name: ErrorSums() for name in names}
    for before, after in zip(exact, found):
        for name, a, b in zip(names, before, after):
            sums[name].add(name, a, b)
    return sums


def largest_difference(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> float:
    """Return how far arrays are from others, relative to the largest magnitude of each."""
    worst = 0.0
    for first, second in zip(before, after):
        for a, b in zip(first, second):
            scale = float(np.max(np.abs(a), initial=0.0))
            worst = max(worst, float(np.max(np.abs(a - b), initial=0.0)) / (scale or 1.0))
    return worst
