"""Unary functions, broadcasting binary operators, and whatever works position by position."""

from __future__ import annotations

from collections.abc import Mapping

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Layout, Mark, Rule
from paddleslim_ng.prune.rules.common import (
    channel_axis,
    first_input,
    first_output,
    follow_vector,
    input_of,
    output_of,
    without_zero,
)
from paddleslim_ng.prune.rules.constants import scalar_of
from paddleslim_ng.prune.rules.sizes import pass_sizes

__all__ = ['RULES', 'broadcast']

# f(0) = 0: removed positions that were zero stay zero.
_ZERO_PRESERVING = (
    *('abs', 'angle', 'asin', 'asinh', 'atan', 'atanh', 'cast', 'ceil', 'celu', 'conj', 'elu', 'erf', 'erfinv'),
    *('expm1', 'floor', 'gelu', 'hard_shrink', 'hard_swish', 'i1', 'i1e', 'imag', 'leaky_relu', 'log1p', 'mish'),
    *('neg', 'real', 'relu', 'relu6', 'round', 'rrelu', 'selu', 'share_data', 'sign', 'silu', 'sin', 'sinh'),
    *('soft_shrink', 'softshrink', 'softsign', 'sqrt', 'square', 'stanh', 'swish', 'tan', 'tanh', 'tanh_shrink'),
    *('thresholded_relu', 'trunc'),
)
# f(0) is finite but not 0.
_OTHER = (
    *('acos', 'bitwise_not', 'cos', 'cosh', 'exp', 'hard_sigmoid', 'i0', 'i0e', 'isfinite_v2', 'isinf_v2'),
    *('isnan_v2', 'logical_not', 'logsigmoid', 'sigmoid', 'softplus'),
)
# f(0) is not finite: the zeroed original would compute NaN where the pruned program computes nothing.
_SINGULAR = (
    *('acosh', 'digamma', 'gammaln', 'lgamma', 'log', 'log10', 'log2', 'logit', 'polygamma', 'reciprocal', 'rsqrt'),
)

_SUMS = (
    'elementwise_add',
    'elementwise_sub',
    'elementwise_max',
    'elementwise_min',
    'elementwise_fmax',
    'elementwise_fmin',
)
_QUOTIENTS = ('elementwise_div', 'elementwise_mod', 'elementwise_floordiv')
_COMPARISONS = ('equal', 'not_equal', 'less_than', 'less_equal', 'greater_than', 'greater_equal')
_LOGICAL = ('logical_and', 'logical_or', 'logical_xor', 'bitwise_and', 'bitwise_or', 'bitwise_xor')


def zero_preserving(analysis: Analysis, op: OpWrapper) -> None:
    """``f(0) = 0``: the output shares the input's layout."""
    if pass_sizes(analysis, op):
        return
    layout = analysis.layout(first_input(op))
    analysis.set(first_output(op), layout)
    for noise in op.outputs('Noise'):
        analysis.auxiliary(noise)
        analysis.set(noise, layout)


def assign(analysis: Analysis, op: OpWrapper) -> None:
    """A copy; where it is written into a parameter, that follows."""
    zero_preserving(analysis, op)
    layout = analysis.layout(first_input(op))
    for target in (*op.inputs('Output'), *(var for var in op.outputs('Out') if var.is_parameter())):
        for axis, mark in layout.items():
            follow_vector(analysis, op, target, mark.labels, axis)
        fixed = [axis for axis in range(len(target.shape())) if axis not in layout]
        analysis.freeze_axes(op, target, fixed, 'is overwritten by a tensor of fixed size')


def other_unary(analysis: Analysis, op: OpWrapper) -> None:
    """``f(0)`` is some other finite value."""
    analysis.set(first_output(op), without_zero(analysis.layout(first_input(op))))


def singular_unary(analysis: Analysis, op: OpWrapper) -> None:
    """``f(0)`` is not finite, so inputs that zeroing makes zero cannot be pruned."""
    x = first_input(op)
    layout = analysis.layout(x)
    zeroed = [axis for axis, mark in layout.items() if mark.zero]
    analysis.freeze_axes(op, x, zeroed, f'{op.type()} of zero is not finite, and removed channels are zero')
    analysis.set(first_output(op), without_zero(layout))


def scale(analysis: Analysis, op: OpWrapper) -> None:
    """``a x + b``: zero stays zero where b is 0."""
    layout = analysis.layout(input_of(op, 'X'))
    analysis.set(output_of(op), layout if not op.attr('bias') else without_zero(layout))


def power(analysis: Analysis, op: OpWrapper) -> None:
    """``x ** y`` with a constant exponent."""
    exponent = op.attr('factor')
    (_power_rule(float(exponent)) if exponent is not None else singular_unary)(analysis, op)


def _power_rule(exponent: float) -> Rule:
    return zero_preserving if exponent > 0 else singular_unary if exponent < 0 else other_unary


def power_of(analysis: Analysis, op: OpWrapper) -> None:
    """``x ** y`` with a tensor for y: where x is zeroed, y must be known."""
    x, y = input_of(op, 'X'), input_of(op, 'Y')
    exponent = scalar_of(y)
    if exponent is not None:
        _power_rule(exponent)(analysis, op)
        return
    zeroed = [axis for axis, mark in analysis.layout(x).items() if mark.zero]
    analysis.freeze_axes(op, x, zeroed, 'zero to a computed power may not be finite, and removed channels are zero')
    analysis.set(output_of(op), broadcast(analysis, op, [x, y], 'none'))


def clip(analysis: Analysis, op: OpWrapper) -> None:
    """Clipping keeps zero where the bounds enclose it."""
    names = ('t_min', 't_max') if op.type() == 'brelu' else ('min', 'max')
    low, high = op.attr(names[0]), op.attr(names[1])
    encloses = low is not None and high is not None and float(low) <= 0.0 <= float(high)
    (zero_preserving if encloses else other_unary)(analysis, op)


def dropout(analysis: Analysis, op: OpWrapper) -> None:
    """Dropped or not, zero stays zero; the mask follows."""
    layout = analysis.layout(input_of(op, 'X'))
    analysis.set(output_of(op), layout)
    for mask in op.outputs('Mask'):
        analysis.auxiliary(mask)
        analysis.set(mask, without_zero(layout))


def prelu(analysis: Analysis, op: OpWrapper) -> None:
    """Slopes per channel or per element follow the channels; one slope for all follows nothing."""
    x, alpha, mode = input_of(op, 'X'), input_of(op, 'Alpha'), str(op.attr('mode'))
    layout = analysis.layout(x)
    if mode == 'channel':
        axis = channel_axis(op, len(x.shape()))
        if axis in layout:
            size = x.shape()[axis]
            own = next((a for a, n in enumerate(alpha.shape()) if n == size), 0)
            follow_vector(analysis, op, alpha, layout[axis].labels, own)
    elif mode == 'element':
        for axis, mark in layout.items():
            follow_vector(analysis, op, alpha, mark.labels, axis)
    analysis.set(output_of(op), layout)


def binary(analysis: Analysis, op: OpWrapper) -> None:
    """Sums, products, quotients and comparisons with Paddle's broadcasting."""
    x, y = op.all_inputs()[:2]
    kind = op.type()
    if kind in _QUOTIENTS:
        zeroed = [axis for axis, mark in analysis.layout(y).items() if mark.zero]
        analysis.freeze_axes(op, y, zeroed, 'removed channels of the divisor are zero')
    analysis.set(output_of(op), broadcast(analysis, op, [x, y], _zero_rule(kind)))


def _zero_rule(kind: str) -> str:
    if kind == 'elementwise_mul':
        return 'any'
    if kind in _QUOTIENTS:
        return 'first'
    return 'all' if kind in _SUMS else 'none'


def broadcast(analysis: Analysis, op: OpWrapper, group: list[VarWrapper], zero: str) -> Layout:
    """Align operands as Paddle broadcasts them, unite labels that meet, and return the result's layout.

    Args:
        analysis: labels so far.
        op: the operator, for messages and its ``axis`` attribute.
        group: operands.
        zero: when the result is zero at removed positions: ``'all'`` operands must be (sums), ``'any'`` one (products),
            the ``'first'`` (quotients), or ``'none'``.
    """
    if len(group) == 2 and group[0] is group[1]:
        layout = analysis.layout(group[0])
        return layout if zero != 'none' else without_zero(layout)
    rank = max(len(var.shape()) for var in group)
    offsets = [_offset(op, var, rank) for var in group]
    marks: dict[int, list[tuple[int, Mark]]] = {}
    for index, var in enumerate(group):
        for axis, mark in analysis.layout(var).items():
            marks.setdefault(axis + offsets[index], []).append((index, mark))
    result: dict[int, Mark] = {}
    for axis, found in marks.items():
        labels = found[0][1].labels
        for _, mark in found[1:]:
            analysis.unite(labels, mark.labels)
        carriers = {index for index, _ in found}
        for index, var in enumerate(group):
            own = axis - offsets[index]
            if index not in carriers and own >= 0 and own < len(var.shape()) and var.shape()[own] != 1:
                analysis.freeze(labels, op, f'meets {var.name()}, whose size is fixed', var, own)
        zeros = {index for index, mark in found if mark.zero}
        keeps = {'all': len(zeros) == len(group), 'any': bool(zeros), 'first': 0 in zeros, 'none': False}[zero]
        result[axis] = Mark(labels, keeps)
    first = analysis.layout(group[0])
    if len(result) == len(first) and all(axis in first and first[axis] == mark for axis, mark in result.items()):
        return first
    return result


def _offset(op: OpWrapper, var: VarWrapper, rank: int) -> int:
    """Return where the first axis of an operand lies in the result."""
    own = len(var.shape())
    axis = op.attr('axis') if op.type().startswith('elementwise_') else None
    if own < rank and axis is not None and int(axis) >= 0:
        return int(axis)
    return rank - own


def where(analysis: Analysis, op: OpWrapper) -> None:
    """Both branches and the condition meet position by position."""
    condition, x, y = input_of(op, 'Condition'), input_of(op, 'X'), input_of(op, 'Y')
    zeros = {axis for axis, mark in analysis.layout(x).items() if mark.zero}
    zeros &= {axis for axis, mark in analysis.layout(y).items() if mark.zero}
    layout = broadcast(analysis, op, [x, y, condition], 'none')
    same_rank = len(x.shape()) == len(y.shape()) == len(output_of(op).shape())
    analysis.set(output_of(op), {a: Mark(m.labels, same_rank and a in zeros) for a, m in layout.items()})


def interpolate(analysis: Analysis, op: OpWrapper) -> None:
    """``x + weight * (y - x)``."""
    x, y, weight = op.all_inputs()
    sums = broadcast(analysis, op, [x, y], 'all')
    layout = broadcast(analysis, op, [x, y, weight], 'none')
    zeros = {axis for axis, mark in sums.items() if mark.zero and len(weight.shape()) <= len(x.shape())}
    analysis.set(first_output(op), {axis: Mark(mark.labels, axis in zeros) for axis, mark in layout.items()})


def masked_fill(analysis: Analysis, op: OpWrapper) -> None:
    """Some positions take a given value."""
    analysis.set(first_output(op), broadcast(analysis, op, op.all_inputs(), 'none'))


def add_n(analysis: Analysis, op: OpWrapper) -> None:
    """A sum of several tensors."""
    analysis.set(output_of(op), broadcast(analysis, op, op.inputs('X'), 'all'))


def fill_like(analysis: Analysis, op: OpWrapper) -> None:
    """A constant tensor in the shape of another."""
    layout = analysis.layout(first_input(op))
    value = 0.0 if op.type() == 'fill_zeros_like' else op.attr('value')
    analysis.set(output_of(op), layout if value is not None and float(value) == 0.0 else without_zero(layout))


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ZERO_PRESERVING, zero_preserving),
    **dict.fromkeys(_OTHER, other_unary),
    **dict.fromkeys(_SINGULAR, singular_unary),
    **dict.fromkeys((*_SUMS, *_QUOTIENTS, *_COMPARISONS, *_LOGICAL), binary),
    **dict.fromkeys(('elementwise_mul', 'elementwise_heaviside', 'atan2'), binary),
    'elementwise_pow': power_of,
    'assign': assign,
    'scale': scale,
    'pow': power,
    'clip': clip,
    'brelu': clip,
    'dropout': dropout,
    'prelu': prelu,
    'where': where,
    'lerp': interpolate,
    'masked_fill': masked_fill,
    'sum': add_n,
    'fill_any_like': fill_like,
    'fill_zeros_like': fill_like,
}
