"""The student on its own again."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.core.cloning import clone_program, forward_program
from paddleslim_ng.core.removal import remove_operators
from paddleslim_ng.core.teachers import distillation_of, teacher_of, teacher_prefixes
from paddleslim_ng.errors import GraphError, nearest_names

__all__ = ['strip']


def strip(program: Any, prefix: str | None = None, *, for_test: bool = False, scope: Any = None) -> Any:
    """Copy a program without its teacher, the losses that compare with it, and what served those alone.

    Args:
        program: a program with a merged teacher, of either IR; it stays as it is.
        prefix: of the teacher that goes; all of them where None.
        for_test: put dropout and batch norm in test mode.
        scope: the teacher's parameters, and those of adapters, are erased here, too. Other programs that hold the same
            teacher no longer run afterwards.

    Returns:
        The student's forward part, without backward and optimizer operators: ``minimize`` may be called again. A sum
        that a loss against the teacher is part of has gone, too.

    Raises:
        GraphError: there is no such teacher.

    Example:
        >>> student = slim.dist.strip(merged_program)
        >>> slim.runtime.save_inference_model(student, 'student/model', ['image'], [logits])
    """
    present = teacher_prefixes(GraphWrapper(program))
    if not present or (prefix is not None and prefix not in present):
        hint = nearest_names(prefix, present) if prefix is not None else ''
        raise GraphError(
            f'the program has no teacher{"" if prefix is None else f" {prefix!r}"}; it has {present}{hint}'
        )
    copy = clone_program(program, for_test=True) if for_test else forward_program(program)
    graph = GraphWrapper(copy)
    gone = remove_operators(graph, _doomed(graph, {prefix} if prefix is not None else set(present)))
    if scope is not None:
        scope.erase([name for name in gone if scope.find_var(name) is not None])
    return copy


def _doomed(graph: GraphWrapper, prefixes: set[str]) -> list[OpWrapper]:
    """Return the operators of teachers, what depends on them, and what losses computed for nothing else."""
    doomed = {op.idx(): op for op in graph.ops() if teacher_of(op) in prefixes}
    for op in graph.ops():
        if any(maker.idx() in doomed for maker in graph.pre_ops(op)):
            doomed[op.idx()] = op
    for op in reversed(graph.ops()):
        readers = graph.next_ops(op)
        if distillation_of(op) is not None and readers and all(reader.idx() in doomed for reader in readers):
            doomed[op.idx()] = op
    return list(doomed.values())
