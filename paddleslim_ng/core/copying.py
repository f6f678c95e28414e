"""Copies of a part of one program at a place in another: behind :meth:`Insertion.copy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.marks import ROLE, mark
from paddleslim_ng.core.merging import copy_settings
from paddleslim_ng.errors import GraphError

if TYPE_CHECKING:
    from paddleslim_ng.core.insertion import Insertion

__all__ = ['copy']


def copy(
    here: Insertion,
    source: GraphWrapper,
    wanted: Sequence[VarWrapper],
    known: Mapping[str, VarWrapper],
    prefix: str,
    place: int,
) -> tuple[list[Any], dict[str, VarWrapper]]:
    """Copy what computes ``wanted``; see :meth:`Insertion.copy`.

    Args:
        here: where.
        source: see there, as for what follows.
        wanted: see there.
        known: see there.
        prefix: see there.
        place: position in the block of a legacy program.

    Returns:
        Paddle's operators that were made, and the variables by the names of the source.
    """
    ops = _needed(source, wanted, set(known))
    for op in ops:
        for var in (*op.all_inputs(), *op.all_outputs()):
            if var.name() not in known and here.graph.has_var(prefix + var.name()):
                raise GraphError(f'the program already has a variable {prefix + var.name()!r}')
    if here.graph.ir == 'legacy':
        made, raws = _copy_legacy(here, source, ops, known, prefix, place)
    else:
        made, raws = _copy_pir(here, source, wanted, known, prefix)
    found = dict(known)
    for name, raw in raws.items():
        var = found[name] = VarWrapper(here.graph, raw, prefix + name)
        here.graph._vars.append(var)
        here.graph._names()[prefix + name] = var
    parameters = {name: prefix + name for name in raws if source.has_var(name) and source.var(name).is_parameter()}
    copy_settings(source, here.graph, parameters, parameters)
    return made, found


def _needed(source: GraphWrapper, wanted: Sequence[VarWrapper], known: set[str]) -> list[OpWrapper]:
    pending, seen, found = [var for var in wanted if var.name() not in known], set(), {}
    while pending:
        var = pending.pop()
        if id(var) in seen:
            continue
        seen.add(id(var))
        for op in var.inputs():
            found[op.idx()] = op
            pending.extend(item for item in op.all_inputs() if item.name() not in known)
    return [found[index] for index in sorted(found)]


def _copy_legacy(
    here: Insertion,
    source: GraphWrapper,
    ops: list[OpWrapper],
    known: Mapping[str, VarWrapper],
    prefix: str,
    place: int,
) -> tuple[list[Any], dict[str, Any]]:
    block = here.graph.program.global_block()
    names = {name: var.name() for name, var in known.items()}
    raws = {}
    for op in ops:
        for var in (*op.all_inputs(), *op.all_outputs()):
            if var.name() not in names:
                names[var.name()] = prefix + var.name()
                raws[var.name()] = _create(block, prefix + var.name(), var)
    paddle_compat.copy_operators([op.raw for op in ops], source.program, block, names, prefix, place)
    made = block.ops[place : place + len(ops)]
    for op in made:
        op._set_attr('op_role', here.role_number)
    return list(made), raws


def _create(block: Any, name: str, var: VarWrapper) -> Any:
    raw = var.raw
    if not var.is_parameter():
        paddle_compat.copy_variable(block, name, raw, bool(raw.stop_gradient))
        return block.var(name)
    return block.create_parameter(
        name=name,
        shape=list(raw.shape),
        dtype=raw.dtype,
        trainable=bool(getattr(raw, 'trainable', True)),
        stop_gradient=bool(raw.stop_gradient),
    )


def _copy_pir(
    here: Insertion, source: GraphWrapper, wanted: Sequence[VarWrapper], known: Mapping[str, VarWrapper], prefix: str
) -> tuple[list[Any], dict[str, Any]]:
    from paddleslim_ng.core.merging_pir import raw_ancestors, rename_copy

    mapping = paddle_compat.new_ir_mapping()
    stops = {source.var(name).raw.id for name in known}
    for name, var in known.items():
        mapping.add(source.var(name).raw, var.raw)
    needed = raw_ancestors([var.raw for var in wanted if var.raw.id not in stops], stops)
    made: list[Any] = []
    raws: dict[str, Any] = {}
    for op in source.program.global_block().ops:
        if op.id() not in needed:
            continue
        old_names = [naming.value_name(value) if value.initialized() else '' for value in op.results()]
        with here.at_this_place(made[-1] if made else None):
            clone = paddle_compat.clone_pir_op(op, mapping)
        made.append(clone)
        for name, old, new in zip(old_names, op.results(), clone.results()):
            mapping.add(old, new)
            if name:
                raws[name] = new
        rename_copy(clone, prefix)
        if here.role_number and op.name() != 'builtin.parameter':
            mark(clone, ROLE, str(here.role_number))
    return made, raws
