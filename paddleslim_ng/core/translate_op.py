"""One PIR operator as a legacy one, by the table of :mod:`paddleslim_ng.core.op_rows` and Paddle's own declarations.

Slots and attributes already speak legacy names through the wrapper. What is left is to find, for every operand, result
and attribute, its place in the declaration of the legacy operator, and to refuse where something has none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import OpWrapper, VarWrapper
from paddleslim_ng.core.legacy_protos import (
    AttributeDeclaration,
    OperatorDeclaration,
    SlotDeclaration,
    declaration_of,
)
from paddleslim_ng.core.op_table import canonical_slot
from paddleslim_ng.core.pir_vocabulary import Vocabulary, is_vector
from paddleslim_ng.core.translation_plan import TranslationPlan, UntranslatableError

__all__ = ['translate_directly']

# Attributes without a legacy counterpart that do not change what an inference program computes.
_HARMLESS = frozenset({'place'})
_HARMLESS_IN = {
    'dropout': frozenset({'seed', 'fix_seed'}),  # in test mode it draws nothing
    'lookup_table_v2': frozenset({'sparse'}),  # of the gradient
}


def translate_directly(
    op: OpWrapper,
    plan: TranslationPlan,
    *,
    attrs: Mapping[str, object] | None = None,
    replaces: Collection[str] = (),
    omits: Collection[str] = (),
) -> None:
    """Plan the legacy operator of the same canonical type.

    Args:
        op: operator of a PIR program.
        plan: takes the operator and its variables.
        attrs: legacy attributes that the PIR operator does not have, or has otherwise.
        replaces: attributes of the PIR operator that ``attrs`` accounts for.
        omits: input slots that the legacy operator does not need.

    Raises:
        UntranslatableError: Paddle has no such legacy operator, or it lacks a slot or attribute.
    """
    if op.raw.num_regions():
        raise UntranslatableError('it is control flow')
    declared = declaration_of(op.type())
    if declared is None:
        raise UntranslatableError('Paddle has no legacy operator of this type')
    inputs, attr_variables = _inputs(op, plan, declared, omits)
    outputs = _outputs(op, plan, declared)
    attributes = _attributes(op, declared, plan.editor.vocabulary_of(op), attrs or {}, replaces)
    _add_missing_outputs(op, plan, declared, outputs)
    plan.add(op.type(), inputs, outputs, attributes, attr_variables)


def _inputs(
    op: OpWrapper, plan: TranslationPlan, declared: OperatorDeclaration, omits: Collection[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    inputs: dict[str, list[str]] = {}
    attr_variables: dict[str, str] = {}
    names = plan.editor.vocabulary_of(op)
    carriers = {
        slot: (index, attribute)
        for index, (slot, attribute) in enumerate(zip(names.operands, names.constants))
        if attribute is not None
    }
    for slot in (slot for slot in op.input_slots() if slot not in omits):
        group = op.inputs(slot)
        if slot in carriers:
            index, attribute = carriers[slot]
            vector = is_vector(op.raw.operand_source(index))
            place = _tensor_slot(declared, attribute, vector)
            if place is not None:
                inputs[place.name] = plan.names(group)
            elif attribute in declared.attributes and declared.attributes[attribute].takes_variable and not vector:
                attr_variables[attribute] = plan.name(group[0])
            else:
                raise UntranslatableError(f'{attribute!r} is computed at run time, which the legacy operator cannot')
            continue
        found = declared.input(slot)
        if found is None or (len(group) > 1 and not found.many):
            raise UntranslatableError(f'the legacy operator has no input {slot!r} for {[v.name() for v in group]}')
        inputs[found.name] = plan.names(group)
    return inputs, attr_variables


def _tensor_slot(declared: OperatorDeclaration, attribute: str, vector: bool) -> SlotDeclaration | None:
    """Return the input slot for a value that is elsewhere an attribute: one tensor, or a list of scalars."""
    stem = canonical_slot(attribute)
    candidates = (stem, stem + 'Tensor', stem + 'TensorList', attribute + '_tensor', f'expand_{attribute}s_tensor')
    slots = [declared.inputs[name] for name in candidates if name in declared.inputs]
    return next((slot for slot in slots if slot.many == vector), None)


def _outputs(op: OpWrapper, plan: TranslationPlan, declared: OperatorDeclaration) -> dict[str, list[str]]:
    outputs: dict[str, list[str]] = {}
    for slot in op.output_slots():
        group = op.outputs(slot)
        found = declared.output(slot)
        if found is not None and (len(group) == 1 or found.many):
            outputs[found.name] = plan.names(group)
        elif any(var.name() in plan.wanted for var in group):
            raise UntranslatableError(f'the legacy operator has no output {slot!r}, and {group[0].name()!r} is read')
    return outputs


def _add_missing_outputs(
    op: OpWrapper, plan: TranslationPlan, declared: OperatorDeclaration, outputs: dict[str, list[str]]
) -> None:
    """Add what legacy operators always write and PIR left out, such as the ``XShape`` that Paddle Lite relies on."""
    main = next(iter(outputs.values()))[0]
    for slot in declared.outputs.values():
        if slot.optional or slot.name in outputs:
            continue
        source = op.all_inputs()[0].shape() if op.all_inputs() else ()
        shape = (0, *source) if slot.name == 'XShape' else ()
        outputs[slot.name] = [plan.new(f'{main}.{slot.name.lower()}', shape, 'float32')]


def _attributes(
    op: OpWrapper,
    declared: OperatorDeclaration,
    names: Vocabulary,
    given: Mapping[str, object],
    replaces: Collection[str],
) -> dict[str, object]:
    attrs: dict[str, object] = {}
    own = set(op.raw.get_attr_names()) if op.raw.name().startswith('pd_op.') else set()
    used = set(replaces)
    for name, declaration in declared.attributes.items():
        used.add(names.attrs.get(name, name))
        value = given[name] if name in given else op.attr(name)
        if value is not None:
            attrs[name] = coerced(value, declaration)
    lost = sorted(
        (own - used - _HARMLESS - _HARMLESS_IN.get(op.type(), frozenset()))
        | (set(op.cache or ()) - set(declared.attributes))
    )
    if lost:
        raise UntranslatableError(f'the legacy operator has no attributes {lost}')
    return attrs


_NUMBERS: dict[str, type] = {
    'INT': int,
    'LONG': int,
    'FLOAT': float,
    'FLOAT64': float,
    'BOOL': bool,
    'STRING': str,
}
_LISTS: dict[str, type] = {
    'INTS': int,
    'LONGS': int,
    'FLOATS': float,
    'FLOAT64S': float,
    'BOOLS': bool,
    'STRINGS': str,
}


def coerced(value: Any, declaration: AttributeDeclaration) -> object:
    """Return an attribute in the kind that the legacy operator declares.

    Raises:
        UntranslatableError: the value does not fit that kind.
    """
    kind = declaration.kind
    if kind in ('INT', 'LONG') and isinstance(value, str):
        return int(paddle_compat.legacy_dtype(value)) if value else -1
    try:
        if kind in _NUMBERS:
            only = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
            return _NUMBERS[kind](only)
        if kind in _LISTS:
            items = value if isinstance(value, (list, tuple)) else [value]
            return [_LISTS[kind](item) for item in items]
    except (TypeError, ValueError) as error:
        raise UntranslatableError(f'attribute {declaration.name!r} = {value!r} is no {kind}') from error
    return [paddle_compat.plain_number(item) for item in value] if isinstance(value, (list, tuple)) else value


def dtype_attribute(var: VarWrapper) -> int:
    """Return the element type of ``var`` as the number that legacy attributes hold."""
    return int(paddle_compat.legacy_dtype(var.dtype()))
