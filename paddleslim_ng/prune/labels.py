"""Integer labels of channel positions, the union-find over them, and decisions about which of them leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper

__all__ = ['NO_LABELS', 'Cut', 'LabelArray', 'LabelSpace', 'Layout', 'Mark', 'Obstacle', 'Size']

LabelArray = npt.NDArray[np.int64]


class Mark(NamedTuple):
    """Labels of one axis, and whether the tensor is exactly zero at removed positions when the footprint is zeroed."""

    labels: LabelArray
    zero: bool


Layout = Mapping[int, Mark]
"""Labelled axes of one tensor; an axis that is not in it is fixed."""

NO_LABELS: Layout = {}


class Obstacle(NamedTuple):
    """Why some labels cannot leave.

    Attributes:
        op: canonical type of the operator that keeps them.
        variable: the tensor that it reads or writes, or ``''``.
        axis: the axis of that tensor.
        reason: what the operator does there.
        path: operator types from a parameter to the operator, both ends of the way included; empty where not asked for.
    """

    op: str
    variable: str
    axis: int
    reason: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f' (axis {self.axis} of {self.variable})' if self.variable else ''
        way = f' [{" -> ".join(self.path)}]' if self.path else ''
        return f'{self.op}{where}: {self.reason}{way}'


class Size(NamedTuple):
    """One entry of a tensor that holds sizes, as ``shape`` makes it.

    Attributes:
        value: the number, or None where only the running program knows it.
        labels: the channels that it counts, or None.
        source: the constant tensor of one element that holds it, or None.
    """

    value: int | None
    labels: LabelArray | None = None
    source: VarWrapper | None = None


class LabelSpace:
    """Union-find over integer labels, on whole numpy arrays at a time."""

    def __init__(self) -> None:
        self._parent: LabelArray = np.arange(1024, dtype=np.int64)
        self.size = 0

    def fresh(self, count: int) -> LabelArray:
        """Return ``count`` new labels."""
        first, self.size = self.size, self.size + count
        if self.size > len(self._parent):
            grown = np.arange(max(self.size, 2 * len(self._parent)), dtype=np.int64)
            grown[: len(self._parent)] = self._parent
            self._parent = grown
        return np.arange(first, self.size, dtype=np.int64)

    def find(self, labels: LabelArray) -> LabelArray:
        """Return the representative (the smallest label) of each label's class."""
        parent = self._parent
        roots = parent[labels]
        while True:
            above = parent[roots]
            if (above == roots).all():
                break
            roots = above
        parent[labels] = roots
        return roots

    def unite(self, left: LabelArray, right: LabelArray) -> None:
        """Merge the classes of ``left[i]`` and ``right[i]`` for every i."""
        if left is right:
            return
        parent = self._parent
        while True:
            a, b = self.find(left), self.find(right)
            differ = a != b
            if not differ.any():
                return
            low, high = np.minimum(a[differ], b[differ]), np.maximum(a[differ], b[differ])
            # Where one root occurs twice the last write wins; the loop repeats until all pairs agree.
            parent[high] = low

    def roots(self) -> LabelArray:
        """Return the representative of every label."""
        return self.find(np.arange(self.size, dtype=np.int64))


class Cut:
    """A decision: which label classes leave. Answers for any label array which positions stay.

    Attributes:
        kept: what :func:`~paddleslim_ng.prune.footprint.kept_positions` has found, or None.
    """

    def __init__(self, space: LabelSpace, removed: npt.NDArray[np.bool_]) -> None:
        self.kept: dict[VarWrapper, list[tuple[int, npt.NDArray[np.bool_]]]] | None = None
        self._kept_of_label = ~removed[space.roots()]
        self._memo: dict[int, tuple[LabelArray, npt.NDArray[np.bool_], int]] = {}

    def _entry(self, labels: LabelArray) -> tuple[LabelArray, npt.NDArray[np.bool_], int]:
        entry = self._memo.get(id(labels))
        if entry is None:
            mask = self._kept_of_label[labels]
            entry = self._memo[id(labels)] = (labels, mask, int(np.count_nonzero(mask)))
        return entry

    def keep(self, labels: LabelArray) -> npt.NDArray[np.bool_]:
        """Return the mask of positions that stay."""
        return self._entry(labels)[1]

    def count(self, labels: LabelArray) -> int:
        """Return how many positions stay."""
        return self._entry(labels)[2]

    def touches(self, labels: LabelArray) -> bool:
        """Tell whether any position leaves."""
        return self._entry(labels)[2] != len(labels)
