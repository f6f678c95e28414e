"""Records in the scope of which positions earlier cuts kept, so that other programs can follow them exactly.

For axis ``a`` of parameter ``p`` the scope variable ``p@kept_positions_a`` (int64) has one row for each size that the
axis had: that size, then the positions of it that are left today.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper, has_array, load_array, shape_of

__all__ = ['Positions', 'new_record', 'record_name', 'recorded_positions']

Positions = npt.NDArray[np.int64]


def record_name(name: str, axis: int) -> str:
    """Return the name of the scope variable that remembers which positions of a parameter's axis were kept."""
    return f'{name}@kept_positions_{axis}'


def recorded_positions(scope: Any, var: VarWrapper, axis: int) -> Positions | None:
    """Return which positions of ``var`` along ``axis`` earlier cuts of this scope kept, if that is known.

    Args:
        scope: the scope that was cut.
        var: a parameter of a program that has not been cut, or not as often.
        axis: axis of the parameter.

    Returns:
        Positions along the axis as the program has it, or None where the record does not fit program and scope.
    """
    name = record_name(var.name(), axis)
    if not has_array(scope, name):
        return None
    rows = load_array(scope, name)
    if rows.ndim != 2 or rows.shape[1] - 1 != shape_of(scope, var.name())[axis]:
        return None
    fitting = rows[rows[:, 0] == var.shape()[axis]]
    return np.asarray(fitting[0, 1:], dtype=np.int64) if len(fitting) else None


def new_record(scope: Any, name: str, axis: int, size: int, kept: Positions) -> Positions:
    """Return the record after one more cut.

    Args:
        scope: the scope before the cut.
        name: parameter.
        axis: its axis.
        size: how many positions there are.
        kept: those that stay.
    """
    rows = np.empty((1, len(kept) + 1), dtype=np.int64)
    rows[0, 0], rows[0, 1:] = size, kept
    record = record_name(name, axis)
    if has_array(scope, record):
        earlier = load_array(scope, record)
        if earlier.ndim == 2 and earlier.shape[1] - 1 == size:
            rows = np.concatenate([np.concatenate([earlier[:, :1], earlier[:, 1:][:, kept]], axis=1), rows])
    return np.ascontiguousarray(rows, dtype=np.int64)
