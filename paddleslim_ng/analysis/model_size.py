"""Numbers of parameter elements."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from paddleslim_ng.analysis.shapes import forward_ops_of
from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper

__all__ = ['model_size', 'numel']

_STATISTICS = {'batch_norm': ('Mean', 'Variance'), 'sync_batch_norm': ('Mean', 'Variance')}


def model_size(program: Any, *, part: str = 'student') -> int:
    """Return how many elements the parameters of a program have, moving statistics of batch norm included.

    This is what an inference model stores. Optimizer state does not count, nor does a parameter that no forward
    operator reads.

    Args:
        program: a program of either IR, trained, in training or loaded from an inference model, or a GraphWrapper.
        part: of a program that a teacher has been merged into: ``'student'``, ``'teachers'``, the distillation
            ``'losses'`` with their adapters, or ``'all'``.

    Raises:
        ConfigError: an unknown part.

    Example:
        >>> slim.analysis.model_size(program)
        3227210
    """
    return sum(math.prod(var.shape()) for var in _parameters(_wrap(program), part))


def numel(program: Any, params: Iterable[Any] | None = None, *, part: str = 'student') -> int:
    """Return how many elements parameters have.

    Args:
        program: a program of either IR, or a GraphWrapper.
        params: names, Variables or Values; where None, all that training learns, which is :func:`model_size` without
            the moving statistics of batch norm and is the number that papers report.
        part: as for :func:`model_size`, where ``params`` is None.

    Raises:
        GraphError: the program has no variable of that name.
        ConfigError: an unknown part.
    """
    graph = _wrap(program)
    if params is not None:
        return sum(math.prod(graph.var(item).shape()) for item in params)
    statistics = {
        var.name()
        for op in forward_ops_of(graph, part)
        for slot in _STATISTICS.get(op.type(), ())
        for var in op.inputs(slot)
    }
    return sum(math.prod(var.shape()) for var in _parameters(graph, part) if var.name() not in statistics)


def _wrap(program: Any) -> GraphWrapper:
    return program if isinstance(program, GraphWrapper) else GraphWrapper(program)


def _parameters(graph: GraphWrapper, part: str) -> list[VarWrapper]:
    """Return what the forward pass reads and a scope keeps; a loaded legacy program knows no other difference."""
    found: dict[str, VarWrapper] = {}
    for op in forward_ops_of(graph, part):
        for var in _read_by(op):
            found[var.name()] = var
    declared = {var.name() for var in graph.all_parameters()}
    return [var for name, var in found.items() if not declared or name in declared]


def _read_by(op: OpWrapper) -> list[VarWrapper]:
    return [var for var in op.all_inputs() if var.persistable()]
