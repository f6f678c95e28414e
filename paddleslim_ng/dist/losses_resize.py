"""Feature maps of different sizes: the larger one is averaged over windows until it is as large as the other."""

from __future__ import annotations

from typing import Optional

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.errors import GraphError

__all__ = ['check_windows', 'resize']

Window = Optional[tuple[int, int]]


def check_windows(teacher: VarWrapper, student: VarWrapper) -> tuple[Window, Window]:
    """Return over which windows (height, width) the two maps in NCHW are averaged; None where one stays as it is.

    Unknown sizes are taken to be equal.

    Raises:
        GraphError: the sizes differ by no whole factor.
    """
    windows = [[1, 1], [1, 1]]
    for axis in (0, 1):
        sizes = [var.shape()[2 + axis] for var in (teacher, student)]
        small, large = sorted(sizes)
        if small < 1 or small == large:
            continue
        if large % small:
            raise GraphError(
                f'the sizes of {teacher.name()!r} {list(teacher.shape())} and {student.name()!r} '
                f'{list(student.shape())} differ by no whole factor: {large} cannot be averaged down to {small}'
            )
        windows[sizes.index(large)][axis] = large // small
    first, second = (None if window == [1, 1] else (window[0], window[1]) for window in windows)
    return first, second


def resize(e: Expressions, x: VarWrapper, window: Window) -> VarWrapper:
    """Return maps in NCHW averaged over disjoint windows."""
    return x if window is None else e.average_pool(x, window)
