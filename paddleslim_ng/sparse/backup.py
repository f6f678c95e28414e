"""The values of weights that have left, from which they may come back (PocketFlow's WeightSparse)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import store_array, view_array
from paddleslim_ng.sparse.masks import read_mask
from paddleslim_ng.sparse.scores import Mask

__all__ = ['Backup']


class Backup:
    """Dense values: of a weight that stays, the last one saved; of one that has left, the one from when it left."""

    def __init__(self) -> None:
        self._values: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._values[name]

    def save(self, scope: Any, parameters: Iterable[str], copies: Mapping[str, Sequence[str]]) -> None:
        """Take the present values of all weights that have not left, and of single-precision copies of them."""
        for name in parameters:
            mask = read_mask(scope, name)
            for item in (name, *copies.get(name, ())):
                values = view_array(scope, item)
                if item not in self._values:
                    self._values[item] = np.array(values)
                else:
                    np.copyto(self._values[item], values, where=mask != 0)

    def restore(self, scope: Any, name: str, mask: Mask, place: Any, copies: Sequence[str]) -> None:
        """Write a parameter, and its copies, as a new mask leaves it."""
        for item in (name, *copies):
            values = self._values[item]
            store_array(scope, item, values * mask.astype(values.dtype), place)

    def clear(self) -> None:
        """Forget everything: what is zero then stays so."""
        self._values.clear()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all values."""
        return {name: values.copy() for name, values in self._values.items()}

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take other values."""
        self._values = {name: np.array(values) for name, values in arrays.items()}
