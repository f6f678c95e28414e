"""From thresholds of activations to the whole quantization of a program."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Union

import paddle

from paddleslim_ng.core import GraphWrapper, clone_program, view_array
from paddleslim_ng.errors import ConfigError, DataError, nearest_names
from paddleslim_ng.quant.groups import check_group_size
from paddleslim_ng.quant.placement import users_by_name
from paddleslim_ng.quant.quantizers import abs_max_scale, scale_of_threshold
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization, largest_integer
from paddleslim_ng.quant.targets import TargetOperator, Targets, find_targets

__all__ = ['WEIGHT_TYPES', 'spec_from_thresholds', 'without_shared_weights']

Bits = Union[int, Mapping[str, int]]

# PaddleSlim's names of how the scales of weights are chosen -> whether every output channel has its own.
WEIGHT_TYPES: Final[Mapping[str, bool]] = {'abs_max': False, 'channel_wise_abs_max': True}


@dataclass(frozen=True)
class _Request:
    graph: GraphWrapper
    scope: Any
    thresholds: Mapping[str, float] | None
    weight_bits: Bits
    activation_bits: Bits
    by_channel: bool
    group_size: int | None


def spec_from_thresholds(
    program: Any,
    thresholds: Mapping[str, float] | None,
    *,
    scope: Any = None,
    weight_bits: Bits = 8,
    activation_bits: Bits = 8,
    weight_quantize_type: str = 'channel_wise_abs_max',
    group_size: int | None = None,
    quantizable_op_type: Collection[str] | None = None,
    is_full_quantize: bool = False,
    skip_tensor_list: Iterable[str] = (),
    not_quant_pattern: Iterable[str] = ('skip_quant',),
) -> QuantizationSpec:
    """Return the quantization of every operator that can be quantized and whose activations have a threshold.

    Args:
        program: a program of either IR, or a GraphWrapper; what is trained of it is passed over.
        thresholds: by tensor, the largest magnitude that is kept; what is beyond is cut off. 0 says that the tensor is
            always zero, which stays exact. None quantizes weights alone.
        scope: weights; Paddle's global scope where None.
        weight_bits: width of the integers, 2 to 16: of all weights, or by name.
        activation_bits: the same for activations.
        weight_quantize_type: one of :data:`WEIGHT_TYPES`: one scale for a weight, or for each of its output channels.
            Scales are those of the largest magnitude.
        group_size: give every so many neighbouring inputs of each output channel a scale of their own; channels of no
            more inputs have one.
        quantizable_op_type: types of operators; see :func:`paddleslim_ng.quant.find_targets` for this and what follows.
        is_full_quantize: quantize operators without weights, too.
        skip_tensor_list: operators that read one of these tensors stay in float.
        not_quant_pattern: operators with such a name stay in float.

    Returns:
        The quantization. Its ``skipped`` says of each operator of these types that stays in float, why.

    Raises:
        ConfigError: a type, or a number of bits, that does not exist.
        DataError: a threshold or weight that is not finite; the message names it.
        GraphError: the scope lacks a weight, or the program a tensor that is to be skipped.

    Example:
        >>> spec = spec_from_thresholds(program, {'x': 2.5, 'relu_0.tmp_0': 6.0}, weight_bits=4)
    """
    if weight_quantize_type not in WEIGHT_TYPES:
        near = nearest_names(weight_quantize_type, WEIGHT_TYPES)
        raise ConfigError(f'unknown weight_quantize_type {weight_quantize_type!r}; known: {list(WEIGHT_TYPES)}{near}')
    if group_size is not None and not WEIGHT_TYPES[weight_quantize_type]:
        raise ConfigError(f'group_size goes with scales by channel, not with {weight_quantize_type!r}')
    graph = GraphWrapper(clone_program(getattr(program, 'program', program), for_test=True))
    request = _Request(
        graph,
        scope if scope is not None else paddle.static.global_scope(),
        thresholds,
        weight_bits,
        activation_bits,
        WEIGHT_TYPES[weight_quantize_type],
        check_group_size(group_size) if group_size is not None else None,
    )
    targets = find_targets(
        graph,
        types=quantizable_op_type,
        full=is_full_quantize,
        skip_tensor_list=skip_tensor_list,
        not_quant_pattern=not_quant_pattern,
    )
    return _spec(_narrowed(targets, request), request)


def _narrowed(targets: Targets, request: _Request) -> Targets:
    """Leave out the operators without thresholds, and those whose weights have to stay as they are for others."""
    kept: list[TargetOperator] = []
    skipped = dict(targets.skipped)
    for target in targets.operators:
        reason = _obstacle(target, request)
        if reason is None:
            kept.append(target)
        else:
            skipped[target.output] = reason
    return without_shared_weights(kept, skipped, request.graph)


def _obstacle(target: TargetOperator, request: _Request) -> str | None:
    for name in target.tensors:
        if request.graph.var(name).dtype() != 'float32':
            return f'{name!r} holds {request.graph.var(name).dtype()}, and only float32 is quantized'
    if request.thresholds is None:
        return None if target.weight is not None else 'only weights are quantized, and it has none'
    for name in target.activations:
        if name not in request.thresholds:
            return f'its input {name!r} has no threshold'
        if len(request.graph.var(name).inputs()) > 1:
            return f'its input {name!r} is written more than once'
    return None


def without_shared_weights(kept: list[TargetOperator], skipped: dict[str, str], graph: GraphWrapper) -> Targets:
    """Leave out the operators whose weight another operator needs in float; what that leaves may leave more.

    Args:
        kept: operators of ``graph`` to quantize.
        skipped: gets the others, with the reason.
        graph: a wrapped program.
    """
    users = users_by_name(graph)
    while True:
        readers: dict[str, set[int]] = {}
        for target in kept:
            if target.weight is not None:
                readers.setdefault(target.weight, set()).add(target.op.idx())
        others = {name: [op for op in users[name] if op.idx() not in known] for name, known in readers.items()}
        doomed = [target for target in kept if target.weight is not None and others[target.weight]]
        if not doomed:
            return Targets(tuple(kept), skipped)
        for target in doomed:
            other = others[str(target.weight)][0]
            skipped[target.output] = f'its weight {target.weight!r} is used in float by {other.type()}, too'
        kept = [target for target in kept if target.output not in skipped]


def _spec(targets: Targets, request: _Request) -> QuantizationSpec:
    tensors: dict[str, TensorQuantization] = {}
    for name in targets.activations if request.thresholds is not None else ():
        tensors[name] = _activation(name, request)
    inputs = {target.weight: target.input_axis for target in targets.operators}
    for name, axis in targets.weights.items():
        tensors[name] = _weight(name, axis if request.by_channel else None, inputs[name], request)
    operators = {
        target.output: tuple(name for name in target.tensors if name in tensors) for target in targets.operators
    }
    return QuantizationSpec(tensors, operators, targets.skipped)


def _activation(name: str, request: _Request) -> TensorQuantization:
    threshold = float((request.thresholds or {})[name])
    if not (math.isfinite(threshold) and threshold >= 0):
        raise DataError(f'the threshold of {name!r} is {threshold}: it must be finite and not negative')
    bits = bits_of(request.activation_bits, name, 'activation_bits')
    return TensorQuantization(name, bits, scale_of_threshold(threshold, bits))


def _weight(name: str, axis: int | None, inputs: int | None, request: _Request) -> TensorQuantization:
    bits = bits_of(request.weight_bits, name, 'weight_bits')
    groups: dict[str, Any] = {}
    array = view_array(request.scope, name)
    size = request.group_size
    if size is not None and axis is not None and inputs is not None and size < array.shape[inputs]:
        groups = {'group_axis': inputs, 'group_size': size}
    try:
        scale = abs_max_scale(array, bits, axis, **groups)
    except DataError as error:
        raise DataError(f'the weight {name!r} cannot be quantized: {error}') from error
    return TensorQuantization(name, bits, scale, axis, kind='weight', **groups)


def bits_of(bits: Bits, name: str, argument: str) -> int:
    """Return the width for a tensor of what is given for all, or by name.

    Raises:
        ConfigError: there is none for it, or it is no width; the message calls what was given by ``argument``.
    """
    if isinstance(bits, Mapping):
        if name not in bits:
            raise ConfigError(f'{argument} has no entry for {name!r}{nearest_names(name, bits)}')
        bits = bits[name]
    largest_integer(bits)
    return int(bits)
