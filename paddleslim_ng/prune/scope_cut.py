"""Carrying a decision out in a scope: parameters and the state of optimizers lose positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper, has_array, load_array, shape_of, store_array, view_array
from paddleslim_ng.errors import GraphError
from paddleslim_ng.prune.channels import Analysis, Cut
from paddleslim_ng.prune.footprint import cut_shape, kept_positions
from paddleslim_ng.prune.optimizer_state import Followers, is_idle, offset, state_of
from paddleslim_ng.prune.records import Positions, new_record, record_name, recorded_positions

__all__ = ['ScopeCut', 'catch_up_state', 'cut_scope']

Kept = Sequence[tuple[int, Positions]]
Axes = Sequence[tuple[int, npt.NDArray[np.bool_]]]
Change = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


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
        target = cut_shape(var, analysis.parameters[var], cut)
        for one in state_of(var, follow):
            name, front = one.name(), offset(one, var)
            shape = shape_of(scope, name) if has_array(scope, name) else target
            if shape[front:] == target:
                continue
            old[name] = state = _checked(scope, name, var, front)
            kept = [(axis, _exact(scope, var, axis, mask, state, front)) for axis, mask in axes]
            change[name] = partial(scratch.compress, axes=kept, front=front)
    return ScopeCut(scope, old, change)


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
