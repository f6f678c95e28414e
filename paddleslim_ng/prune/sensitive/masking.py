"""Zeroing channels in a scope for a while, and putting every bit back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from paddleslim_ng.core import load_array, store_array

__all__ = ['Footprint', 'restoring', 'zero_positions', 'zeroed']

Footprint = Mapping[str, Sequence[tuple[int, npt.NDArray[Any]]]]


def zero_positions(array: npt.NDArray[Any], cuts: Sequence[tuple[int, npt.NDArray[Any]]]) -> npt.NDArray[Any]:
    """Return a copy of ``array`` with zeros at the given positions of the given axes.

    Args:
        array: a parameter.
        cuts: (axis, positions along it) pairs.
    """
    masked = array.copy()
    for axis, positions in cuts:
        masked[(slice(None),) * axis + (positions,)] = 0
    return masked


@contextmanager
def zeroed(scope: Any, footprint: Footprint, place: Any = None) -> Iterator[None]:
    """Inside, the parameters of ``footprint`` are zero at its positions; afterwards they are bit for bit as before.

    Args:
        scope: the scope that holds the parameters.
        footprint: ``{parameter: [(axis, positions), ...]}``.
        place: device of the parameters; the CPU where None.

    Raises:
        GraphError: the scope lacks a parameter; nothing was changed.
    """
    with restoring(scope, footprint, place) as originals:
        for name, cuts in footprint.items():
            store_array(scope, name, zero_positions(originals[name], cuts), place)
        yield


@contextmanager
def restoring(scope: Any, names: Iterable[str], place: Any = None) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Keep copies of tensors and write them back at the end, whatever happened inside; shapes may have changed.

    Yields:
        The copies, by name.
    """
    originals = {name: load_array(scope, name) for name in names}
    try:
        yield originals
    finally:
        with _interrupts_wait():
            for name, array in originals.items():
                store_array(scope, name, array, place)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, so that it cannot cut a restoration short."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    pending: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pending:
            signal.raise_signal(signal.SIGINT)
