"""What a program needs before it can be saved as an inference model."""

from __future__ import annotations

import math
from typing import Any

from paddleslim_ng.core import GraphWrapper, VarWrapper, has_array, shape_of
from paddleslim_ng.core.teachers import teacher_of, traced_to_teachers
from paddleslim_ng.errors import GraphError
from paddleslim_ng.runtime.feeds import data_inputs

__all__ = ['ancestors', 'check_requirements']

_NOT_TENSORS = frozenset({'feed', 'fetch'})


def check_requirements(graph: GraphWrapper, feeds: list[VarWrapper], fetches: list[VarWrapper], scope: Any) -> None:
    """Check that every input and parameter that the outputs depend on is there, no other input, and no teacher.

    Raises:
        GraphError: saying which is missing, does not fit, or is not needed.
    """
    if not fetches:
        raise GraphError('an inference model needs at least one output: fetches is empty')
    _check_without_teacher(graph, fetches)
    known = {var.name() for var in data_inputs(graph)}
    strangers = [var.name() for var in feeds if var.name() not in known and not var.is_data]
    if strangers:
        raise GraphError(f'{strangers} are not data inputs of the program; it has {sorted(known)}')
    needed = ancestors(fetches)
    missing = sorted(known.intersection(needed).difference(var.name() for var in feeds))
    if missing:
        raise GraphError(f'the outputs depend on the data inputs {missing}: add them to feeds')
    idle = sorted(var.name() for var in feeds if var.name() not in needed)
    if idle:
        raise GraphError(f'no output depends on {idle}: leave them out of feeds')
    absent = [
        name
        for name, var in needed.items()
        if var.persistable() and name not in _NOT_TENSORS and not has_array(scope, name)
    ]
    if absent:
        raise GraphError(f'the scope has no value for {absent}: run the startup program or load the parameters first')
    unfit = [
        f'{name} {list(shape_of(scope, name))} instead of {list(var.shape())}'
        for name, var in needed.items()
        # Paddle's quantization writes scales whose axes of size 1 are not those of the program.
        if var.is_parameter() and math.prod(shape_of(scope, name)) != math.prod(var.shape())
    ]
    if unfit:
        raise GraphError(
            f'the scope does not fit the program: {", ".join(unfit[:5])}; where it has been pruned, '
            'save the pruned program'
        )


def _check_without_teacher(graph: GraphWrapper, fetches: list[VarWrapper]) -> None:
    traced = traced_to_teachers(graph)
    for var in fetches:
        origin = traced.get(var)
        if origin is not None:
            prefix = teacher_of(origin.inputs()[0])
            what = 'is a result' if origin is var else f'is computed from {origin.name()!r}'
            raise GraphError(
                f'{var.name()!r} {what} of the merged teacher {prefix!r}, which no inference model carries: fetch '
                "what the student computes; to save the teacher, give the teacher's own program"
            )


def ancestors(targets: list[VarWrapper]) -> dict[str, VarWrapper]:
    """Return everything that the forward pass computes variables from, themselves included, by name."""
    found: dict[str, VarWrapper] = {}
    queue = list(targets)
    while queue:
        var = queue.pop()
        if var.name() not in found:
            found[var.name()] = var
            makers = (op for op in var.inputs() if not (op.is_bwd_op() or op.is_opt_op()))
            queue.extend(source for op in makers for source in op.all_inputs())
    return found
