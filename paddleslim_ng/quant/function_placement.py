"""Where the tensors to quantize are once the user's functions stand before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.quant.custom_functions import CustomFunction, Function
from paddleslim_ng.quant.placement import operator_of
from paddleslim_ng.quant.straight_through import quantize_reads
from paddleslim_ng.quant.targets import Targets

__all__ = ['Functions', 'PlacedTensor', 'PlacedTensors', 'place_functions']


class Functions(NamedTuple):
    """Functions of the user's, or None: quantizers, and what tensors pass before they are quantized."""

    weight_quantize: Function | None = None
    act_quantize: Function | None = None
    weight_preprocess: Function | None = None
    act_preprocess: Function | None = None


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor to quantize.

    Attributes:
        name: its name: that of the result, where a function stands before it.
        readers: the operators that read it.
        is_weight: whether it is a parameter, or was one before a function.
        axis: axis of the channels of a weight, or None.
        quantize: function that takes the place of the quantizer, or None.
        has_integers: whether integers stand behind it when files are made.
    """

    name: str
    readers: list[OpWrapper]
    is_weight: bool
    axis: int | None
    quantize: Function | None
    has_integers: bool


class PlacedTensors(NamedTuple):
    """The tensors to quantize, and the functions that were built before them."""

    tensors: list[PlacedTensor]
    built: list[CustomFunction]


def place_functions(graph: GraphWrapper, targets: Targets, functions: Functions) -> PlacedTensors:
    """Build the functions that tensors pass before they are quantized.

    Args:
        graph: wrapped program, changed in place, and read anew.
        targets: what is quantized, found in this program or in one with the same names.
        functions: functions of the user's.

    Raises:
        ConfigError: a function that cannot be built.
        GraphError: see :func:`paddleslim_ng.quant.straight_through.quantize_reads`.
    """
    reading: dict[str, list[str]] = {}
    for target in targets.operators:
        for name in target.tensors:
            reading.setdefault(name, []).append(target.output)
    weights = targets.weights
    names: dict[str, str] = {}
    built = []
    for name, outputs in reading.items():
        function = functions.weight_preprocess if name in weights else functions.act_preprocess
        if function is not None:
            x, readers = graph.var(name), [operator_of(graph, output) for output in outputs]
            role = 'weight_preprocess_func' if name in weights else 'act_preprocess_func'
            custom = CustomFunction(function, x, role)
            names[name] = quantize_reads(graph, x, readers, custom, stays=True).name()
            built.append(custom)
    if built:
        graph._reindex()
    tensors = []
    for name, outputs in reading.items():
        is_weight = name in weights
        quantize = functions.weight_quantize if is_weight else functions.act_quantize
        tensors.append(
            PlacedTensor(
                names.get(name, name),
                [operator_of(graph, output) for output in outputs],
                is_weight,
                weights.get(name),
                quantize,
                quantize is None and not (is_weight and name in names),
            )
        )
    return PlacedTensors(tensors, built)
