"""Which variables of a program are its outputs, where the user does not say."""

from __future__ import annotations

from collections.abc import Collection

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.legacy_protos import declaration_of
from paddleslim_ng.core.teachers import distillation_ops
from paddleslim_ng.errors import GraphError

__all__ = ['inference_outputs', 'results_of']

_FERRIES = frozenset({'feed', 'fetch'})


def inference_outputs(source: GraphWrapper, graph: GraphWrapper, feeds: Collection[str]) -> list[VarWrapper]:
    """Return what an inference program computes from ``feeds``.

    1. A loaded inference model has outputs of its own.
    2. Else they are the results that can be computed from ``feeds`` alone and that no operator reads. What an operator
       makes besides a result that is read, and what only a backward pass reads, does not count.
    3. In an evaluation program every result may be read: by a loss and by metrics, which need labels, too. If exactly
       one variable is handed to that part before all others, it is the output.

    Merged teachers, distillation losses, and whatever depends on either, are no part of an inference program: their
    results are no outputs, and a result that they alone read counts as one that no operator reads.

    Args:
        source: the program as it was given.
        graph: its copy in test mode.
        feeds: names of the inputs.

    Returns:
        Variables of ``graph``.

    Raises:
        GraphError: there is no output by these rules, or in the last case more than one.
    """
    own = _declared(source)
    if own:
        return [graph.var(name) for name in own]
    aside = {id(op) for op in distillation_ops(graph)}
    computed = [op for op in _computed(graph, feeds) if id(op) not in aside]
    inside = {id(op) for op in computed} | aside
    handed = [var for op in computed for var in results_of(op) if any(id(r) not in inside for r in var.outputs())]
    unread = [var for op in computed for var in results_of(op) if _is_unread(op, aside)]
    if aside:  # what a loss makes of the output before it compares
        unread = [var for var in unread if not var.outputs() or not _comes_after(var, handed)]
    if unread:
        return unread
    first = [var for var in handed if not _comes_after(var, handed)]
    if len(first) == 1:
        return first
    found = f'{[var.name() for var in first]} are all read by operators that need other inputs' if first else 'none'
    raise GraphError(f'cannot tell the outputs computed from {sorted(feeds)}: {found}; name them in fetches')


def _declared(graph: GraphWrapper) -> list[str]:
    """Return what a loaded model fetches."""
    fetched = [var for op in graph.ops() if op.type() == 'fetch' for var in op.inputs('X')]
    kept: list[VarWrapper] = getattr(graph.editor, 'keeps', [])
    return list(dict.fromkeys(var.name() for var in (*fetched, *kept) if not var.persistable()))


def _computed(graph: GraphWrapper, feeds: Collection[str]) -> list[OpWrapper]:
    """Return the operators that need no other input, and depend on one of ``feeds``."""
    known = {id(var) for var in graph.vars() if var.name() in feeds or var.persistable() or var.is_parameter()}
    fed = {id(var) for var in graph.vars() if var.name() in feeds}
    found = []
    for op in graph.ops():
        if op.type() in _FERRIES or any(id(var) not in known for var in op.all_inputs()):
            continue
        known.update(id(var) for var in op.all_outputs())
        if any(id(var) in fed for var in op.all_inputs()):
            fed.update(id(var) for var in op.all_outputs())
            found.append(op)
    return found


def results_of(op: OpWrapper) -> list[VarWrapper]:
    """Return what an operator makes for its readers, without scratch and without what it writes back."""
    declared = declaration_of(op.type())
    found: list[VarWrapper] = []
    for slot in op.output_slots():
        place = declared.output(slot) if declared else None
        written_back = slot.endswith('Out') and any(var.persistable() for var in op.inputs(slot[: -len('Out')]))
        if not written_back and not (place and place.scratch):
            found.extend(var for var in op.outputs(slot) if not var.persistable())
    return found


def _is_unread(op: OpWrapper, aside: Collection[int]) -> bool:
    readers = (reader for var in op.all_outputs() if not var.persistable() for reader in var.outputs())
    return not any(reader is not op and id(reader) not in aside for reader in readers)


def _comes_after(var: VarWrapper, others: list[VarWrapper]) -> bool:
    """Tell whether ``var`` is computed from one of ``others``."""
    wanted = {id(other) for other in others if other is not var}
    queue, seen = var.inputs(), set()
    while queue:
        op = queue.pop()
        if id(op) in seen:
            continue
        seen.add(id(op))
        for source in op.all_inputs():
            if id(source) in wanted:
                return True
            queue.extend(source.inputs())
    return False
