"""Values that a pruner keeps aside, after another strategy has removed channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import has_array, load_array, shape_of
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.sparse.mask_state import BACKUP

__all__ = ['follow_cuts']


def follow_cuts(state: Mapping[str, Any], scope: Any) -> dict[str, Any]:
    """Bring the values of weights that may come back to the shapes that parameters have now.

    Args:
        state: of :meth:`slim.sparse.UnstructuredPruner.state_dict`.
        scope: the parameters, with the records of what channels were kept. Where there is no record, what has left
            comes back from zero.
    """
    found = dict(state)
    for key, values in state.items():
        name = key[len(BACKUP) :]
        if key.startswith(BACKUP) and has_array(scope, name) and shape_of(scope, name) != np.shape(values):
            found[key] = _cut(np.asarray(values), name, scope)
    return found


def _cut(values: npt.NDArray[Any], name: str, scope: Any) -> npt.NDArray[Any]:
    present = load_array(scope, name)
    for axis, size in enumerate(values.shape):
        record = record_name(name, axis)
        if size == present.shape[axis] or not has_array(scope, record):
            continue
        rows = load_array(scope, record)
        fitting = rows[rows[:, 0] == size]
        if len(fitting):
            values = np.take(values, fitting[0, 1:], axis)
    return values if values.shape == present.shape else present
