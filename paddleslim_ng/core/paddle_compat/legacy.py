"""Bindings of legacy programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import paddle
from paddle.base import core as _core
from paddle.base import framework as _framework

__all__ = [
    'add_fetch_operators',
    'attribute_kind',
    'copy_operators',
    'copy_variable',
    'expect_fed',
    'legacy_content',
    'legacy_state',
    'literal_attributes',
    'operator_proto',
    'parse_legacy',
    'plain_number',
    'unused_name',
]


def operator_proto(type: str) -> Any:
    """Return the running Paddle's declaration of a legacy operator (an ``OpProto``), or None where it has none."""
    return _framework.OpProtoHolder.instance().op_proto_map.get(type)


def attribute_kind(number: int) -> str:
    """Return the name of a kind of legacy attribute, such as ``'INT'``, given its number in an ``OpProto``."""
    return str(_core.AttrType(number).name)


def add_fetch_operators(program: Any, names: Iterable[str]) -> None:
    """Append operators that fetch variables of a legacy program."""
    block = program.global_block()
    holder = block.create_var(name='fetch', type=_core.VarDesc.VarType.FETCH_LIST, persistable=True)
    for index, name in enumerate(names):
        block.append_op(type='fetch', inputs={'X': [name]}, outputs={'Out': [holder]}, attrs={'col': index})


def expect_fed(variable: Any) -> None:
    """Mark a variable of a legacy program as an input."""
    variable.desc.set_need_check_feed(True)
    variable.is_data = True


_KEEPS_XSHAPE = frozenset({'reshape2', 'transpose2', 'flatten2', 'flatten_contiguous_range', 'squeeze2', 'unsqueeze2'})


def parse_legacy(content: bytes) -> Any:
    """Return the program in a ``.pdmodel``, as Paddle's own loader prepares it; Paddle's errors come through."""
    program = paddle.static.deserialize_program(content)
    promoted = getattr(_framework, 'process_type_promotion', None)
    return program if promoted is None else promoted(program)


def legacy_content(program: Any, feeds: list[Any], fetches: list[Any]) -> tuple[bytes, list[str]]:
    """Return the ``.pdmodel`` of a legacy program, for every Paddle 2 and Paddle Lite, and the names of its state.

    Attributes are written in the form that was common before Paddle 2.5. Paddle's own function leaves the ``XShape``
    outputs out, through which Paddle Lite's converter writes without looking, and writes down where on the user's disk
    each operator was made; here it is the other way round.
    """
    whole = paddle.static.normalize_program(program, feeds, fetches)
    clipped = whole._remove_training_info(clip_extra=True)
    for index in range(whole.desc.num_blocks()):
        before, after = whole.desc.block(index), clipped.desc.block(index)
        for position in range(before.op_size()):
            op = before.op(position)
            after.op(position).remove_attr('op_callstack')
            if op.type() in _KEEPS_XSHAPE and 'XShape' in op.output_names():
                after.op(position).set_output('XShape', op.output('XShape'))
    return bytes(clipped.desc.serialize_to_string(legacy_format=True)), legacy_state(whole)


def legacy_state(program: Any) -> list[str]:
    """Return the names of what a legacy program keeps in its parameter file."""
    tensor = _core.VarDesc.VarType.LOD_TENSOR
    return [var.name for var in program.list_vars() if var.persistable and var.type == tensor]


def literal_attributes(values: Any, dtype: Any) -> dict[str, Any]:
    """Return the attributes of a legacy ``assign_value`` operator that makes an array of int64."""
    flat = [int(v) for v in values.reshape(-1)]
    known = {item.name for item in _framework.OpProtoHolder.instance().get_op_proto('assign_value').attrs}
    return {'dtype': dtype, 'shape': list(values.shape), 'values' if 'values' in known else 'int64_values': flat}


def plain_number(value: Any) -> Any:
    """Return the number in one of Paddle's scalars, which some legacy operators hold in attributes; else the value."""
    return value.value() if type(value).__name__ == 'Scalar' and hasattr(value, 'value') else value


def unused_name(block: Any, stem: str) -> str:
    """Return a name for a new variable of a legacy block."""
    number = 0
    while block.has_var(f'{stem}_{number}'):
        number += 1
    return f'{stem}_{number}'


def copy_variable(block: Any, name: str, variable: Any, stop_gradient: bool) -> None:
    """Create a variable of a legacy block like one of another program."""
    kinds = _core.VarDesc.VarType
    described: dict[str, Any] = {}
    if variable.type not in (kinds.STEP_SCOPES, kinds.RAW):
        described = {'shape': variable.shape, 'dtype': variable.dtype}
        if variable.type in (kinds.LOD_TENSOR, kinds.LOD_TENSOR_ARRAY):
            described['lod_level'] = variable.lod_level
    block.create_var(
        name=name, type=variable.type, persistable=variable.persistable, stop_gradient=stop_gradient, **described
    )


def copy_operators(
    ops: list[Any], source: Any, block: Any, names: Mapping[str, str], prefix: str, start: int = 0
) -> None:
    """Copy operators of a legacy program into a block of another one, with the blocks that they own.

    Args:
        ops: operators of one block of ``source``.
        source: their program.
        block: block of another program, which has the variables that ``ops`` read and write.
        names: ``{name in the source: name in the target}``.
        prefix: for the names of variables in the blocks that operators own.
        start: place of the first of them.
    """
    for index, op in enumerate(ops, start):
        desc = block.desc._insert_op(index)
        desc.copy_from(op.desc)
        for slot in desc.input_names():
            desc.set_input(slot, [names.get(name, name) for name in desc.input(slot)])
        for slot in desc.output_names():
            desc.set_output(slot, [names.get(name, name) for name in desc.output(slot)])
        for attribute in desc.attr_names():
            if desc.attr_type(attribute) == _core.AttrType.BLOCK:
                inner = source.block(op._block_attr_id(attribute))
                desc.set_block_attr(attribute, _copied_block(inner, block, names, prefix).desc)
        block.ops.insert(index, _framework.Operator(block, desc))


def _copied_block(inner: Any, parent: Any, names: Mapping[str, str], prefix: str) -> Any:
    program = parent.program
    current = program.current_block_idx
    block = program._create_block(parent_idx=parent.idx)
    program.current_block_idx = current
    own = {name: prefix + name for name in inner.vars}
    for name, variable in inner.vars.items():
        copy_variable(block, own[name], variable, bool(variable.stop_gradient))
    copy_operators(list(inner.ops), inner.program, block, {**names, **own}, prefix)
    return block
