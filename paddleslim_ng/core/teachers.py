"""Which operators of a program belong to a merged teacher, and which were built by distillation losses.

A string attribute of the operator tells; it survives ``clone`` and ``minimize``. Whatever prunes, masks, quantizes or
saves a program asks here and leaves the teacher alone, whatever prefix it was merged under.
"""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper

__all__ = [
    'distillation_of',
    'mark_distillation',
    'mark_teacher',
    'teacher_of',
    'teacher_prefixes',
    'teacher_variables',
]

_TEACHER = 'slim_teacher'
_DISTILLATION = 'slim_distillation'


def mark_teacher(op: Any, prefix: str) -> None:
    """Mark an operator of either IR (an :class:`OpWrapper` or Paddle's) as part of the teacher under ``prefix``."""
    _mark(op, _TEACHER, prefix)


def mark_distillation(op: Any, loss: str) -> None:
    """Mark an operator of either IR (an :class:`OpWrapper` or Paddle's) as built by the distillation loss ``loss``."""
    _mark(op, _DISTILLATION, loss)


def teacher_of(op: OpWrapper) -> str | None:
    """Return the prefix of the teacher that an operator belongs to, or None."""
    return _read(op, _TEACHER)


def distillation_of(op: OpWrapper) -> str | None:
    """Return the name of the distillation loss that built an operator, or None."""
    return _read(op, _DISTILLATION)


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


def _mark(op: Any, key: str, value: str) -> None:
    raw = op.raw if isinstance(op, OpWrapper) else op
    if hasattr(raw, 'set_str_attr'):
        raw.set_str_attr(key, value)
    else:
        raw._set_attr(key, value)


def _read(op: OpWrapper, key: str) -> str | None:
    raw = op.raw
    if not raw.has_attr(key):
        return None
    return str(raw.str_attr(key) if hasattr(raw, 'str_attr') else raw.attr(key))
