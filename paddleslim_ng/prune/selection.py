"""Which label classes leave: from requested ratios and scores to a :class:`~paddleslim_ng.prune.channels.Cut`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paddleslim_ng.prune.channel_requests import Request, Scores, group_requests, target_count
from paddleslim_ng.prune.channels import Analysis, Cut

__all__ = ['Selection', 'Skipped', 'conclude', 'keep_axes_alive', 'lowest_classes', 'select', 'without_channels']


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
