"""Copying the operators of one legacy program into another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.teachers import mark_teacher

__all__ = ['copy_into']


def copy_into(
    target: GraphWrapper,
    source: GraphWrapper,
    kept: Sequence[OpWrapper],
    inputs: Mapping[str, str],
    prefix: str,
    frozen: bool,
) -> tuple[dict[str, str], Callable[[], None]]:
    """Copy ``kept`` to the front of ``target``, and return the names and what takes the copy out again.

    See :func:`paddleslim_ng.core.merging.merge_program`.
    """
    block = target.program.global_block()
    names = dict(inputs)
    made: list[str] = []
    for var in _variables(kept):
        new = names.setdefault(var.name(), prefix + var.name())
        if not block.has_var(new):
            _create(block, new, var, frozen)
            made.append(new)
    paddle_compat.copy_operators([op.raw for op in kept], source.program, block, names, prefix)
    count = len(kept)
    if frozen:
        for op in block.ops[:count]:
            mark_teacher(op, prefix)

    def undo() -> None:
        for index in reversed(range(count)):
            block._remove_op(index)
        for name in made:
            block._remove_var(name)

    return names, undo


def _variables(kept: Iterable[OpWrapper]) -> list[VarWrapper]:
    found = {var.name(): var for op in kept for var in (*op.all_inputs(), *op.all_outputs())}
    return list(found.values())


def _create(block: Any, name: str, var: VarWrapper, frozen: bool) -> None:
    """Create the counterpart of a variable in the target's main block."""
    raw = var.raw
    stops = frozen or bool(raw.stop_gradient)
    if var.is_parameter():
        trainable = not frozen and bool(getattr(raw, 'trainable', True))
        block.create_parameter(
            name=name, shape=list(raw.shape), dtype=raw.dtype, trainable=trainable, stop_gradient=stops
        )
    else:
        paddle_compat.copy_variable(block, name, raw, stops)
