"""A teacher's parameters on their way into the student's scope."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddleslim_ng.core import GraphWrapper, has_array, store_array, view_array
from paddleslim_ng.core.merging import MergedProgram
from paddleslim_ng.core.parameters import share_tensor
from paddleslim_ng.errors import GraphError

__all__ = ['StateTransfer']


class StateTransfer:
    """Copies, or within one scope moves, the state of a merged program to its new names.

    Args:
        scope: gets the state under its new names.
        home: has it under its old names.
        merged: what was merged.
        student: wrapped target program: what it has of the same name stays in ``scope``.
        place: device; where each tensor is now if None.
    """

    def __init__(self, scope: Any, home: Any, merged: MergedProgram, student: GraphWrapper, place: Any = None) -> None:
        self._scope = scope
        self._home = home
        self._place = place
        self._names = {name: merged.names[name] for name in merged.state}
        self._moves = [name for name in self._names if home is scope and not student.has_var(name)]
        self._done: list[str] = []

    def check(self) -> None:
        """Look at both scopes before anything is copied.

        Raises:
            GraphError: a parameter is not initialized, or its new name holds something else already.
        """
        for old, new in self._names.items():
            if not has_array(self._home, old):
                moved = self._home is self._scope and has_array(self._scope, new)
                hint = (
                    f'{new!r} is there: an earlier merge has moved it; load the teacher again, or give it a teacher_scope'
                    if moved
                    else "run the teacher's startup program or load its parameters, or name their scope in teacher_scope"
                )
                raise GraphError(f'the scope has no parameter {old!r} of the teacher: {hint}')
            if has_array(self._scope, new) and not self._same(old, new):
                raise GraphError(
                    f'the scope already has a {new!r} with another content: merge under another prefix, or erase it'
                )

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
