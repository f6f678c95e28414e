"""Which label classes have left, from the shapes or the positions of parameters that were cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray

__all__ = ['cut_from_positions', 'cut_from_shapes', 'kinds_of_classes']


def cut_from_shapes(analysis: Analysis, shapes: Mapping[VarWrapper, tuple[int, ...]]) -> tuple[Cut | None, bool]:
    """Find a cut under which every parameter has the given shape.

    Classes that occur equally often on the same parameter axes, and in the same places of operators that must be edited
    (sections of a split, bounds of a slice), are interchangeable, so it is enough to know how many of each kind stay: a
    small system of integer equations.

    Args:
        analysis: finished analysis.
        shapes: the shapes that the parameters are to have.

    Returns:
        The cut, or None where no choice of classes gives these shapes; and whether it is the only one.
    """
    arrays = [(m.labels, shapes[var][axis]) for var, marks in analysis.parameters.items() for axis, m in marks.items()]
    removed = np.zeros(analysis.space.size, dtype=np.bool_)
    shrunk = [labels for labels, size in arrays if size != len(labels)]
    if not shrunk:
        return Cut(analysis.space, removed), True
    roots = analysis.space.roots()
    touched = np.unique(np.concatenate([roots[labels] for labels in shrunk]))
    position = np.full(analysis.space.size, -1, dtype=np.int64)
    position[touched] = np.arange(len(touched))
    edited = [labels for _, group, _ in analysis.edits for labels in group]
    places = [position[roots[labels]] for labels in (*(labels for labels, _ in arrays), *edited)]
    kind_of, available = kinds_of_classes(places, len(touched))
    rows, wanted = [], []
    for where, (_, size) in zip(places, arrays):
        inside = where[where >= 0]
        if len(inside):
            rows.append(np.bincount(kind_of[inside], minlength=len(available)) / available)
            wanted.append(size - (len(where) - len(inside)))
    frozen = analysis.frozen_roots()
    least = np.bincount(kind_of, weights=frozen[touched], minlength=len(available))
    table, sizes = np.stack(rows), np.asarray(wanted, dtype=np.float64)
    if np.linalg.matrix_rank(table) < table.shape[1]:
        return None, False
    solution, *_ = np.linalg.lstsq(table, sizes, rcond=None)
    counts = np.rint(solution)
    if not np.array_equal(table @ counts, sizes) or (counts < least).any() or (counts > available).any():
        return None, True
    for kind, keep in enumerate(counts.astype(np.int64).tolist()):
        members = touched[kind_of == kind]
        order = np.argsort(~frozen[members], kind='stable')
        removed[members[order[keep:]]] = True
    return Cut(analysis.space, removed), True


def cut_from_positions(analysis: Analysis, kept: Mapping[tuple[VarWrapper, int], LabelArray]) -> Cut:
    """Return the cut that keeps exactly these positions of parameter axes."""
    removed = np.zeros(analysis.space.size, dtype=np.bool_)
    for (var, axis), positions in kept.items():
        labels = analysis.parameters[var][axis].labels
        gone = np.ones(len(labels), dtype=np.bool_)
        gone[positions] = False
        removed[analysis.space.find(labels[gone])] = True
    return Cut(analysis.space, removed)


def kinds_of_classes(places: Sequence[LabelArray], count: int) -> tuple[LabelArray, LabelArray]:
    """Group classes that occur equally often in every array: their kind, and the size of each kind."""
    digest = np.zeros(count, dtype=np.uint64)
    keys = np.random.default_rng(0).integers(1, 2**63, size=len(places), dtype=np.uint64)
    for key, where in zip(keys, places):
        np.add.at(digest, where[where >= 0], key)
    _, kind_of, available = np.unique(digest, return_inverse=True, return_counts=True)
    return kind_of.astype(np.int64), available
