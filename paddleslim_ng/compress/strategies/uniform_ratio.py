"""The one ratio for all layers that brings a network to a cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paddleslim_ng.prune.costs import get_cost
from paddleslim_ng.prune.session import PruningSession

__all__ = ['UniformRatio', 'find_uniform_ratio']

_STEPS = 24


class UniformRatio(NamedTuple):
    """A ratio, and what it comes to.

    Attributes:
        ratio: share of the channels of every layer.
        removed: share of the cost that leaves with them.
        before: cost of the whole network.
    """

    ratio: float
    removed: float
    before: int


def find_uniform_ratio(
    session: PruningSession, names: Sequence[str], target: str, removal: float, most: float
) -> UniformRatio:
    """Find the ratio whose removal comes nearest to what is wanted, by bisection; nothing is cut.

    Counts of channels are whole, and multiples of ``round_to``, so that the cost falls in steps; the nearer side of the
    step is taken.

    Args:
        session: analysis of the program.
        names: parameters to prune.
        target: ``'flops'`` or ``'params'``, see :data:`paddleslim_ng.prune.costs.COSTS`.
        removal: share of the cost to remove.
        most: largest ratio.

    Returns:
        The ratio; 0 where nothing is nearer than the first step.

    Raises:
        NotPrunableError: none of the parameters can be pruned.
    """
    cost = get_cost(target)(session.analysis)
    nothing = session.decide(names, [0.0] * len(names)).cut
    before = cost(nothing)

    def tried(ratio: float) -> UniformRatio:
        left = cost(session.decide(names, [ratio] * len(names)).cut)
        return UniformRatio(ratio, 1.0 - left / before, before)

    low, high = UniformRatio(0.0, 0.0, before), tried(most)
    for _ in range(_STEPS):
        if high.removed <= removal:
            break
        middle = tried((low.ratio + high.ratio) / 2)
        if middle.removed <= removal:
            low = middle
        else:
            high = middle
    found = min((low, high), key=lambda found: abs(found.removed - removal))
    return found if found.removed else UniformRatio(0.0, 0.0, before)
