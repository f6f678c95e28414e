"""Pairs of layers between which the scale of every channel can be moved, and why other layers have no partner."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.quant.channel_ranges import weight_of
from paddleslim_ng.quant.folding_patterns import WEIGHTS
from paddleslim_ng.quant.layer_biases import LayerBias, find_bias, output_axis
from paddleslim_ng.quant.placement import users_by_name

__all__ = ['EqualizedPair', 'find_pairs']

# f(s * x) = s * f(x) for every s > 0, channel by channel.
_HOMOGENEOUS: Final = frozenset({'relu', 'leaky_relu', 'pool2d', 'dropout', 'assign'})
_NOT_HOMOGENEOUS: Final[Mapping[str, str]] = {
    'relu6': 'relu6 cuts off at 6 whatever the scale; where data never reaches that, feeds= puts relu in its place',
}
_PRODUCTS: Final = frozenset({'mul', 'matmul', 'matmul_v2'})
_FLATTENING: Final = frozenset({'flatten_contiguous_range', 'flatten2', 'reshape2', 'squeeze2'})
Users = Mapping[str, list[OpWrapper]]


@dataclass(frozen=True)
class EqualizedPair:
    """Two layers, the second of which reads nothing but what the first one makes.

    Attributes:
        first: the one whose output channels are divided by factors.
        second: the one whose input channels are multiplied by them.
        bias: of the first one, or None.
        cutting: operators between them that cut off, where nothing is cut off.
    """

    first: OpWrapper
    second: OpWrapper
    bias: LayerBias | None
    cutting: tuple[OpWrapper, ...] = ()


def find_pairs(
    graph: GraphWrapper, kept: Collection[str], largest: Mapping[str, float] | None = None
) -> tuple[list[EqualizedPair], dict[str, str]]:
    """Return all pairs in program order and, by its output, for every other layer why it is not the first of one.

    Args:
        graph: an inference program.
        kept: names of its outputs.
        largest: by output of a ``relu6``, the largest value seen. Those below the cut let scales pass.
    """
    users = users_by_name(graph)
    pairs, skipped = [], {}
    for op in graph.ops():
        if op.type() in WEIGHTS and weight_of(op).is_parameter():
            found = _pair(op, kept, users, largest or {})
            if isinstance(found, str):
                skipped[op.all_outputs()[0].name()] = found
            else:
                pairs.append(found)
    return pairs, skipped


def _pair(first: OpWrapper, kept: Collection[str], users: Users, largest: Mapping[str, float]) -> EqualizedPair | str:
    bias = find_bias(first, kept, users)
    if isinstance(bias, str):
        return bias
    reason = _unusable(first, users)
    if reason is not None:
        return reason
    end = bias.result if bias is not None else first.all_outputs()[0]
    found = _next_layer(end, kept, largest)
    if isinstance(found, str):
        return found
    layer, source, cutting = found
    reason = _unusable(layer, users) or _mismatch(first, layer, source)
    return reason if reason is not None else EqualizedPair(first, layer, bias, cutting)


def _unusable(layer: OpWrapper, users: Users) -> str | None:
    weight = weight_of(layer)
    if not weight.is_parameter() or weight.dtype() != 'float32':
        return f'the weight {weight.name()!r} of {layer.type()} is no parameter in float32'
    if len(users[weight.name()]) != 1:
        return f'the weight {weight.name()!r} is used by other operators, too'
    if any(layer.attr(name) for name in ('trans_x', 'trans_y', 'transpose_X', 'transpose_Y')):
        return f'{layer.type()} transposes what it reads'
    if layer.type() in _PRODUCTS and len(weight.shape()) != 2:
        return f'the weight {weight.name()!r} of {layer.type()} is no matrix'
    return None


def _cut_of(op: OpWrapper) -> float:
    """Return where a ``relu6`` cuts off."""
    threshold = op.attr('threshold')
    return 6.0 if threshold is None else float(threshold)


def _next_layer(
    var: VarWrapper, kept: Collection[str], largest: Mapping[str, float]
) -> tuple[OpWrapper, VarWrapper, tuple[OpWrapper, ...]] | str:
    """Follow the only readers of a tensor to the next operator with weights; return it, what it reads, and cuts."""
    cutting: list[OpWrapper] = []
    while True:
        if var.name() in kept:
            return f'{var.name()!r} is an output of the program'
        readers = [op for op in var.outputs() if op.type() != 'fetch']
        if len(readers) != 1:
            return f'{var.name()!r} is read by {len(readers)} operators'
        reader = readers[0]
        if reader.type() in WEIGHTS:
            return (
                (reader, var, tuple(cutting)) if var is not weight_of(reader) else f'{var.name()!r} is used as a weight'
            )
        if reader.type() == 'relu6' and reader.all_outputs()[0].name() in largest:
            reason = _cuts_off(reader, largest[reader.all_outputs()[0].name()])
            if reason is not None:
                return f'{var.name()!r} is read by relu6: {reason}'
            cutting.append(reader)
        elif reader.type() not in _HOMOGENEOUS and not _keeps_channels(reader, var):
            why = _NOT_HOMOGENEOUS.get(reader.type(), f'the scale of its channels does not pass {reader.type()}')
            return f'{var.name()!r} is read by {reader.type()}: {why}'
        var = reader.all_outputs()[0]


def _cuts_off(op: OpWrapper, largest: float) -> str | None:
    cut = _cut_of(op)
    if largest < cut:
        return None
    return f'it cuts off at {cut:g}, which the data reaches, whatever the scale'


def _keeps_channels(op: OpWrapper, var: VarWrapper) -> bool:
    """Tell whether an operator only takes axes of size 1 from maps, so that channels become the last axis."""
    if op.type() not in _FLATTENING:
        return False
    before, after = var.shape(), op.all_outputs()[0].shape()
    return len(before) == 4 and before[2:] == (1, 1) and len(after) == 2 and after[1] == before[1]


def _mismatch(first: OpWrapper, second: OpWrapper, source: VarWrapper) -> str | None:
    axis, rank = output_axis(first), len(source.shape())
    channels = first.all_outputs()[0].shape()[axis or 0]
    if second.type() in _PRODUCTS:
        reads, place = weight_of(second).shape()[0], rank - 1
    else:
        place = rank - 1 if (second.attr('data_format') or 'NCHW').endswith('C') else 1
        reads = source.shape()[place]
    flattened = rank != len(first.all_outputs()[0].shape())
    if reads != channels or (place != axis and not flattened):
        return f'{second.type()} reads {reads} channels along axis {place}, and these are {channels} along {axis}'
    return None
