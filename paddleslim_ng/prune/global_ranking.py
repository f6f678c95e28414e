"""One ranking of the channels of all layers, cut where a target for the whole network is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.prune.channel_requests import Request, round_removal
from paddleslim_ng.prune.channels import Cut
from paddleslim_ng.prune.costs import CutCost, InputShapes, get_cost, marginal_costs
from paddleslim_ng.prune.selection import Selection, lowest_classes, without_channels

if TYPE_CHECKING:
    from paddleslim_ng.prune.session import PruningSession

__all__ = ['NORMALIZATIONS', 'GlobalRanking']

Vector = npt.NDArray[np.float64]

NORMALIZATIONS: Mapping[str, Callable[[Vector], float]] = {
    'mean': lambda scores: float(scores.mean()),
    'l2': lambda scores: float(np.linalg.norm(scores)),
    'max': lambda scores: float(scores.max()),
    'none': lambda scores: 1.0,
}
"""By what the scores of a layer are divided to be comparable with those of others."""


class GlobalRanking:
    """Rank the channels of all requested parameters together and remove the lowest until a target is met.

    Scores are divided by a figure of their layer, as in Molchanov et al. (2017, Pruning Convolutional Neural Networks
    for Resource Efficient Inference, which takes the L2 norm); a class of channels that several parameters share gets
    the mean of their scores. The number of classes to remove is found by bisection on the exact cost of what is left.

    The ratios given to ``prune`` are the largest share that each parameter may lose; at least one channel always stays.

    Args:
        target: ``'flops'`` (convolutions and matrix products) or ``'params'``.
        ratio: share of the target to remove from the whole program, in (0, 1).
        normalize: ``'mean'``, ``'l2'``, ``'max'`` or ``'none'``.
        per_cost: divide the score of a class by what it would save alone, so that cheap channels stay longer.
        input_shapes: sizes that the program leaves open, for ``'flops'``.

    Raises:
        ConfigError: an unknown target or normalization, or a ratio outside (0, 1).

    Example:
        >>> selector = slim.prune.GlobalRanking('flops', 0.5)
        >>> pruner = slim.prune.Pruner(idx_selector=selector, round_to=8)
        >>> pruned, _, _ = pruner.prune(program, scope, names, [0.9] * len(names))
    """

    def __init__(
        self,
        target: str = 'flops',
        ratio: float = 0.5,
        *,
        normalize: str = 'mean',
        per_cost: bool = False,
        input_shapes: InputShapes | None = None,
    ) -> None:
        get_cost(target)
        if normalize not in NORMALIZATIONS:
            raise ConfigError(
                f'unknown normalization {normalize!r}{nearest_names(normalize, NORMALIZATIONS)}; '
                f'known: {sorted(NORMALIZATIONS)}'
            )
        if not 0.0 < ratio < 1.0:
            raise ConfigError(f'ratio {ratio} is outside (0, 1)')
        self.target = target
        self.ratio = float(ratio)
        self.normalize = normalize
        self.per_cost = per_cost
        self.input_shapes = input_shapes

    def select(self, session: PruningSession, requests: Sequence[Request], scores: Mapping[str, Vector]) -> Selection:
        """Return the decision.

        Raises:
            ConfigError: the target is out of reach within the ratios given to ``prune``.
        """
        analysis = session.analysis
        rest, _ = without_channels(requests)
        cost = get_cost(self.target)(analysis, self.input_shapes)
        ranking = self._rank(session, rest, scores, cost)
        if not len(ranking.order):
            return session.select(requests, ranking.scores, ranking.counts(0, 1))

        def left_after(number: int) -> int:
            removed = lowest_classes(analysis, rest, ranking.scores, ranking.counts(number, session.round_to))
            return cost(Cut(analysis.space, removed))

        whole = left_after(0)
        number = _bisect(left_after, len(ranking.order), whole * (1.0 - self.ratio))
        left = left_after(number)
        if number == len(ranking.order) and (whole - left) / whole < self.ratio:
            raise ConfigError(
                f'at most {(whole - left) / whole:.4f} of the {self.target} can be removed from these parameters '
                f'within their ratios, not {self.ratio}; ask for less, or name more parameters or larger ratios'
            )
        selection = session.select(requests, ranking.scores, ranking.counts(number, session.round_to))
        selection.notes.append(
            f'global ranking: {(whole - left) / whole:.4f} of {whole} {self.target} removed (target {self.ratio:.4g})'
        )
        return selection

    def _rank(
        self, session: PruningSession, requests: Sequence[Request], scores: Mapping[str, Vector], cost: CutCost
    ) -> _Ranking:
        analysis = session.analysis
        total, seen = np.zeros((2, analysis.space.size))
        for request in requests:
            divisor = NORMALIZATIONS[self.normalize](scores[request.name])
            total[request.classes] += request.class_means(scores[request.name]) / (divisor if divisor > 0 else 1.0)
            seen[request.classes] += 1
        classes = np.flatnonzero((seen > 0) & ~analysis.frozen_roots())
        total[seen > 0] /= seen[seen > 0]
        if self.per_cost and len(classes):
            saved = marginal_costs(analysis, classes, cost)
            total[classes] = np.where(saved > 0, total[classes] / np.maximum(saved, 1e-30), np.inf)
        order = classes[np.argsort(total[classes], kind='stable')]
        return _Ranking(order, requests, {r.name: total[r.classes][r.inverse] for r in requests})


@dataclass
class _Ranking:
    """Free classes by rising score, and the scores by position that go with it."""

    order: npt.NDArray[np.int64]
    requests: Sequence[Request]
    scores: Mapping[str, Vector]

    def counts(self, number: int, round_to: int) -> dict[str, int]:
        """Return how many positions each parameter loses when the first ``number`` classes are to leave."""
        first = self.order[:number]
        result = {}
        for request in self.requests:
            channels = len(request.labels)
            limit = min(math.floor(channels * request.ratio + 1e-9), channels - 1)
            lowest = int(request.sizes[np.isin(request.classes, first)].sum())
            count = round_removal(channels, min(lowest, limit), round_to)
            if count > limit:
                count = max(channels - round_to * math.ceil((channels - limit) / round_to), 0)
            result[request.name] = count
        return result


def _bisect(left_after: Callable[[int], int], most: int, target: float) -> int:
    """Return the number for which ``left_after``, which falls, is nearest to ``target``."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if left_after(middle) > target:
            low = middle + 1
        else:
            high = middle
    if low > 0 and abs(left_after(low - 1) - target) < abs(left_after(low) - target):
        return low - 1
    return low
