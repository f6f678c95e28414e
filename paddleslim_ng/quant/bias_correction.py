"""Bias correction: what rounding adds to the mean of a layer's outputs is taken off its bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper, load_array, store_array
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.layer_biases import LayerBias, find_bias, output_axis, with_biases
from paddleslim_ng.quant.placement import operator_of, own_scope, users_by_name
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.stored_tensors import StoredTensors, kept_feeds
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['CorrectedModel', 'correct_biases']

Means = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CorrectedModel:
    """What :func:`correct_biases` returns.

    Attributes:
        model: the float model with corrected biases, in a scope of its own.
        spec: its quantization: that which was given, but for the names of sums with new biases.
        corrections: by the name of a layer's output, what was added to its bias, one number for each channel.
        inserted: the layers that had no bias and got one.
        skipped: for each quantized layer that was not corrected, why.
        error_before: mean square of the error of the quantized model's outputs on the calibration data, as a fraction
            of the mean square of the outputs.
        error_after: the same with corrected biases.
    """

    model: InferenceModel
    spec: QuantizationSpec
    corrections: Mapping[str, npt.NDArray[np.float32]]
    inserted: tuple[str, ...]
    skipped: Mapping[str, str]
    error_before: float
    error_after: float

    def __str__(self) -> str:
        """Report in words."""
        return (
            f'{len(self.corrections)} biases corrected, {len(self.inserted)} of them new, {len(self.skipped)} not: '
            f'relative error of the outputs {self.error_before:.3g} -> {self.error_after:.3g}'
        )


def correct_biases(
    model: InferenceModel,
    spec: QuantizationSpec,
    feeds: Iterable[Feed],
    *,
    target: InferenceModel | None = None,
    place: Any = None,
) -> CorrectedModel:
    """Add to every bias the mean, over calibration data, of the float layer's outputs minus the quantized layer's.

    Empirical bias correction (Nagel et al., 2019), on the bias itself, channel by channel. Layers are taken in program
    order, and each sees the inputs that the corrected layers before it make, so that errors of weights, of activations
    and of what came before are all in the difference: afterwards, on this data, every layer's outputs have the means of
    the float model. A layer without a bias gets one.

    Args:
        model: the float model, with batch norm folded as a rule; it is left as it is.
        spec: its quantization.
        feeds: calibration data, kept in memory with the tensors between two layers.
        target: the same program with other parameters, whose means are wanted: what ``model`` was before its weights
            were reconstructed. ``model`` itself where None.
        place: device; the CPU where None.

    Raises:
        DataError: no batch, one that the program cannot run on, or outputs that are not finite.
        GraphError: a batch lacks an input, or ``spec`` does not fit.

    Example:
        >>> corrected = slim.quant.correct_biases(model, spec, feeds)
        >>> slim.quant.export_quantized(corrected.model.program, corrected.spec, 'int8/model', *corrected.model[1:])
    """
    batches = kept_feeds(feeds, model.feeds)
    layers, absent, skipped = _layers(model, spec)
    changed, fitting = with_biases(model, spec, absent) if absent else (_copy(model), spec)
    graph = GraphWrapper(changed.program)
    users, kept = users_by_name(graph), [GraphWrapper.name_of(item) for item in changed.fetches]
    simulated = simulate(changed.program, fitting, changed.scope)
    running = changed._replace(program=simulated.program, scope=simulated.scope)
    exact = StoredTensors(target if target is not None else model, batches, place)
    rounded = StoredTensors(running, batches, place)
    expected = [GraphWrapper.name_of(item) for item in model.fetches]
    before = _error(exact, StoredTensors(running, batches, place), expected, kept)
    corrections = {}
    for place_in_order, output in enumerate(layers):
        op = operator_of(graph, output)
        bias = find_bias(op, kept, users)
        if not isinstance(bias, LayerBias):
            skipped[output] = str(bias)
            continue
        correction = _means(exact, output, op) - _means(rounded, output, op)
        corrections[output] = correction.astype(np.float32)
        _add(changed.scope, simulated.scope, bias.parameter.name(), correction)
        exact.keep_for([*layers[place_in_order + 1 :], *expected])
        rounded.keep_for([*layers[place_in_order + 1 :], *kept])
    after = _error(exact, rounded, expected, kept)
    return CorrectedModel(changed, fitting, corrections, tuple(absent), skipped, before, after)


def _error(exact: StoredTensors, rounded: StoredTensors, names: list[str], counterparts: list[str]) -> float:
    """Return the relative mean square error of outputs over all batches."""
    expected, found = exact.compute(names), rounded.compute(counterparts)
    gap = energy = 0.0
    for name, counterpart in zip(names, counterparts):
        for one, two in zip(expected[name], found[counterpart]):
            gap += float(np.square(one.astype(np.float64) - two).sum())
            energy += float(np.square(one, dtype=np.float64).sum())
    return gap / energy if energy else gap


def _layers(model: InferenceModel, spec: QuantizationSpec) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the layers to correct in program order, those of them without a bias, and why others are skipped."""
    graph = GraphWrapper(model.program)
    users, kept = users_by_name(graph), [GraphWrapper.name_of(item) for item in model.fetches]
    layers: list[OpWrapper] = []
    absent, skipped = [], {}
    for output, reads in spec.operators.items():
        if not any(spec.tensors[name].kind == 'weight' for name in reads):
            continue
        op = operator_of(graph, output)
        bias = find_bias(op, kept, users)
        if isinstance(bias, str):
            skipped[output] = bias
            continue
        layers.append(op)
        if bias is None:
            absent.append(output)
    ordered = [op.all_outputs()[0].name() for op in sorted(layers, key=lambda op: op.idx())]
    return ordered, absent, skipped


def _copy(model: InferenceModel) -> InferenceModel:
    return model._replace(scope=own_scope(GraphWrapper(model.program), model.scope, {}))


def _means(stored: StoredTensors, output: str, op: OpWrapper) -> Means:
    """Return the mean of a layer's outputs for each channel, every image counting alike."""
    axis = output_axis(op)
    total, count = np.zeros(1), 0
    for array in stored.compute([output])[output]:
        others = tuple(n for n in range(array.ndim) if n != axis)
        total = total + array.sum(axis=others, dtype=np.float64)
        count += array.size // array.shape[axis or 0]
    found: Means = total / count
    return found


def _add(scope: Any, simulated: Any, name: str, correction: Means) -> None:
    before = load_array(scope, name)
    after = (before + correction.reshape(before.shape)).astype(before.dtype)
    for home in (scope, simulated):
        store_array(home, name, after)
