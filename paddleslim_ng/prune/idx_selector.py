"""How channels are chosen once they have scores.

A selector is an object with a ``select`` method (:class:`Selector`); :data:`IDX_SELECTOR` has some by name. A plain
function is taken to have PaddleSlim's form, ``(group, scores, ratios) -> [(name, axis, indices, transforms), ...]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.prune.channel_requests import Request, group_requests, round_removal
from paddleslim_ng.prune.scoring import Group, group_of
from paddleslim_ng.prune.selection import Selection, conclude, keep_axes_alive, without_channels

if TYPE_CHECKING:
    from paddleslim_ng.prune.session import PruningSession

__all__ = ['IDX_SELECTOR', 'FunctionSelector', 'LowestScores', 'OptimalThreshold', 'Selector', 'get_idx_selector']

Scores = Mapping[str, npt.NDArray[np.float64]]
SelectorFunction = Callable[[Group, dict[str, dict[int, Any]], dict[str, float]], Iterable[Sequence[Any]]]


@runtime_checkable
class Selector(Protocol):
    """Decides what leaves."""

    def select(self, session: PruningSession, requests: Sequence[Request], scores: Scores) -> Selection:
        """Return the decision.

        Args:
            session: the analysis; its ``select`` takes the lowest scores for given counts.
            requests: what was asked for, parameters without channels of their own too.
            scores: one score per position along the channel axis of each request that has channels.
        """
        ...


class LowestScores:
    """Remove the channels of lowest score from each parameter, as many as its ratio asks for."""

    def select(self, session: PruningSession, requests: Sequence[Request], scores: Scores) -> Selection:
        """Return the decision; see :func:`paddleslim_ng.prune.selection.select`."""
        return session.select(requests, scores)


class OptimalThreshold:
    """Remove the weakest channels of each parameter that together hold no more than a share of the energy.

    Energy is the sum of squared scores, and the ratio given for a parameter is the share of it that may be given up
    (Ye et al., 2020, Channel Pruning via Optimal Thresholding, with ``bn_scale`` for scores). Channels of equal score
    stay or leave together, and one always stays.
    """

    def select(self, session: PruningSession, requests: Sequence[Request], scores: Scores) -> Selection:
        """Return the decision."""
        frozen = session.analysis.frozen_roots()
        counts = {}
        for request in (r for r in requests if len(r.labels)):
            remove = _weakest(request, ~frozen[request.classes], scores[request.name])
            counts[request.name] = round_removal(len(request.labels), remove, session.round_to)
        return session.select(requests, scores, counts)


def _weakest(request: Request, free: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> int:
    """Count the positions below the threshold that keeps a share ``1 - ratio`` of the squared scores."""
    scores = np.maximum(scores, 0.0)
    energies = np.bincount(request.inverse, weights=scores**2, minlength=len(request.classes))
    means = request.class_means(scores)
    order = np.flatnonzero(free)[np.argsort(means[free], kind='stable')]
    spent = np.cumsum(energies[order])
    number = int(np.searchsorted(spent, request.ratio * energies.sum(), side='right'))
    if free.all():
        number = min(number, len(order) - 1)
    if number < len(order):
        number = int(np.searchsorted(means[order], means[order[number]], side='left'))
    return min(int(request.sizes[order[:number]].sum()), len(request.labels) - 1)


class FunctionSelector:
    """Let a caller's function of PaddleSlim's form decide.

    For each set of coupled parameters, in order of falling ratio, the function is called with ``group``, the parameter
    axes that leave together, of which the first, the master, is the requested one; ``scores``, ``{name: {axis:
    scores}}``; and ``ratios``, ``{name: ratio}``. Of the ``(name, axis, indices, transforms)`` that it returns, the
    master's decides: positions of coupled axes follow by the analysis. A class of channels is decided by the first call
    that sees it, and leaves if all its positions were chosen.

    Args:
        function: ``(group, scores, ratios) -> [(name, axis, indices, transforms), ...]``.
    """

    def __init__(self, function: SelectorFunction) -> None:
        self.function = function

    def select(self, session: PruningSession, requests: Sequence[Request], scores: Scores) -> Selection:
        """Return the decision.

        Raises:
            ConfigError: the function returns no usable entry for a parameter.
        """
        analysis = session.analysis
        rest, skipped = without_channels(requests)
        frozen = analysis.frozen_roots()
        removed, decided = np.zeros((2, analysis.space.size), dtype=np.bool_)
        counts: dict[str, int] = {}
        for coupled in group_requests(rest):
            ratios = {r.name: r.ratio for r in coupled}
            for request in sorted(coupled, key=lambda r: -r.ratio):
                open_classes = ~frozen[request.classes] & ~decided[request.classes]
                if open_classes.any():
                    table = {r.name: {r.axis: scores[r.name].copy()} for r in coupled}
                    chosen = _positions(self.function(group_of(session, request), table, dict(ratios)), request)
                    counts[request.name] = int(np.count_nonzero(chosen))
                    whole = np.bincount(request.inverse[chosen], minlength=len(request.classes)) == request.sizes
                    removed[request.classes[open_classes & whole]] = True
                    decided[request.classes] = True
        keep_axes_alive(analysis, removed, rest, scores)
        for request in rest:
            counts.setdefault(request.name, int(request.sizes[removed[request.classes]].sum()))
        selection = conclude(analysis, rest, counts, removed)
        selection.skipped[:0] = skipped
        return selection


def _positions(entries: Any, request: Request) -> npt.NDArray[np.bool_]:
    """Return which positions of the request's axis the entries name.

    Raises:
        ConfigError: there is no entry for it, or its indices are no positions of the axis.
    """
    form = 'the idx_selector must return [(name, axis, indices, transforms), ...]'
    try:
        found = [entry[2] for entry in entries if entry[0] == request.name and entry[1] == request.axis]
    except (TypeError, IndexError, KeyError) as error:
        raise ConfigError(f'{form}, got {entries!r}') from error
    if not found:
        raise ConfigError(f'{form} with an entry for {request.name!r}, axis {request.axis}')
    indices = np.atleast_1d(np.asarray(found[0]))
    size = len(request.labels)
    chosen = np.zeros(size, dtype=np.bool_)
    if indices.size and (indices.dtype.kind not in 'iu' or indices.min() < 0 or indices.max() >= size):
        raise ConfigError(f'{form} with positions from 0 to {size - 1} for {request.name!r}, got {found[0]!r}')
    chosen[indices.astype(np.int64)] = True
    return chosen


IDX_SELECTOR: Mapping[str, Selector] = {
    'default_idx_selector': LowestScores(),
    'optimal_threshold': OptimalThreshold(),
}
"""Selectors by name."""


def get_idx_selector(selector: str | Selector | SelectorFunction) -> Selector:
    """Return a selector by name, an object with ``select`` as it is, and a function of PaddleSlim's form wrapped.

    Raises:
        ConfigError: an unknown name, or none of these.
    """
    if isinstance(selector, str):
        if selector not in IDX_SELECTOR:
            near = nearest_names(selector, IDX_SELECTOR)
            raise ConfigError(f'unknown idx_selector {selector!r}{near}; known: {sorted(IDX_SELECTOR)}')
        return IDX_SELECTOR[selector]
    if isinstance(selector, type):
        raise ConfigError(f'idx_selector is the class {selector.__name__}; pass an instance of it')
    if isinstance(selector, Selector):
        return selector
    if not callable(selector):
        raise ConfigError(
            f'idx_selector must be a name, an object with a select method or a callable, got {type(selector).__name__}'
        )
    return FunctionSelector(selector)
