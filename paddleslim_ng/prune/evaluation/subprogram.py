"""Parts of a network: the operators that lead from some of its tensors to others, as a program of their own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, paddle_compat
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.merging_pir import raw_ancestors
from paddleslim_ng.core.teachers import release_teachers
from paddleslim_ng.errors import GraphError

__all__ = ['Part', 'boundary', 'extract']


@dataclass(frozen=True)
class Part:
    """A part of a network.

    Attributes:
        program: its program, of the IR of the network.
        feeds: names of the tensors it is fed.
        fetches: names of the tensors it gives.
    """

    program: Any
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]


def extract(program: Any, feeds: Collection[str], fetches: Sequence[str]) -> Part:
    """Copy what computes ``fetches`` from ``feeds``, a merged teacher included.

    Args:
        program: a program of either IR, or a GraphWrapper; it is not changed.
        feeds: names of data inputs or intermediate tensors that may be fed; those that are not needed are left out.
        fetches: names of the results.

    Raises:
        GraphError: an unknown name, or a data input that is needed but not among ``feeds``.
    """
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    stops = {graph.var(name) for name in feeds}
    targets = [graph.var(name) for name in fetches]
    _, reached = _ancestors(targets, stops)
    missing = [var.name() for var in reached if var not in stops and _is_input(var)]
    if missing:
        raise GraphError(
            f'{list(fetches)} depend on the inputs {missing}, which the feeds lack; they have {sorted(feeds)}'
        )
    used = [var for var in graph.vars() if var in stops and var in reached]
    copy = _copy_pir if graph.ir == 'pir' else _copy_legacy
    part = copy(graph, used, targets)
    release_teachers(GraphWrapper(part))  # a part may end in a distance from the teacher, and is saved for the engines
    return Part(part, tuple(var.name() for var in used), tuple(fetches))


def boundary(graph: GraphWrapper, changing: Collection[str], fetches: Sequence[str]) -> list[str] | None:
    """Find the tensors at which a network can be cut in two when only some of its parameters change.

    Args:
        graph: the network.
        changing: names of the parameters that change.
        fetches: names of the results.

    Returns:
        Names of the tensors, data inputs included, that do not depend on ``changing`` and from which, with parameters
        and constants, the rest can be computed. None where the network cannot be cut: control flow, tensors that are
        written twice, or results that do not depend on ``changing``.
    """
    targets = [graph.var(name) for name in fetches]
    needed, _ = _ancestors(targets, ())
    if any(_opaque(op) for op in needed):
        return None
    dirty = {graph.var(name) for name in changing}
    fixed: set[VarWrapper] = set()
    found: dict[VarWrapper, None] = {}
    for op in sorted(needed, key=OpWrapper.idx):
        inputs = op.all_inputs()
        if any(var in dirty for var in inputs):
            dirty.update(op.all_outputs())
            found.update(dict.fromkeys(v for v in inputs if not (v in dirty or v in fixed or v.persistable())))
        elif op.type() != 'feed' and all(var in fixed or var.persistable() for var in inputs):
            # Made of parameters and constants alone, such as a reshaped bias: computed again rather than kept.
            fixed.update(op.all_outputs())
    return [var.name() for var in found] if all(var in dirty for var in targets) else None


def _ancestors(targets: Sequence[VarWrapper], stops: Collection[VarWrapper]) -> tuple[set[OpWrapper], set[VarWrapper]]:
    """Return the operators and variables that ``targets`` depend on, not looking behind ``stops``."""
    ops: set[OpWrapper] = set()
    reached: set[VarWrapper] = set()
    queue = list(targets)
    while queue:
        var = queue.pop()
        if var in reached:
            continue
        reached.add(var)
        if var in stops or var.persistable() or _is_input(var):
            continue
        for op in var.inputs():
            if op not in ops:
                ops.add(op)
                queue.extend(op.all_inputs())
    return ops, reached


def _is_input(var: VarWrapper) -> bool:
    return not var.persistable() and all(op.type() == 'feed' for op in var.inputs())


def _opaque(op: OpWrapper) -> bool:
    """Tell whether an operator hides what it reads, or writes where another one writes as well."""
    raw = op.raw
    if hasattr(raw, 'num_regions'):
        name = raw.name()
        return bool(raw.num_regions()) or (name.endswith('_') and not name.endswith('batch_norm_'))
    return bool(raw.has_attr('sub_block')) or any(len(v.inputs()) > 1 for v in op.all_outputs() if not v.persistable())


def _copy_legacy(graph: GraphWrapper, feeds: Sequence[VarWrapper], targets: Sequence[VarWrapper]) -> Any:
    return graph.program._prune_with_input([var.name() for var in feeds], [var.raw for var in targets])


def _copy_pir(graph: GraphWrapper, feeds: Sequence[VarWrapper], targets: Sequence[VarWrapper]) -> Any:
    program = paddle.static.Program()
    mapping = paddle_compat.new_ir_mapping()
    kept = raw_ancestors([var.raw for var in targets], {var.raw.id for var in feeds})
    with matching_ir(graph.program), paddle.static.program_guard(program, paddle.static.Program()):
        for var in feeds:
            mapping.add(var.raw, paddle.static.data(var.name(), list(var.shape()), var.dtype()))
        for op in graph.program.global_block().ops:
            if op.id() in kept:
                copy = paddle_compat.clone_pir_op(op, mapping)
                for old, new in zip(op.results(), copy.results()):
                    mapping.add(old, new)
    return program
