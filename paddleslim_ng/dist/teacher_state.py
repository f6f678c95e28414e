"""A teacher's parameters on their way into the student's scope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from paddleslim_ng.core import GraphWrapper, has_array, shape_of, store_array, view_array
from paddleslim_ng.core.merging import MergedProgram
from paddleslim_ng.core.parameters import share_tensor
from paddleslim_ng.errors import GraphError

__all__ = ['StateTransfer']

_ADVICE = (
    ', where the student has a variable of that name, too: give the teacher a scope of its own (teacher_scope), or run '
    'its startup program or load it after the student'
)


class StateTransfer:
    """Copies, or within one scope moves, the state of a merged program to its new names.

    Args:
        scope: gets the state under its new names.
        home: has it under its old names.
        merged: what was merged.
        teacher: the wrapped program that was merged.
        student: the wrapped program before that: what it has of the same name stays in ``scope``.
        place: device; where each tensor is now if None.
    """

    def __init__(
        self,
        scope: Any,
        home: Any,
        merged: MergedProgram,
        teacher: GraphWrapper,
        student: GraphWrapper,
        place: Any = None,
    ) -> None:
        self._scope = scope
        self._home = home
        self._place = place
        self._teacher = teacher
        self._student = student
        self._names = {name: merged.names[name] for name in merged.state}
        self._moves = [name for name in self._names if home is scope and not student.has_var(name)]
        self._done: list[str] = []

    def check(self) -> None:
        """Look at both scopes before anything is copied.

        Raises:
            GraphError: a parameter is not initialized or of another shape, or its new name holds something else.
        """
        for old, new in self._names.items():
            if not has_array(self._home, old):
                moved = self._home is self._scope and has_array(self._scope, new)
                hint = (
                    f'{new!r} is there: an earlier merge has moved it; load it again, or give it a teacher_scope'
                    if moved
                    else "run the teacher's startup program or load it, or name its scope in teacher_scope"
                )
                raise GraphError(f'the scope has no parameter {old!r} of the teacher: {hint}')
            self._check_shape(old, self._teacher.var(old).shape())
            if has_array(self._scope, new) and not self._same(old, new):
                raise GraphError(
                    f'the scope already has a {new!r} with another content: merge under another prefix, or erase it'
                )

    def _check_shape(self, old: str, shape: Sequence[int]) -> None:
        """Raise where the scope holds something else than the teacher's parameter: most likely the student's."""
        found = shape_of(self._home, old)
        if [n for n in found if n != 1] != [n for n in shape if n != 1]:
            raise GraphError(
                f'{old!r} of the teacher has the shape {list(shape)}, and {list(found)} in its scope'
                + _ADVICE * self._student.has_var(old)
            )

    def shared_names(self) -> list[str]:
        """Return what the student has under the same name, in the same scope and of the same shape."""
        if self._home is not self._scope:
            return []
        mine = [name for name in self._names if self._student.has_var(name)]
        return [name for name in mine if self._student.var(name).shape() == shape_of(self._home, name)]

    def _same(self, old: str, new: str) -> bool:
        mine, theirs = view_array(self._home, old), view_array(self._scope, new)
        return mine.shape == theirs.shape and np.array_equal(mine, theirs)

    def copy(self) -> None:
        """Put the state under its new names; the old ones keep theirs until :meth:`finish`."""
        for old, new in self._names.items():
            if has_array(self._scope, new):
                continue
            if old not in self._moves or not share_tensor(self._scope, old, new, self._place):
                store_array(self._scope, new, view_array(self._home, old), self._place or paddle.CPUPlace())
            self._done.append(new)

    def undo(self) -> None:
        """Take back what :meth:`copy` did."""
        self._scope.erase(self._done)
        self._done = []

    def finish(self) -> None:
        """Erase the old names of what has moved."""
        self._scope.erase(self._moves)
