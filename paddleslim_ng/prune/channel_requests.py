"""What is asked of parameters: which classes each has, how many of its channels leave, and who shares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.prune.channels import Analysis, LabelArray

__all__ = ['Request', 'Scores', 'group_requests', 'round_removal', 'target_count']

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
