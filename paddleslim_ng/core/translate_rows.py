"""PIR operators whose legacy counterpart is more than the same operator with its slots and attributes renamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import OpWrapper
from paddleslim_ng.core.pir_vocabulary import constant_value
from paddleslim_ng.core.translate_op import dtype_attribute, translate_directly
from paddleslim_ng.core.translation_plan import TranslationPlan, UntranslatableError

__all__ = ['ROWS', 'RowFunction']

RowFunction = Callable[[OpWrapper, TranslationPlan], None]


def _cast(op: OpWrapper, plan: TranslationPlan) -> None:
    source, target = op.inputs('X')[0], op.outputs('Out')[0]
    kinds = {'in_dtype': dtype_attribute(source), 'out_dtype': dtype_attribute(target)}
    translate_directly(op, plan, attrs=kinds)


def _constant(op: OpWrapper, plan: TranslationPlan) -> None:
    out = op.outputs('Out')[0]
    value = op.attr('value')
    attrs = {
        'shape': [int(n) for n in op.attr('shape') or []],
        'dtype': dtype_attribute(out),
        'value': float(value),
        'str_value': repr(value) if isinstance(value, float) else str(int(value)),
    }
    plan.add('fill_constant', {}, {'Out': [plan.name(out)]}, attrs)


def _constant_vector(op: OpWrapper, plan: TranslationPlan) -> None:
    out = op.outputs('Out')[0]
    values = np.asarray(constant_value(op.raw), 'int64')
    attrs = paddle_compat.literal_attributes(values, dtype_attribute(out))
    plan.add('assign_value', {}, {'Out': [plan.name(out)]}, attrs)


def _literal(op: OpWrapper, plan: TranslationPlan) -> None:
    out = op.outputs('Out')[0]
    values = [paddle_compat.plain_number(value) for value in op.attr('values')]
    if 'int' in out.dtype() and any(abs(value) > 2**53 for value in values):
        raise UntranslatableError('PIR shows integers beyond 2**53 inexactly')
    kind = np.dtype(out.dtype()).type if out.dtype() != 'bfloat16' else np.float32
    attrs = {
        'shape': op.attr('shape'),
        'dtype': dtype_attribute(out),
        'values': [kind(value).item() for value in values],
    }
    plan.add('assign_value', {}, {'Out': [plan.name(out)]}, attrs)


def _set_value(op: OpWrapper, plan: TranslationPlan) -> None:
    translate_directly(op, plan, attrs={'dtype': dtype_attribute(op.inputs('Input')[0])})


def _range(op: OpWrapper, plan: TranslationPlan) -> None:
    """The legacy operator makes the element type that it is given."""
    out = op.outputs('Out')[0]
    inputs = {slot: [plan.cast(op.inputs(slot)[0], out.dtype())] for slot in ('Start', 'End', 'Step')}
    plan.add('range', inputs, {'Out': [plan.name(out)]})


def _shape(op: OpWrapper, plan: TranslationPlan) -> None:
    """Legacy ``shape`` makes int32 where PIR may make int64."""
    source, out = op.inputs('Input')[0], op.outputs('Out')[0]
    if out.dtype() == 'int32':
        plan.add('shape', {'Input': [plan.name(source)]}, {'Out': [plan.name(out)]})
        return
    sizes = plan.new(plan.name(out) + '.int32', out.shape(), 'int32')
    plan.add('shape', {'Input': [plan.name(source)]}, {'Out': [sizes]})
    plan.add_cast(sizes, 'int32', plan.name(out), out.dtype())


def _strided_slice(op: OpWrapper, plan: TranslationPlan) -> None:
    """Paddle's shape inference ends the process where the flags are missing."""
    translate_directly(op, plan, attrs={'infer_flags': [1] * len(op.attr('axes'))})


def _sum(op: OpWrapper, plan: TranslationPlan) -> None:
    kinds = {'in_dtype': -1, 'out_dtype': -1}
    if op.attr('dtype'):
        kinds = {'in_dtype': dtype_attribute(op.inputs('X')[0]), 'out_dtype': dtype_attribute(op.outputs('Out')[0])}
    translate_directly(op, plan, attrs=kinds, replaces=('dtype',))


def _clip(op: OpWrapper, plan: TranslationPlan) -> None:
    """The legacy operator wants its bounds as attributes even where variables give them."""
    translate_directly(op, plan, attrs={name: op.attr(name) or 0.0 for name in ('min', 'max')})


def _rnn(op: OpWrapper, plan: TranslationPlan) -> None:
    """The legacy operator makes the state of its dropout itself."""
    translate_directly(op, plan, omits=('DropoutStateIn',))


ROWS: Mapping[str, RowFunction] = {
    'cast': _cast,
    'full': _constant,
    'full_int_array': _constant_vector,
    'arange': _range,
    'assign_value': _literal,
    'clip': _clip,
    'rnn': _rnn,
    'set_value': _set_value,
    'set_value_with_tensor': _set_value,
    'shape': _shape,
    'strided_slice': _strided_slice,
    'sum': _sum,
    'shape64': _shape,
}
