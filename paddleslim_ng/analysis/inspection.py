"""What an inference model consists of: operators, parameters, cost, zeros, bits, and channels that devices dislike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from paddleslim_ng.analysis.flops import flops
from paddleslim_ng.analysis.model_size import model_size
from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, has_array, load_array
from paddleslim_ng.errors import GraphError

__all__ = ['Inspection', 'Weight', 'inspect_model']

_PLUMBING = frozenset({'feed', 'fetch', 'shadow_output', 'builtin.shadow_output', 'builtin.parameter', 'data'})
_WEIGHT_SLOTS = {
    'conv2d': 'Filter',
    'conv2d_transpose': 'Filter',
    'depthwise_conv2d': 'Filter',
    'depthwise_conv2d_transpose': 'Filter',
}
_SCALES = ('Scale', 'Scales', 'InScale', 'ZeroPoint')
_BITS = ('bit_length', 'quant_bits')
_CHANNELS = 8


@dataclass(frozen=True)
class Weight:
    """One parameter with at least two axes.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        zeros: share of its elements that are exactly zero.
        bits: of the elements in the file, or fewer where a quantization operator says so.
    """

    name: str
    shape: tuple[int, ...]
    zeros: float
    bits: int


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_model` found.

    Attributes:
        ir: ``'pir'`` or ``'legacy'``.
        inputs: ``{name: (element type, shape)}``; -1 is open.
        outputs: ``{name: shape}``.
        operators: how many there are of each type.
        parameters: elements of all parameters.
        parameter_bytes: what they take in the scope.
        macs: multiply-accumulates of one sample; None where they cannot be counted.
        macs_obstacle: why not.
        weights: parameters with at least two axes, in program order.
        quantization: bits of the quantization operators, and how many of them have these.
        odd_channels: ``{filter: output channels}`` of convolutions whose number is no multiple of 8, on which devices
            run at a fraction of their speed.
    """

    ir: str
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[int, ...]]
    operators: dict[str, int]
    parameters: int
    parameter_bytes: int
    macs: int | None
    macs_obstacle: str
    weights: tuple[Weight, ...]
    quantization: dict[int, int]
    odd_channels: dict[str, int]

    @property
    def sparsity(self) -> float:
        """Share of the elements of all weights that are exactly zero."""
        total = sum(math.prod(weight.shape) for weight in self.weights)
        zeros = sum(round(weight.zeros * math.prod(weight.shape)) for weight in self.weights)
        return zeros / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {**asdict(self), 'sparsity': self.sparsity}


def inspect_model(
    program: Any,
    feeds: Sequence[Any],
    fetches: Sequence[Any],
    scope: Any,
    *,
    input_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Inspection:
    """Look into an inference model; the arguments are what :func:`paddleslim_ng.runtime.load_inference_model` returns.

    Args:
        program: a program of either IR.
        feeds: its inputs.
        fetches: its outputs.
        scope: its parameters.
        input_shapes: whole shapes of inputs, for the multiply-accumulates, where more than the batch is open.

    Raises:
        GraphError: an unknown input or output.

    Example:
        >>> inspect_model(*slim.runtime.load_inference_model('net')).operators['conv2d']
        53
    """
    graph = GraphWrapper(program)
    inputs, outputs = ([graph.var(item) for item in items] for items in (feeds, fetches))
    macs, obstacle = _macs(graph, input_shapes)
    stored = _stored(graph)
    arrays = {name: load_array(scope, name) for name in stored if has_array(scope, name)}
    bits = _bits_of_weights(graph)
    return Inspection(
        ir=graph.ir,
        inputs={var.name(): (var.dtype(), var.shape()) for var in inputs},
        outputs={var.name(): var.shape() for var in outputs},
        operators=dict(Counter(op.type() for op in graph.ops() if op.type() not in _PLUMBING).most_common()),
        parameters=model_size(graph),
        parameter_bytes=sum(array.nbytes for array in arrays.values()),
        macs=macs,
        macs_obstacle=obstacle,
        weights=tuple(
            Weight(name, array.shape, _share_of_zeros(array), bits.get(name, 8 * array.itemsize))
            for name, array in arrays.items()
            if array.ndim > 1 and not stored[name]
        ),
        quantization=dict(Counter(bits for op in graph.ops() for bits in [_bits(op)] if bits)),
        odd_channels=_odd_channels(graph),
    )


def _macs(graph: GraphWrapper, input_shapes: Mapping[str, Sequence[int | None]] | None) -> tuple[int | None, str]:
    try:
        return flops(graph, input_shapes=input_shapes), ''
    except GraphError as error:  # unknown products, or open sizes
        return None, str(error)


def _stored(graph: GraphWrapper) -> dict[str, bool]:
    """Return the names of the parameters that operators read, in program order, and whether they are only scales."""
    found: dict[str, bool] = {}
    for op in graph.ops():
        scales = {var.name() for slot in _SCALES for var in op.inputs(slot)} if _bits(op) else set()
        for var in op.all_inputs() if op.type() not in _PLUMBING else ():
            if var.persistable():
                found[var.name()] = found.get(var.name(), True) and var.name() in scales
    return found


def _share_of_zeros(array: Any) -> float:
    return float(1 - np.count_nonzero(array) / array.size) if array.size else 0.0


def _bits(op: OpWrapper) -> int:
    """Return the bits of a quantization operator, and 0 for others."""
    if 'quantize' not in op.type():
        return 0
    found = next((value for name in _BITS if (value := op.attr(name)) is not None), 0)
    return int(found[0] if isinstance(found, (list, tuple)) else found)


def _bits_of_weights(graph: GraphWrapper) -> dict[str, int]:
    """Return the bits of quantized parameters: operators quantize these, or scale what was computed with them."""
    found = {}
    for op in graph.ops():
        if not _bits(op):
            continue
        for var in op.inputs('X'):
            makers = var.inputs() if op.attr('quant_bits') is not None else []
            for source in (var, *(item for maker in makers for item in maker.all_inputs())):
                if source.persistable() and len(source.shape()) > 1:
                    found[source.name()] = _bits(op)
    return found


def _odd_channels(graph: GraphWrapper) -> dict[str, int]:
    found = {}
    for op in graph.ops():
        slot = _WEIGHT_SLOTS.get(op.type())
        outputs = op.outputs('Output') if slot else []
        channels = outputs[0].shape()[_channel_axis(op)] if outputs and len(outputs[0].shape()) == 4 else 0
        if slot and channels > 0 and channels % _CHANNELS:
            found[_weight_name(op.inputs(slot)[0])] = channels
    return found


def _channel_axis(op: OpWrapper) -> int:
    return 3 if op.attr('data_format') == 'NHWC' else 1


def _weight_name(var: VarWrapper) -> str:
    """Return the name of the parameter that a filter is, or that quantization operators make it from."""
    while not var.persistable() and var.inputs() and var.inputs()[0].inputs('X'):
        var = var.inputs()[0].inputs('X')[0]
    return var.name()
