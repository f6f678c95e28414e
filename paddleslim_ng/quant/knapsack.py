"""The knapsack of which one item is taken from each group, solved exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ['Item', 'cheapest', 'solve']

Floats = npt.NDArray[np.float64]
# Sums in another order may differ by so much, as a fraction of what is added; no state is dropped for less.
_ROUNDING: Final = 1e-12
_BISECTIONS: Final = 100


class Item(NamedTuple):
    """Something to take.

    Attributes:
        key: its name in its group.
        loss: what taking it costs in quality.
        cost: what it takes of the budget.
    """

    key: int
    loss: float
    cost: float


def cheapest(groups: Iterable[Sequence[Item]]) -> float:
    """Return the smallest sum of costs."""
    return math.fsum(min(item.cost for item in group) for group in groups)


def solve(groups: Mapping[str, Sequence[Item]], budget: float) -> dict[str, Item] | None:
    """Return the item of each group with the least sum of losses whose costs add up to at most ``budget``.

    Dynamic programming over the pairs (cost, loss) that no other pair beats in both, dropping those that cannot lead
    to anything better than what Lagrange's multiplier has found: exact, whatever the costs are, and quick where they
    are not whole numbers, too. Of choices with equal losses the one that costs least is taken.

    Returns:
        By group; None where even the cheapest items are beyond the budget.
    """
    names = list(groups)
    items = [_undominated(groups[name]) for name in names]
    spread = sum(max(abs(item.cost) for item in group) for group in items) * _ROUNDING
    if cheapest(items) > budget + spread:
        return None
    bound = _Bound(items, budget)
    chosen = _search(items, budget + spread, bound)
    return {name: group[place] for name, group, place in zip(names, items, chosen)}


def _undominated(group: Sequence[Item]) -> list[Item]:
    """Leave out what costs no less and loses no less than another one; by rising cost."""
    kept: list[Item] = []
    for item in sorted(group, key=lambda item: (item.cost, item.loss)):
        if not kept or item.loss < kept[-1].loss:
            kept.append(item)
    return kept


class _Bound:
    """What a choice of the groups from some place on can at best lose, by Lagrange's relaxation.

    Attributes:
        multiplier: loss that a unit of the budget is worth.
        best: loss of a choice within the budget.
        ahead: by place, the least sum of ``loss + multiplier * cost`` from there on.
        costs_ahead: by place, the least sum of costs from there on.
    """

    def __init__(self, items: Sequence[Sequence[Item]], budget: float) -> None:
        tables = [(np.array([i.loss for i in group]), np.array([i.cost for i in group])) for group in items]
        self.multiplier, self.best = _multiplier(tables, budget)
        steps = [float(np.min(loss + self.multiplier * cost)) for loss, cost in tables]
        self.ahead = _suffix_sums(steps)
        self.costs_ahead = _suffix_sums([float(cost.min()) for _, cost in tables])


def _suffix_sums(steps: Sequence[float]) -> list[float]:
    return [math.fsum(steps[place:]) for place in range(len(steps) + 1)]


def _multiplier(tables: Sequence[tuple[Floats, Floats]], budget: float) -> tuple[float, float]:
    """Return the smallest multiplier whose choice is within the budget, nearly, and that choice's loss."""

    def choice(multiplier: float) -> tuple[float, float]:
        places = [int(np.argmin(loss + multiplier * cost)) for loss, cost in tables]
        used = math.fsum(float(cost[place]) for place, (_, cost) in zip(places, tables))
        return used, math.fsum(float(loss[place]) for place, (loss, _) in zip(places, tables))

    used, loss = choice(0.0)
    if used <= budget or all(len(cost) == 1 for _, cost in tables):
        return 0.0, loss
    losses = math.fsum(float(loss.max() - loss.min()) for loss, _ in tables)
    gaps = [float(np.min(np.diff(cost))) for _, cost in tables if len(cost) > 1]
    low, high = 0.0, (losses + 1e-300) / min(gaps) * 2.0
    best = math.fsum(float(loss[0]) for loss, _ in tables)  # the cheapest items, which are within the budget
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        used, loss = choice(middle)
        if used <= budget:
            high, best = middle, min(best, loss)
        else:
            low = middle
    return high, best


def _search(items: Sequence[Sequence[Item]], budget: float, bound: _Bound) -> list[int]:
    """Go through the groups with all pairs of cost and loss that may become the best; return the places of the best."""
    costs, losses = np.zeros(1), np.zeros(1)
    trail: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    for place, group in enumerate(items, start=1):
        added_costs = costs[:, None] + np.array([item.cost for item in group])
        added_losses = losses[:, None] + np.array([item.loss for item in group])
        parents, taken = (grid.reshape(-1) for grid in np.indices(added_costs.shape))
        costs, losses = added_costs.reshape(-1), added_losses.reshape(-1)
        kept = _promising(costs, losses, budget, bound, place)
        kept = kept[_frontier(costs[kept], losses[kept])]
        costs, losses = costs[kept], losses[kept]
        trail.append((parents[kept], taken[kept]))
    state = int(np.lexsort((costs, losses))[0])
    chosen = []
    for parents, taken in reversed(trail):
        chosen.append(int(taken[state]))
        state = int(parents[state])
    return chosen[::-1]


def _promising(costs: Floats, losses: Floats, budget: float, bound: _Bound, place: int) -> npt.NDArray[np.int64]:
    within = costs + bound.costs_ahead[place] <= budget
    least = losses + bound.ahead[place] - bound.multiplier * (budget - costs)
    size = np.abs(losses) + abs(bound.ahead[place]) + abs(bound.best) + np.abs(bound.multiplier * (budget - costs))
    return np.flatnonzero(within & (least <= bound.best + size * 1e-9))


def _frontier(costs: Floats, losses: Floats) -> npt.NDArray[np.int64]:
    """Return the places of the pairs that none beats in both, by rising cost."""
    order = np.lexsort((losses, costs))
    best = np.minimum.accumulate(losses[order])
    first = np.concatenate([[True], best[1:] < best[:-1]])
    return np.asarray(order[first])
