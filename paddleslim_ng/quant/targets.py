"""Which operators are quantized, through which slots, and along which axis of their weight: rows of a table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.teachers import distillation_of, teacher_of
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names

__all__ = ['FULL', 'TARGETS', 'Target', 'TargetOperator', 'Targets', 'find_targets']

_SHAPING: Final = frozenset({'assign', 'cast', 'reshape2', 'squeeze2', 'transpose2', 'unsqueeze2'})
_FLOATS: Final = frozenset({'float16', 'bfloat16', 'float32', 'float64'})


class Target(NamedTuple):
    """How an operator type is quantized.

    Attributes:
        slots: inputs that are quantized.
        weight: the one of them that holds a parameter, or None.
        axis: axis of the weight along which its scales differ, counted from the end where negative.
    """

    slots: tuple[str, ...]
    weight: str | None = None
    axis: int | None = None


# The filter of a transposed convolution is [in, out / groups, height, width]: where it is grouped, the groups share the
# scales of the output channels in the same place.
TARGETS: Final[Mapping[str, Target]] = {
    'conv2d': Target(('Input', 'Filter'), 'Filter', 0),
    'depthwise_conv2d': Target(('Input', 'Filter'), 'Filter', 0),
    'conv2d_transpose': Target(('Input', 'Filter'), 'Filter', 1),
    'depthwise_conv2d_transpose': Target(('Input', 'Filter'), 'Filter', 1),
    'mul': Target(('X', 'Y'), 'Y', -1),
    'matmul': Target(('X', 'Y'), 'Y', -1),
    'matmul_v2': Target(('X', 'Y'), 'Y', -1),
}
# Taken by full quantization only, and only where no input is a parameter.
FULL: Final[Mapping[str, Target]] = {
    **{type: Target(('X', 'Y')) for type in ('bmm', 'matmul', 'matmul_v2', 'mul')},
    **{type: Target(('X', 'Y')) for type in ('elementwise_add', 'elementwise_mul', 'elementwise_sub')},
    **{type: Target(('X',)) for type in ('concat', 'flatten_contiguous_range', 'pool2d', 'reshape2', 'transpose2')},
    **{type: Target(('X',)) for type in ('hard_swish', 'leaky_relu', 'relu', 'relu6', 'sigmoid', 'softmax', 'swish')},
    **{type: Target(('X',)) for type in ('bilinear_interp_v2', 'nearest_interp_v2', 'reduce_mean', 'split')},
    'slice': Target(('Input',)),
}
_CONVOLUTIONS: Final = frozenset(type for type, row in TARGETS.items() if row.weight == 'Filter')
_TRANSPOSED: Final = {'matmul': 'transpose_Y', 'matmul_v2': 'trans_y'}


@dataclass(frozen=True)
class TargetOperator:
    """An operator that is quantized.

    Attributes:
        op: the operator.
        output: name of its first output.
        activations: names of the tensors that it reads quantized and that are no parameters.
        weight: name of the parameter that it reads quantized, or None.
        axis: axis of the weight along which its scales differ, counted from 0, or None.
    """

    op: OpWrapper
    output: str
    activations: tuple[str, ...]
    weight: str | None = None
    axis: int | None = None

    @property
    def input_axis(self) -> int | None:
        """Axis of the weight along which its inputs lie, counted from 0; None where it has no channels."""
        if self.axis is None or self.weight is None:
            return None
        slot = TARGETS[self.op.type()].weight
        rank = len(self.op.inputs(str(slot))[0].shape())
        return 1 - self.axis if self.op.type() in _CONVOLUTIONS else 2 * rank - 3 - self.axis

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors that it reads quantized."""
        return self.activations if self.weight is None else (*self.activations, self.weight)


@dataclass(frozen=True)
class Targets:
    """The operators of a program that are quantized.

    Attributes:
        operators: in program order.
        skipped: by the name of the first output, for every operator of the types asked for that is not quantized, why.
    """

    operators: tuple[TargetOperator, ...]
    skipped: Mapping[str, str]

    @property
    def activations(self) -> list[str]:
        """Names of the tensors to calibrate, each once, in the order of their first reader."""
        return list(dict.fromkeys(name for operator in self.operators for name in operator.activations))

    @property
    def weights(self) -> dict[str, int | None]:
        """``{parameter: axis along which its scales differ}``, None where its readers have different ones."""
        found: dict[str, set[int | None]] = {}
        for operator in self.operators:
            if operator.weight is not None:
                found.setdefault(operator.weight, set()).add(operator.axis)
        return {name: axes.pop() if len(axes) == 1 else None for name, axes in found.items()}


def find_targets(
    program: Any,
    *,
    types: Collection[str] | None = None,
    full: bool = False,
    skip_tensor_list: Iterable[str] = (),
    not_quant_pattern: Iterable[str] = ('skip_quant',),
) -> Targets:
    """Find the operators of a program that can be quantized.

    Backward and optimizer operators are passed over. Skipped, with the reason: merged teachers and distillation losses,
    what the user excludes, and operators that the table does not cover as they stand there.

    Args:
        program: a program of either IR, or a GraphWrapper.
        types: canonical types of operators; those of :data:`TARGETS` where None, and of :data:`FULL` if ``full``.
        full: take the types of :data:`FULL`, too.
        skip_tensor_list: names of tensors; operators that read one of them stay in float.
        not_quant_pattern: an operator stays in float if one of these is part of the name of its scope
            (``paddle.static.name_scope`` on legacy programs, the path of its layer on PIR, where Paddle drops the name
            scope), of its output, or of a parameter that it reads.

    Returns:
        The operators, and what was skipped.

    Raises:
        ConfigError: a type that no row covers; the known ones are listed.
        GraphError: a skipped tensor that does not exist.
    """
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    wanted = _wanted(types, full)
    rules = _Rules(_existing(graph, skip_tensor_list), _patterns(not_quant_pattern), full)
    operators, skipped = [], {}
    for op in graph.ops():
        if op.type() not in wanted or op.is_bwd_op() or op.is_opt_op():
            continue
        found = _judge(op, rules)
        if isinstance(found, str):
            skipped[_output(op)] = found
        else:
            operators.append(found)
    return Targets(tuple(operators), skipped)


class _Rules(NamedTuple):
    tensors: frozenset[str]
    patterns: tuple[str, ...]
    full: bool


def _wanted(types: Collection[str] | None, full: bool) -> frozenset[str]:
    known = {**TARGETS, **FULL} if full else TARGETS
    if types is None:
        return frozenset(known)
    for type in [types] if isinstance(types, str) else types:
        if type not in known:
            more = '; it is taken by full quantization only' if type in FULL else nearest_names(type, known)
            raise ConfigError(f'operators of type {type!r} cannot be quantized; known: {", ".join(known)}{more}')
    return frozenset([types] if isinstance(types, str) else types)


def _existing(graph: GraphWrapper, names: Iterable[str]) -> frozenset[str]:
    found = frozenset([names] if isinstance(names, str) else names)
    missing = sorted(name for name in found if not graph.has_var(name))
    if missing:
        every = [var.name() for var in graph.vars()]
        raise GraphError(f'skip_tensor_list names {missing[0]!r}, which is no tensor{nearest_names(missing[0], every)}')
    return found


def _patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns or ())
    if '' in found:
        raise ConfigError('not_quant_pattern holds an empty string, which is part of every name')
    return found


def _judge(op: OpWrapper, rules: _Rules) -> TargetOperator | str:
    """Return the operator as it is quantized, or the reason why it is not."""
    reason = _excluded(op, rules)
    if reason is not None:
        return reason
    row = TARGETS.get(op.type())
    if row is not None and row.weight is not None and _is_constant(op.inputs(row.weight)):
        return _with_weight(op, row)
    if rules.full and op.type() in FULL:
        return _without_weight(op, FULL[op.type()])
    slot = row.weight if row is not None else None
    known = ' (full quantization takes products of activations)' if op.type() in FULL else ''
    return f'its input {slot!r} is no parameter{known}'


def _excluded(op: OpWrapper, rules: _Rules) -> str | None:
    teacher, loss = teacher_of(op), distillation_of(op)
    if teacher is not None:
        return f'it belongs to the merged teacher {teacher!r}'
    if loss is not None:
        return f'it belongs to the distillation loss {loss!r}'
    named = [var.name() for var in op.all_inputs() if var.name() in rules.tensors]
    if named:
        return f'it reads {named[0]!r}, which skip_tensor_list names'
    places = [_scope_of(op), _output(op), *(var.name() for var in op.all_inputs() if var.is_parameter())]
    for pattern in rules.patterns:
        for place in places:
            if pattern in place:
                return f'{pattern!r} of not_quant_pattern is part of {place!r}'
    return None


def _with_weight(op: OpWrapper, row: Target) -> TargetOperator | str:
    weight = op.inputs(str(row.weight))[0]
    inputs = [var for slot in row.slots if slot != row.weight for var in op.inputs(slot)]
    obstacle = _obstacle([weight, *inputs], inputs)
    if obstacle is not None:
        return obstacle
    names = tuple(dict.fromkeys(var.name() for var in inputs))
    return TargetOperator(op, _output(op), names, weight.name(), _channel_axis(op, row, len(weight.shape())))


def _channel_axis(op: OpWrapper, row: Target, rank: int) -> int | None:
    """Return the axis of the output channels, None where a vector has but one."""
    if row.axis is None or row.axis >= 0:
        return row.axis
    if rank < 2:
        return None
    return rank - 2 if op.type() in _TRANSPOSED and op.attr(_TRANSPOSED[op.type()]) else rank + row.axis


def _without_weight(op: OpWrapper, row: Target) -> TargetOperator | str:
    inputs = [var for slot in row.slots for var in op.inputs(slot)]
    obstacle = _obstacle(inputs, inputs)
    if obstacle is not None:
        return obstacle
    return TargetOperator(op, _output(op), tuple(dict.fromkeys(var.name() for var in inputs)))


def _obstacle(read: Iterable[VarWrapper], activations: Iterable[VarWrapper]) -> str | None:
    for var in read:
        if var.dtype() not in _FLOATS:
            return f'its input {var.name()!r} holds {var.dtype()}, not floating-point numbers'
    for var in activations:
        if _is_reshaped_parameter(var):
            return f'its input {var.name()!r} is a parameter'
    return None


def _is_constant(variables: Collection[VarWrapper]) -> bool:
    return bool(variables) and all(var.is_parameter() or var.persistable() for var in variables)


def _is_reshaped_parameter(var: VarWrapper) -> bool:
    """Tell whether a tensor is a parameter in another shape, such as the bias of a convolution."""
    while True:
        makers = var.inputs()
        if len(makers) != 1 or makers[0].type() not in _SHAPING or not makers[0].inputs('X'):
            return _is_constant([var])
        var = makers[0].inputs('X')[0]


def _output(op: OpWrapper) -> str:
    return op.all_outputs()[0].name()


def _scope_of(op: OpWrapper) -> str:
    """Return the name scope (legacy) or the path of the layer (PIR) that an operator was built in."""
    key = 'struct_name' if hasattr(op.raw, 'str_attr') else 'op_namescope'
    if not op.raw.has_attr(key):
        return ''
    return str(op.raw.str_attr(key) if hasattr(op.raw, 'str_attr') else op.raw.attr(key))
