"""What follows a parameter in a training program: accumulators, master weights, moving averages, and temporaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.errors import UnsupportedOpError
from paddleslim_ng.prune.channels import Analysis

__all__ = ['followers', 'is_idle', 'offset', 'state_of', 'updates_parameters']

Followers = dict[VarWrapper, list[VarWrapper]]


def followers(analysis: Analysis) -> Followers:
    """Return the variables that are cut wherever a parameter is.

    Operators of the update work position by position: whatever of a parameter's shape meets it in one of them,
    directly or through temporaries, holds one number per weight. That covers accumulators, master weights, gradients on
    their way through clipping, decay and loss scaling, sums of ``average_accumulates`` and exponential moving averages.
    State may have axes in front of the parameter's, as ASGD's history of gradients has.

    Args:
        analysis: finished analysis of a program; one without an update has no followers.

    Returns:
        ``{parameter: [variables]}``, temporaries included.

    Raises:
        UnsupportedOpError: state that belongs to one of several parameters, without telling which.
    """
    classes = _Classes()
    for op in analysis.graph.ops():
        if updates_parameters(op):
            for group in _meeting(op):
                _join(classes, group)
    result: Followers = {}
    for members in classes.groups():
        heads = [var for var in members if var.is_parameter()]
        for var in members:
            if heads and not var.is_parameter():
                result.setdefault(_head_of(var, heads), []).append(var)
    if result:
        for var, head in _put_aside(analysis, set(result)):
            result[head].append(var)
    return result


def is_idle(var: VarWrapper) -> bool:
    """Tell whether no operator of the program touches ``var``, as another program does for Paddle's moving averages."""
    return not var._producers and not var._consumers


def _put_aside(analysis: Analysis, heads: set[VarWrapper]) -> Iterator[tuple[VarWrapper, VarWrapper]]:
    """Find idle state by Paddle's names for it: the parameter's, an underscore, and what it is."""
    idle = [var for var in analysis.graph.vars() if is_idle(var) and var.persistable() and not var.is_parameter()]
    for var in idle:
        owners = [head for head in heads if var.name().startswith(head.name() + '_') and var.shape() == head.shape()]
        if owners:
            yield var, max(owners, key=lambda head: len(head.name()))


def updates_parameters(op: OpWrapper) -> bool:
    """Tell whether ``op`` belongs to an update: the optimizer's, or one that writes state beside the parameters."""
    if op.is_opt_op():
        return True
    return any(var.persistable() and not var.is_parameter() for var in op.all_outputs())


def offset(follower: VarWrapper, parameter: VarWrapper) -> int:
    """Return how many axes ``follower`` has in front of those of its parameter."""
    return len(follower.shape()) - len(parameter.shape())


def state_of(parameter: VarWrapper, follow: Followers) -> list[VarWrapper]:
    """Return the followers that live in the scope."""
    return [var for var in follow.get(parameter, ()) if var.persistable()]


def _meeting(op: OpWrapper) -> Iterator[list[VarWrapper]]:
    """Yield the variables that meet in ``op``: all of them, or those at one place of lists that run in parallel."""
    slots = [op.inputs(slot) for slot in op.input_slots()] + [op.outputs(slot) for slot in op.output_slots()]
    length = max((len(op.outputs(slot)) for slot in op.output_slots()), default=0)
    if length > 1:
        parallel = [group for group in slots if len(group) == length]
        for place in range(length):
            yield [group[place] for group in parallel]
        return
    yield [var for group in slots for var in group]


def _join(classes: _Classes, group: list[VarWrapper]) -> None:
    by_shape: dict[tuple[int, ...], VarWrapper] = {}
    for var in group:
        shape = var.shape()
        if len(shape) == 0 or math.prod(shape) <= 1:
            continue
        first = by_shape.setdefault(shape, var)
        if first is not var:
            classes.unite(first, var)
    for shape, var in by_shape.items():
        if var.is_parameter() or not var.persistable():
            continue
        for other, companion in by_shape.items():
            if len(shape) > len(other) > 0 and shape[-len(other) :] == other:
                classes.unite(companion, var)


def _head_of(var: VarWrapper, heads: list[VarWrapper]) -> VarWrapper:
    if len(heads) == 1 or not var.persistable():
        return heads[0]
    named = [head for head in heads if var.name().startswith(head.name())]
    if not named:
        raise UnsupportedOpError(
            f'{var.name()!r} is updated together with {[head.name() for head in heads]}, and nothing tells whose it is',
            variable=var.name(),
        )
    return max(named, key=lambda head: len(head.name()))


class _Classes:
    """Variables that belong together."""

    def __init__(self) -> None:
        self._of: dict[int, list[VarWrapper]] = {}

    def unite(self, left: VarWrapper, right: VarWrapper) -> None:
        a, b = self._of.setdefault(id(left), [left]), self._of.setdefault(id(right), [right])
        if a is b:
            return
        small, large = (a, b) if len(a) < len(b) else (b, a)
        large.extend(small)
        for var in small:
            self._of[id(var)] = large

    def groups(self) -> Iterable[list[VarWrapper]]:
        return {id(group): group for group in self._of.values()}.values()
