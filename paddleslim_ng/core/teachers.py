"""Which operators of a program belong to a merged teacher, and which were built by distillation losses.

A string attribute of the operator tells; it survives ``clone`` and ``minimize``. Whatever prunes, masks, quantizes or
saves a program asks here and leaves the teacher alone, whatever prefix it was merged under.
"""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.marks import mark, mark_of

__all__ = [
    'distillation_of',
    'distillation_ops',
    'mark_distillation',
    'mark_teacher',
    'own_parameters',
    'release_teachers',
    'teacher_of',
    'teacher_prefixes',
    'teacher_reading',
    'teacher_variables',
    'traced_to_teachers',
]

_TEACHER = 'slim_teacher'
_DISTILLATION = 'slim_distillation'


def mark_teacher(op: Any, prefix: str) -> None:
    """Mark an operator of either IR (an :class:`OpWrapper` or Paddle's) as part of the teacher under ``prefix``."""
    mark(op, _TEACHER, prefix)


def mark_distillation(op: Any, loss: str) -> None:
    """Mark an operator of either IR (an :class:`OpWrapper` or Paddle's) as built by the distillation loss ``loss``."""
    mark(op, _DISTILLATION, loss)


def release_teachers(graph: GraphWrapper) -> None:
    """Take the marks of teachers away: the program is then one network that may be treated as a whole."""
    for op in graph.ops():
        if teacher_of(op) is not None:
            mark(op, _TEACHER, '')


def teacher_of(op: OpWrapper) -> str | None:
    """Return the prefix of the teacher that an operator belongs to, or None."""
    return mark_of(op, _TEACHER)


def distillation_of(op: OpWrapper) -> str | None:
    """Return the name of the distillation loss that built an operator, or None."""
    return mark_of(op, _DISTILLATION)


def teacher_prefixes(graph: GraphWrapper) -> list[str]:
    """Return the prefixes of the teachers in a program, in program order."""
    found = (teacher_of(op) for op in graph.ops())
    return list(dict.fromkeys(prefix for prefix in found if prefix is not None))


def teacher_variables(graph: GraphWrapper) -> dict[str, list[VarWrapper]]:
    """Return, by prefix, the parameters and other persistable variables that teachers read.

    Args:
        graph: a wrapped program.
    """
    found: dict[str, dict[str, VarWrapper]] = {}
    for op in graph.ops():
        prefix = teacher_of(op)
        if prefix is not None:
            kept = found.setdefault(prefix, {})
            for var in op.all_inputs():
                if var.persistable() or var.is_parameter():
                    kept[var.name()] = var
    return {prefix: list(variables.values()) for prefix, variables in found.items()}


def teacher_reading(var: VarWrapper) -> str | None:
    """Return the prefix of the teacher that reads a variable, such as its parameter, or None."""
    return next((prefix for op in var.outputs() if (prefix := teacher_of(op)) is not None), None)


def own_parameters(graph: GraphWrapper) -> list[VarWrapper]:
    """Return the student's parameters in program order: those of teachers and of adapters in losses are left out."""
    return [var for var in graph.all_parameters() if teacher_reading(var) is None and not _serves_losses(var)]


def _serves_losses(var: VarWrapper) -> bool:
    """Tell whether distillation losses alone read a parameter in the forward pass, as they do their adapters."""
    readers = [distillation_of(op) for op in var.outputs() if not (op.is_bwd_op() or op.is_opt_op())]
    return bool(readers) and None not in readers


def distillation_ops(graph: GraphWrapper) -> list[OpWrapper]:
    """Return the forward operators of teachers and of distillation losses, and all that depend on their results."""
    found: list[OpWrapper] = []
    results: set[VarWrapper] = set()
    for op in graph.ops():
        if op.is_bwd_op() or op.is_opt_op():
            continue
        marked = teacher_of(op) is not None or distillation_of(op) is not None
        if marked or (results and any(var in results for var in op.all_inputs())):
            found.append(op)
            results.update(var for var in op.all_outputs() if not (var.persistable() or var.is_parameter()))
    return found


def traced_to_teachers(graph: GraphWrapper) -> dict[VarWrapper, VarWrapper]:
    """Tell what the forward pass computes from the results of teachers.

    Returns:
        ``{variable: result of a teacher that it is computed from}``; what a teacher computes stands for itself.
    """
    traced: dict[VarWrapper, VarWrapper] = {}
    for op in graph.ops():
        if op.is_bwd_op() or op.is_opt_op():
            continue
        of_teacher = teacher_of(op) is not None
        origin = next((traced[var] for var in op.all_inputs() if var in traced), None) if traced else None
        if of_teacher or origin is not None:
            for var in op.all_outputs():
                if not (var.persistable() or var.is_parameter()):
                    traced[var] = var if of_teacher or origin is None else origin
    return traced
