"""Which label classes leave: from requested ratios and scores to a :class:`~paddleslim_ng.prune.channels.Cut`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray

__all__ = [
    'Request',
    'Selection',
    'Skipped',
    'conclude',
    'cut_from_positions',
    'cut_from_shapes',
    'group_requests',
    'keep_axes_alive',
    'kinds_of_classes',
    'lowest_classes',
    'round_removal',
    'select',
    'target_count',
    'without_channels',
]

Scores = npt.NDArray[np.float64]


@dataclass
class Request:
    """One parameter to prune, with the classes along its channel axis.

    Attributes:
        var: the parameter.
        axis: the axis along which it makes channels.
        labels: labels along that axis.
        ratio: the share asked for.
        classes: representatives of its classes.
        inverse: for each position, the index of its class in ``classes``.
        sizes: positions per class.
    """

    var: VarWrapper
    axis: int
    labels: LabelArray
    ratio: float
    classes: LabelArray = field(init=False)
    inverse: npt.NDArray[np.int64] = field(init=False)
    sizes: npt.NDArray[np.int64] = field(init=False)

    def resolve(self, analysis: Analysis) -> None:
        """Look the classes up, once all unions are done."""
        roots = analysis.space.find(self.labels)
        self.classes, self.inverse, self.sizes = np.unique(roots, return_inverse=True, return_counts=True)

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.var.name()

    def class_means(self, scores: Scores) -> Scores:
        """Return the mean score of each class from one score per position."""
        totals = np.bincount(self.inverse, weights=scores, minlength=len(self.classes))
        return np.asarray(totals / self.sizes, dtype=np.float64)


@dataclass
class Skipped:
    """A parameter that could not be pruned, and why."""

    name: str
    reasons: list[str]


@dataclass
class Selection:
    """What was decided.

    Attributes:
        cut: the decision.
        removed: number of positions removed from each requested parameter.
        skipped: parameters that could not be pruned at all.
        notes: sentences about requests that could not be met as asked.
    """

    cut: Cut
    removed: dict[str, int]
    skipped: list[Skipped]
    notes: list[str]


def target_count(count: int, ratio: float, round_to: int = 1) -> int:
    """Return how many of ``count`` channels to remove: the nearest integer to ``count * ratio``, leaving at least one.

    Args:
        count: channels there are.
        ratio: share to remove.
        round_to: the number that stays is brought to the nearest multiple of this, where that is possible.
    """
    return round_removal(count, min(int(np.floor(count * ratio + 0.5)), count - 1), round_to)


def round_removal(count: int, remove: int, round_to: int) -> int:
    """Bring the number of channels that stay to the nearest multiple of ``round_to``, where that is possible.

    Args:
        count: channels there are.
        remove: channels to remove.
        round_to: at least this many stay.
    """
    if round_to > 1 and remove > 0:
        kept = max(round_to, round_to * int(np.floor((count - remove) / round_to + 0.5)))
        remove = max(count - kept, 0)
    return remove


def group_requests(requests: Sequence[Request]) -> list[list[Request]]:
    """Put requests that share a class into one group; groups and members keep the order asked for."""
    owner: dict[int, int] = {}
    groups: dict[int, list[Request]] = {}
    for index, request in enumerate(requests):
        touched = sorted({owner[root] for root in request.classes.tolist() if root in owner})
        home = touched[0] if touched else index
        groups.setdefault(home, []).append(request)
        for other in touched[1:]:
            groups[home].extend(groups.pop(other))
            owner.update({root: home for root, where in owner.items() if where == other})
        owner.update(dict.fromkeys(request.classes.tolist(), home))
    return list(groups.values())


def without_channels(requests: Sequence[Request]) -> tuple[list[Request], list[Skipped]]:
    """Part requests that have channels from those that have none of their own; the latter are skipped."""
    skipped = [Skipped(r.name, ['it has no channels of its own']) for r in requests if not len(r.labels)]
    return [r for r in requests if len(r.labels)], skipped


def select(
    analysis: Analysis,
    requests: Sequence[Request],
    scores: Mapping[str, Scores],
    round_to: int = 1,
    counts: Mapping[str, int] | None = None,
) -> Selection:
    """Choose the classes of lowest score that meet the requests.

    Parameters that share classes are served together: in order of falling ratio, each loses classes until the number
    asked for is reached, counting those that left with an earlier one. A class larger than what is still wanted is
    passed over, frozen classes stay, and no axis of any tensor is left empty.

    Args:
        analysis: finished analysis.
        requests: resolved requests.
        scores: for each parameter, one score per position along its channel axis.
        round_to: see :func:`target_count`.
        counts: how many positions each parameter is to lose, in place of its ratio.
    """
    if counts is None:
        counts = {r.name: target_count(len(r.labels), r.ratio, round_to) for r in requests}
    return conclude(analysis, requests, counts, lowest_classes(analysis, requests, scores, counts))


def lowest_classes(
    analysis: Analysis, requests: Sequence[Request], scores: Mapping[str, Scores], counts: Mapping[str, int]
) -> npt.NDArray[np.bool_]:
    """Mark the classes of lowest score, so many that each parameter loses ``counts`` positions; see :func:`select`."""
    frozen = analysis.frozen_roots()
    removed = np.zeros(analysis.space.size, dtype=np.bool_)
    for group in group_requests(requests):
        for request in sorted(group, key=lambda r: (-counts[r.name] / len(r.labels), -r.ratio)):
            _remove_lowest(request, ~frozen[request.classes], scores[request.name], counts[request.name], removed)
    keep_axes_alive(analysis, removed, requests, scores)
    return removed


def conclude(
    analysis: Analysis,
    requests: Sequence[Request],
    counts: Mapping[str, int],
    removed: npt.NDArray[np.bool_],
) -> Selection:
    """Turn marked classes into a selection, with what became of each request.

    Args:
        analysis: finished analysis.
        requests: resolved requests.
        counts: how many positions each parameter was to lose.
        removed: for each label taken as a representative, whether its class leaves; no frozen class does, and none that
            :func:`keep_axes_alive` gives back.
    """
    frozen = analysis.frozen_roots()
    selection = Selection(Cut(analysis.space, removed), {}, [], [])
    for request in requests:
        if request.ratio > 0 and frozen[request.classes].all():
            reasons = [str(why) for why in analysis.obstacles(request.labels, request.var)]
            selection.skipped.append(Skipped(request.name, reasons or ['it has no channels of its own']))
            continue
        got, wanted = int(request.sizes[removed[request.classes]].sum()), counts[request.name]
        selection.removed[request.name] = got
        if got != wanted:
            selection.notes.append(_explain_difference(request, got, wanted, frozen, analysis))
    return selection


def _remove_lowest(
    request: Request, free: npt.NDArray[np.bool_], scores: Scores, count: int, removed: npt.NDArray[np.bool_]
) -> None:
    """Mark free classes of lowest mean score until ``count`` positions of the request leave."""
    gone = removed[request.classes]
    wanted = count - int(request.sizes[gone].sum())
    if wanted <= 0:
        return
    order = np.argsort(request.class_means(scores), kind='stable')
    candidates = order[free[order] & ~gone[order]]
    sizes = request.sizes[candidates]
    if len(sizes) and (sizes == sizes[0]).all():
        chosen = candidates[: wanted // int(sizes[0])]
        removed[request.classes[chosen]] = True
        return
    for index, size in zip(candidates.tolist(), sizes.tolist()):
        if size <= wanted:
            removed[request.classes[index]] = True
            wanted -= size


def keep_axes_alive(
    analysis: Analysis, removed: npt.NDArray[np.bool_], requests: Sequence[Request], scores: Mapping[str, Scores]
) -> None:
    """Give the best class back to any axis that would be left with nothing."""
    if not removed.any():
        return
    value: dict[int, float] = {}
    for request in requests:
        value.update(zip(request.classes.tolist(), request.class_means(scores[request.name]).tolist()))
    roots = analysis.space.roots()
    gone = removed[roots]
    for labels in analysis.label_arrays():
        if gone[labels].all() and removed[roots[labels]].all():
            best = max(np.unique(roots[labels]).tolist(), key=lambda root: value.get(root, 0.0))
            removed[best] = False


def _explain_difference(
    request: Request, got: int, wanted: int, frozen: npt.NDArray[np.bool_], analysis: Analysis
) -> str:
    head = f'{request.name}: {got} of {len(request.labels)} channels removed rather than {wanted}'
    if got > wanted:
        return f'{head}, because it is coupled with a parameter pruned by a larger ratio'
    if frozen[request.classes].any():
        reasons = '; '.join(str(why) for why in analysis.obstacles(request.labels)[:3])
        return f'{head}, because some cannot leave ({reasons})'
    return f'{head}, because channels leave in groups of {int(request.sizes.min())} to {int(request.sizes.max())}'


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
