"""Taking operators out of a program, with everything that served them alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper

__all__ = ['remove_operators']

_PLUMBING = frozenset({'builtin.combine', 'builtin.split', 'pd_op.full', 'pd_op.full_int_array'})


def remove_operators(graph: GraphWrapper, ops: Iterable[OpWrapper], *, parameters: bool = True) -> list[str]:
    """Remove operators, and the constants, state and parameters that nothing but them used. The scope is left alone.

    An operator whose result is still read stays. Wrap the program anew afterwards.

    Args:
        graph: wrapped program; changed in place.
        ops: operators of its main block, whatever reads them included.
        parameters: remove parameters, too. State that is no parameter goes in any case.

    Returns:
        Names of the parameters and of the state that went.
    """
    doomed = list(ops)
    if graph.ir == 'pir':
        return _remove_pir(graph, {op.raw.id() for op in doomed}, parameters)
    return _remove_legacy(graph, doomed, parameters)


def _remove_pir(graph: GraphWrapper, dead: set[int], parameters: bool) -> list[str]:
    block = graph.program.global_block()
    ops = block.ops
    had_readers = set()
    for op in ops:
        if op.name() == 'builtin.split' and op.operand_source(0).get_defining_op().id() in dead:
            dead.add(op.id())
        if any(not value.use_empty() for value in op.results() if value.initialized()):
            had_readers.add(op.id())
    gone = []
    for op in reversed(ops):
        kind = op.name()
        state = kind == 'pd_op.data' and bool(op.result(0).persistable)
        parameter = kind == 'builtin.parameter' and parameters
        orphan = op.id() in had_readers and (kind in _PLUMBING or state or parameter)
        if (op.id() in dead or orphan) and all(value.use_empty() for value in op.results() if value.initialized()):
            if state or parameter:
                gone.append(str(op.str_attr('name' if state else 'parameter_name')))
            block.remove_op(op)
    return gone[::-1]


def _remove_legacy(graph: GraphWrapper, ops: Collection[OpWrapper], parameters: bool) -> list[str]:
    block = graph.program.global_block()
    dead = _unread(ops)
    touched = {name: None for op in ops if op.idx() in dead for name in _names(op.raw)}
    for index in sorted(dead, reverse=True):
        block._remove_op(index)
    used = {name for one in graph.program.blocks for op in one.ops for name in _names(op)}
    gone = []
    for name in touched:
        if name in used or not block.has_var(name) or getattr(block.var(name), 'is_data', False):
            continue
        var = block.var(name)
        if var.persistable:
            if hasattr(var, 'trainable') and not parameters:
                continue
            gone.append(name)
        block._remove_var(name)
    return gone


def _unread(ops: Collection[OpWrapper]) -> set[int]:
    """Return the positions of the operators that no other operator needs."""
    dead = {op.idx() for op in ops}
    for op in sorted(ops, key=lambda op: -op.idx()):
        made = [var for var in op.all_outputs() if all(maker.idx() in dead for maker in var.inputs())]
        if any(reader.idx() not in dead for var in made if not var.persistable() for reader in var.outputs()):
            dead.discard(op.idx())
    return dead


def _names(op: Any) -> Iterable[str]:
    return (*op.input_arg_names, *op.output_arg_names)
