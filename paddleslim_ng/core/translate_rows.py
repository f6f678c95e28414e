"""PIR operators whose legacy counterpart is more than the same operator with its slots and attributes renamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import OpWrapper
from paddleslim_ng.core.pir_vocabulary import constant_value
from paddleslim_ng.core.translate_op import dtype_attribute, translate_directly
from paddleslim_ng.core.translation_plan import TranslationPlan

__all__ = ['ROWS', 'RowFunction']

RowFunction = Callable[[OpWrapper, TranslationPlan], None]


def _cast(op: OpWrapper, plan: TranslationPlan) -> None:
    source, target = op.inputs('X')[0], op.outputs('Out')[0]
    translate_directly(op, plan, in_dtype=dtype_attribute(source), out_dtype=dtype_attribute(target))


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


def _batch_norm(op: OpWrapper, plan: TranslationPlan) -> None:
    for slot in ('Mean', 'Variance'):
        plan.alias(op.outputs(slot + 'Out')[0], op.inputs(slot)[0])
    translate_directly(op, plan)


def _shape(op: OpWrapper, plan: TranslationPlan) -> None:
    """Legacy ``shape`` makes int32 where PIR may make int64."""
    source, out = op.inputs('Input')[0], op.outputs('Out')[0]
    if out.dtype() == 'int32':
        plan.add('shape', {'Input': [plan.name(source)]}, {'Out': [plan.name(out)]})
        return
    sizes = plan.new(plan.name(out) + '.int32', out.shape(), 'int32')
    plan.add('shape', {'Input': [plan.name(source)]}, {'Out': [sizes]})
    kinds = {'in_dtype': int(paddle_compat.legacy_dtype('int32')), 'out_dtype': dtype_attribute(out)}
    plan.add('cast', {'X': [sizes]}, {'Out': [plan.name(out)]}, kinds)


ROWS: Mapping[str, RowFunction] = {
    'cast': _cast,
    'full': _constant,
    'full_int_array': _constant_vector,
    'batch_norm': _batch_norm,
    'shape': _shape,
    'shape64': _shape,
}
