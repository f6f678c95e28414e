"""Carrying a decision out: shapes and attributes in the program, slices in the scope."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper, VarWrapper, has_array, load_array, shape_of, store_array, view_array
from paddleslim_ng.core.packed_gradients import repack_gradients
from paddleslim_ng.errors import GraphError
from paddleslim_ng.prune.channels import Analysis, Cut, Layout
from paddleslim_ng.prune.optimizer_state import Followers, is_idle, offset, state_of
from paddleslim_ng.prune.records import Positions, new_record, record_name, recorded_positions

__all__ = ['Footprint', 'ScopeCut', 'catch_up_state', 'cut_graph', 'cut_scope', 'footprint', 'kept_positions']

Footprint = dict[str, list[tuple[int, Positions]]]
Kept = Sequence[tuple[int, Positions]]
Change = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def kept_positions(analysis: Analysis, cut: Cut) -> dict[VarWrapper, list[tuple[int, npt.NDArray[np.bool_]]]]:
    """Return, for each parameter that loses positions, the axes and masks of what stays."""
    if cut.kept is None:
        cut.kept = {}
        for var, marks in analysis.parameters.items():
            axes = [(axis, cut.keep(mark.labels)) for axis, mark in sorted(marks.items()) if cut.touches(mark.labels)]
            if axes:
                cut.kept[var] = axes
    return cut.kept


def footprint(analysis: Analysis, cut: Cut) -> Footprint:
    """Return ``{parameter: [(axis, removed positions), ...]}``: what is zeroed or cut out of the scope."""
    return {
        var.name(): [(axis, np.flatnonzero(~mask)) for axis, mask in axes]
        for var, axes in kept_positions(analysis, cut).items()
    }


class ScopeCut:
    """A change of a scope, checked in full before anything is written; it remembers the old contents.

    Args:
        scope: the Paddle scope.
        old: ``{name: present content}``, which may be views of the tensors' memory: :meth:`commit` writes elsewhere.
        change: ``{name: function from the old content to the new}``, for the same names. What it returns is copied at
            once, so that functions may share working memory.
        records: ``{name: content}`` of the records of kept positions.

    Attributes:
        backup: ``{name: old content}``.
    """

    def __init__(
        self,
        scope: Any,
        old: Mapping[str, npt.NDArray[Any]],
        change: Mapping[str, Change],
        records: Mapping[str, Positions] | None = None,
    ) -> None:
        self._scope = scope
        self._change = dict(change)
        self._records = dict(records or {})
        self._old_records = {
            name: load_array(scope, name) if has_array(scope, name) else None for name in self._records
        }
        self.backup = dict(old)

    def commit(self) -> None:
        """Write the new contents; put the old ones back if that fails halfway."""
        try:
            for name, change in self._change.items():
                store_array(self._scope, name, change(self.backup[name]), fresh=True)
            for name, record in self._records.items():
                store_array(self._scope, name, record)
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Put the old contents back, and the records of kept positions as they were."""
        for name, array in self.backup.items():
            store_array(self._scope, name, array, fresh=True)
        for name, record in self._old_records.items():
            if record is not None:
                store_array(self._scope, name, record)
            elif self._scope.find_var(name) is not None:
                self._scope.erase([name])


class _Scratch:
    """Cuts arrays in working memory that it uses again; a result lasts until the next one is made.

    Args:
        arrays: all that will be cut. Memory for the largest is set aside at once; what is never touched costs nothing.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._arrays = arrays
        self._buffers: tuple[npt.NDArray[np.uint8], ...] = ()

    def compress(self, array: npt.NDArray[Any], axes: Kept, front: int) -> npt.NDArray[Any]:
        """Return ``array`` with the kept positions only, along axes that are counted from ``front``."""
        for turn, (axis, positions) in enumerate(axes):
            shape = list(array.shape)
            shape[axis + front] = len(positions)
            # Without the mode, numpy would write to memory of its own first.
            array = np.take(array, positions, axis + front, out=self._room(turn % 2, shape, array.dtype), mode='clip')
        return array

    def _room(self, which: int, shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        if not self._buffers:
            size = max(array.nbytes for array in self._arrays.values())
            self._buffers = (np.empty(size, np.uint8), np.empty(size, np.uint8))
        return self._buffers[which][: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def cut_scope(analysis: Analysis, cut: Cut, scope: Any, follow: Followers, zero: bool = False) -> ScopeCut:
    """Prepare the parameters (and their state) of a scope without the removed positions, or with them zeroed.

    Args:
        analysis: finished analysis.
        cut: what leaves.
        scope: the Paddle scope; only read.
        follow: see :func:`~paddleslim_ng.prune.optimizer_state.followers`.
        zero: zero the positions instead, in the parameters only.

    Returns:
        The prepared change.

    Raises:
        GraphError: the scope lacks a parameter or its state, or a shape is not the program's.
    """
    old: dict[str, npt.NDArray[Any]] = {}
    change: dict[str, Change] = {}
    records: dict[str, Positions] = {}
    positions: dict[int, Positions] = {}
    scratch = _Scratch(old)
    for var, axes in kept_positions(analysis, cut).items():
        old[var.name()] = _checked(scope, var.name(), var)
        if zero:
            change[var.name()] = partial(_zero, axes=axes)
            continue
        for _, mask in axes:
            if id(mask) not in positions:
                positions[id(mask)] = np.flatnonzero(mask)
        kept = [(axis, positions[id(mask)]) for axis, mask in axes]
        change[var.name()] = partial(scratch.compress, axes=kept, front=0)
        for one in state_of(var, follow):
            name, front = one.name(), offset(one, var)
            if has_array(scope, name) or not is_idle(one):
                old[name] = _checked(scope, name, var, front)
                change[name] = partial(scratch.compress, axes=kept, front=front)
        for axis, mask in axes:
            records[record_name(var.name(), axis)] = new_record(scope, var.name(), axis, len(mask), positions[id(mask)])
    return ScopeCut(scope, old, change, records)


def catch_up_state(analysis: Analysis, cut: Cut, scope: Any, follow: Followers) -> ScopeCut:
    """Prepare the optimizer state in a scope whose parameters were cut through a program that has no optimizer.

    Args:
        analysis: finished analysis of the training program.
        cut: what leaves.
        scope: the Paddle scope, parameters cut; only read.
        follow: see :func:`~paddleslim_ng.prune.optimizer_state.followers`.

    Returns:
        The prepared change; state that has been cut already, or is not in the scope, is left alone.

    Raises:
        GraphError: some state is neither as before the cut nor as after it, or it is not known which positions to keep.
    """
    old: dict[str, npt.NDArray[Any]] = {}
    change: dict[str, Change] = {}
    scratch = _Scratch(old)
    for var, axes in kept_positions(analysis, cut).items():
        target = _cut_shape(var, analysis.parameters[var], cut)
        for one in state_of(var, follow):
            name, front = one.name(), offset(one, var)
            shape = shape_of(scope, name) if has_array(scope, name) else target
            if shape[front:] == target:
                continue
            old[name] = state = _checked(scope, name, var, front)
            kept = [(axis, _exact(scope, var, axis, mask, state, front)) for axis, mask in axes]
            change[name] = partial(scratch.compress, axes=kept, front=front)
    return ScopeCut(scope, old, change)


Axes = Sequence[tuple[int, npt.NDArray[np.bool_]]]


def _zero(array: npt.NDArray[Any], axes: Axes) -> npt.NDArray[Any]:
    result = array.copy()
    for axis, mask in axes:
        result[(slice(None),) * axis + (~mask,)] = 0
    return result


def _exact(
    scope: Any, var: VarWrapper, axis: int, mask: npt.NDArray[np.bool_], state: npt.NDArray[Any], front: int
) -> Positions:
    """Return the positions that the cut of the parameter kept; any will do for state that is the same everywhere."""
    positions = recorded_positions(scope, var, axis)
    if positions is not None:
        return positions
    if not (state == np.take(state, [0], axis=axis + front)).all():
        raise GraphError(
            f'optimizer state of {var.name()!r} has not been cut with it, and the scope has no record of the positions '
            f'kept along axis {axis}; run the startup program anew before loading the parameters, or prune the '
            'training program first'
        )
    return np.flatnonzero(mask)


def _checked(scope: Any, name: str, var: VarWrapper, front: int = 0) -> npt.NDArray[Any]:
    try:
        array = view_array(scope, name)
    except GraphError as error:
        raise GraphError(
            f'the scope holds no value for {name!r}, which must be cut along with {var.name()!r}; run the startup '
            'program or load the checkpoint into this scope first'
        ) from error
    if array.shape[front:] != var.shape() or array.ndim != front + len(var.shape()):
        raise GraphError(
            f'{name!r} has shape {list(array.shape)} in the scope and {list(var.shape())} in the program; '
            'prune the program that fits the scope, or pass only_graph=True to bring the program to the scope'
        )
    return array


def cut_graph(analysis: Analysis, cut: Cut, follow: Followers) -> None:
    """Bring the program's shapes and attributes to the decision."""
    for var in kept_positions(analysis, cut):
        shape = _cut_shape(var, analysis.parameters[var], cut)
        for one in (var, *follow.get(var, ())):
            one.set_shape((*one.shape()[: offset(one, var)], *shape))
    for var, layout in analysis.layouts.items():
        shape = _cut_shape(var, layout, cut)
        if shape != var.shape():
            var.set_shape(shape)
    # Operators that edits insert infer their types from these shapes.
    analysis.apply_edits(cut)
    if analysis.graph.ir == 'legacy':
        repack_gradients(analysis.graph)
        analysis.graph.infer_shape()
        return
    for gradient, var in _gradients(analysis):
        if gradient.shape() != var.shape() and len(gradient.shape()) == len(var.shape()):
            gradient.set_shape(var.shape())
    repack_gradients(analysis.graph)


def _cut_shape(var: VarWrapper, layout: Layout, cut: Cut) -> tuple[int, ...]:
    shape = list(var.shape())
    for axis, mark in layout.items():
        # Programs from paddle.jit.save do not say the shape of what only a backward pass reads.
        if axis < len(shape) and shape[axis] >= 0:
            shape[axis] = cut.count(mark.labels)
    return tuple(shape)


def _gradients(analysis: Analysis) -> Iterator[tuple[VarWrapper, VarWrapper]]:
    """Pair the gradients of a PIR training program with the forward values whose shape they have.

    A gradient operator's ``X@GRAD`` has the shape of its forward operator's ``X``. The forward operator is found
    through the gradient that comes in; operators that add up or rescale gradients pass the pairing on.
    """
    forward: dict[VarWrapper, VarWrapper] = {}
    for op in analysis.graph.ops():
        if not op.is_bwd_op():
            continue
        if op.type() == 'fill_any_like':
            forward.update((out, op.inputs('X')[0]) for out in op.outputs('Out') if op.inputs('X'))
            continue
        known = [forward[var] for var in op.all_inputs() if var in forward]
        for slot in op.output_slots():
            outs = op.outputs(slot)
            for out, var in zip(outs, _forward_inputs(op, slot, known)):
                forward[out] = var
                yield out, var


def _forward_inputs(op: OpWrapper, slot: str, known: list[VarWrapper]) -> list[VarWrapper]:
    own = op.inputs(slot[:-5]) if slot.endswith('@GRAD') else []
    if own:
        return own
    if not known:
        return []
    if op.type() in ('sum', 'scale', 'cast', 'elementwise_add', 'assign'):
        return known[:1]
    producers = known[0].inputs()
    if not producers:
        return []
    if op.type() == 'concat' and producers[0].type() == 'split':
        return producers[0].inputs('X')
    return producers[0].inputs(slot[:-5]) if slot.endswith('@GRAD') else []
