"""What the quantizers of low-bit research share: which layers they take, and what becomes of program and scope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, load_array, store_array, view_array
from paddleslim_ng.errors import DataError, GraphError
from paddleslim_ng.quant.buckets import Buckets
from paddleslim_ng.quant.low_bit_layers import (
    FLOAT_BITS,
    LowBitSettings,
    activation_reads,
    bits_by_layer,
    plan_layers,
    weight_reads,
)
from paddleslim_ng.quant.storage import StorageReport, TensorStorage, float_storage
from paddleslim_ng.quant.straight_through import FakeQuantizer, check_reads, quantize_reads, quantized_name
from paddleslim_ng.quant.targets import TargetOperator
from paddleslim_ng.quant.uniform_grids import UniformGrid

__all__ = ['LowBitLayer', 'LowBitProgram', 'WeightForm', 'apply_low_bit']

# A weight of which at least this fraction is exactly zero was pruned.
_SPARSE: Final = 0.05
Array = npt.NDArray[Any]


class WeightForm(FakeQuantizer, Protocol):
    """A fake quantizer of a weight that can be computed in numpy, too."""

    def values(self, array: Array, scope: Any) -> npt.NDArray[np.float32]:
        """Return what the program makes of the weight."""

    def side_bits(self) -> int:
        """Return the bits of all that decodes the codes."""

    def backward_to(self, gradient: Array, array: Array, scope: Any) -> dict[str, Array]:
        """Return the gradients, in numpy, of what learns: ``''`` for the weight itself, else a name in the scope."""


class LowBitLayer(NamedTuple):
    """A quantized weight.

    Attributes:
        weight: name of the parameter.
        bits: of a code.
        buckets: parts with a range or codebook of their own.
        keep_zeros: whether zeros stay exactly zero.
        outputs: first outputs of the operators that read it.
        form: how it is quantized.
    """

    weight: str
    bits: int
    buckets: Buckets
    keep_zeros: bool
    outputs: tuple[str, ...]
    form: WeightForm


@dataclass(frozen=True)
class LowBitProgram:
    """What ``apply`` returns.

    Attributes:
        program: the program, which was changed in place.
        layers: its quantized weights, in program order.
        activations: names of its quantized activations.
        report: storage of its parameters.
    """

    program: Any
    layers: tuple[LowBitLayer, ...]
    activations: tuple[str, ...]
    report: StorageReport

    def values(self, scope: Any = None) -> dict[str, npt.NDArray[np.float32]]:
        """Return the quantized weights as the program computes them from what a scope holds now, by name.

        Raises:
            GraphError: the scope lacks a weight or codebook.
            DataError: a weight is not finite.
        """
        found = scope if scope is not None else paddle.static.global_scope()
        return {layer.weight: layer.form.values(load_array(found, layer.weight), found) for layer in self.layers}

    def finish(self, scope: Any = None, place: Any = None) -> StorageReport:
        """Put the quantized weights into the scope for good, so that any float program of these weights has them.

        This program computes the same afterwards, except for what float rounds in the last place.

        Args:
            scope: Paddle's global scope where None.
            place: device of the weights.

        Returns:
            Storage of all parameters.

        Raises:
            GraphError: the scope lacks a weight or codebook; nothing is changed then.
            DataError: a weight is not finite; nothing is changed then.
        """
        found = scope if scope is not None else paddle.static.global_scope()
        for name, array in self.values(found).items():
            store_array(found, name, array, place)
        return self.report


def apply_low_bit(
    program: Any, scope: Any, settings: LowBitSettings, form_of: FormOf
) -> tuple[GraphWrapper, LowBitProgram]:
    """Insert the quantizers of a program's weights and activations.

    Args:
        program: of either IR, or a GraphWrapper; changed in place.
        scope: holds the weights.
        settings: what is quantized.
        form_of: makes the quantizer of a weight.

    Returns:
        The wrapped program, and what was done.

    Raises:
        GraphError: the program is quantized already, a gradient operator is not found, or the scope lacks a weight.
        ConfigError: nothing is left to quantize, or ``weight_bits`` does not name exactly what is.
        DataError: a weight is not finite.
    """
    graph = GraphWrapper(program)
    if any(quantized_name(op) for op in graph.ops()):
        raise GraphError('the program has fake quantizers already: apply a quantizer to the program before that')
    plan = plan_layers(graph, settings)
    bits = bits_by_layer(settings.weight_bits, plan)
    before = float_storage(graph)
    layers = [_layer(name, *found, bits[name], scope, settings, form_of) for name, found in plan.weights.items()]
    activations = activation_reads(graph) if settings.activation_bits != FLOAT_BITS else {}
    wanted = [
        (var, readers, layer.form)
        for layer in layers
        for var, readers in weight_reads(plan.weights[layer.weight].operators)
    ]
    wanted += [(var, readers, UniformGrid(settings.activation_bits)) for var, readers in activations.values()]
    for item in wanted:
        check_reads(graph, *item)
    for item in wanted:
        quantize_reads(graph, *item)
    return graph, LowBitProgram(graph.program, tuple(layers), tuple(activations), _report(before, layers, plan.skipped))


class FormOf(Protocol):
    """Makes the quantizer of a weight."""

    def __call__(self, name: str, array: Array, bits: int, buckets: Buckets, *, keep_zeros: bool) -> WeightForm:
        """Return it; ``array`` is what the scope holds."""


def _layer(
    name: str,
    axis: int | None,
    operators: list[TargetOperator],
    bits: int,
    scope: Any,
    settings: LowBitSettings,
    form_of: FormOf,
) -> LowBitLayer:
    array = view_array(scope, name)
    if not np.isfinite(array).all():
        raise DataError(f'the weight {name!r} cannot be quantized: it has NaN or infinity')
    shape = next(var for var in operators[0].op.all_inputs() if var.name() == name).shape()
    if array.shape != shape:
        raise GraphError(f'the scope has {name!r} in shape {array.shape}, the program in shape {shape}')
    keep = settings.keep_zeros
    if keep is None:
        keep = bool(np.mean(array == 0) >= _SPARSE)
    buckets = Buckets.of(shape, settings.bucket, axis, settings.bucket_size)
    form = form_of(name, array, bits, buckets, keep_zeros=keep)
    return LowBitLayer(name, bits, buckets, keep, tuple(operator.output for operator in operators), form)


def _report(
    found: dict[str, TensorStorage], layers: Iterable[LowBitLayer], skipped: Mapping[str, str]
) -> StorageReport:
    for layer in layers:
        before = found[layer.weight]
        found[layer.weight] = TensorStorage(
            before.name,
            before.shape,
            layer.bits,
            layer.buckets.count,
            layer.form.side_bits(),
            before.float_bits,
            'zeros are kept' if layer.keep_zeros else '',
        )
    return StorageReport(tuple(found.values()), dict(skipped))
