"""From measured sensitivities to the ratios that bring a network to a cost at one and the same loss of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.costs import CutCost
from paddleslim_ng.prune.session import PruningSession

__all__ = ['FoundRatios', 'LossCurve', 'find_ratios']

_POINTS = 2001
# Lets layers that lose nothing over a range of ratios take part evenly, instead of all at once.
_TILT = 1e-4
_STEPS = 40
# Share of the cost before that a result may be off, and how many parameters are held back for a better one.
_CLOSE, _HELD = 0.01, 8


class LossCurve:
    """Loss of the metric as a rising function of the share of the channels that leave.

    Measured losses are brought to the nearest rising sequence (isotonic regression), so that noise and gains do not
    decide, and are joined by a monotone cubic (PCHIP, Fritsch and Carlson, 1980). Without pruning nothing is lost;
    without any channel everything is.

    Args:
        measured: ``{ratio: relative loss}``.

    Raises:
        ConfigError: there is no measurement, or one that is not finite.
    """

    def __init__(self, measured: Mapping[float, float]) -> None:
        from scipy.interpolate import PchipInterpolator
        from sklearn.isotonic import isotonic_regression

        points = np.array(sorted(measured.items()), np.float64).reshape(-1, 2)
        if not len(points) or not np.isfinite(points).all():
            raise ConfigError(f'a curve needs finite losses by ratio, not {dict(measured)}')
        rising = np.maximum(isotonic_regression(points[:, 1]), 0.0)
        ratios = np.concatenate([[0.0], points[:, 0], [1.0]])
        losses = np.concatenate([[0.0], rising, [max(1.0, rising[-1])]])
        self._ratios = np.linspace(0.0, 1.0, _POINTS)
        self._losses = PchipInterpolator(ratios, losses)(self._ratios) + _TILT * self._ratios
        # Against the rounding of the cubic.
        self._losses = np.maximum.accumulate(self._losses)

    @property
    def highest(self) -> float:
        """Loss without any channel."""
        return float(self._losses[-1])

    def loss_at(self, ratio: float) -> float:
        """Return the loss at a ratio."""
        return float(np.interp(ratio, self._ratios, self._losses))

    def ratio_at(self, loss: float) -> float:
        """Return the ratio at which so much is lost."""
        return float(np.interp(loss, self._losses, self._ratios))


class FoundRatios(NamedTuple):
    """Ratios, and what they come to.

    Attributes:
        ratios: share of the channels of each parameter.
        left: cost of what stays.
    """

    ratios: dict[str, float]
    left: int


def find_ratios(
    session: PruningSession, curves: Mapping[str, LossCurve], most: Mapping[str, float], cost: CutCost, wanted: float
) -> FoundRatios:
    """Find the ratios, all at one loss, whose cost is nearest to what is wanted; nothing is cut.

    The loss is found by bisection. Counts of channels are whole, and multiples of ``round_to``, so that the cost falls
    in steps; where it jumps past what is wanted, some parameters take the lower side of the jump. Where that is not
    within 1 % of the cost before, the parameter that jumped stays there, and the others go on to a higher loss.

    Args:
        session: analysis of the program.
        curves: by parameter.
        most: largest ratio of each.
        cost: of what stays after a cut.
        wanted: cost that is to stay.

    Raises:
        NotPrunableError: none of the parameters can be pruned.
    """

    def tried(ratios: dict[str, float]) -> FoundRatios:
        return FoundRatios(ratios, cost(session.decide(list(ratios), list(ratios.values())).cut))

    def between(held: Mapping[str, float]) -> tuple[FoundRatios, FoundRatios]:
        """Bisect; return what is found on both sides of what is wanted."""

        def at(loss: float) -> FoundRatios:
            return tried({name: held.get(name, min(curves[name].ratio_at(loss), most[name])) for name in curves})

        low_loss, high_loss = 0.0, max(curve.highest for curve in curves.values())
        low, high = at(low_loss), at(high_loss)
        for _ in range(_STEPS):
            if high.left >= wanted:
                break
            middle_loss = (low_loss + high_loss) / 2
            middle = at(middle_loss)
            if middle.left >= wanted:
                low_loss, low = middle_loss, middle
            else:
                high_loss, high = middle_loss, middle
        return low, high

    before = tried(dict.fromkeys(curves, 0.0)).left
    held: dict[str, float] = {}
    found: list[FoundRatios] = []
    while len(held) < min(len(curves), _HELD):
        low, high = between(held)
        names = [name for name in curves if name not in held]
        mixed = [tried(ratios) for ratios in _mixtures(low.ratios, high.ratios, names)]
        found += [low, high, *mixed]
        if high.left >= wanted or abs(_nearest(found, wanted).left - wanted) <= _CLOSE * before:
            break
        jumped = next(name for name, one in zip(names, [*mixed, high]) if one.left < wanted)
        held[jumped] = low.ratios[jumped]
    return _nearest(found, wanted)


def _mixtures(low: Mapping[str, float], high: Mapping[str, float], names: Sequence[str]) -> Iterable[dict[str, float]]:
    """Yield mixtures in which one parameter after the other goes from the low side to the high one."""
    mixed = dict(low)
    for name in names[:-1]:
        mixed[name] = high[name]
        yield dict(mixed)


def _nearest(found: Iterable[FoundRatios], wanted: float) -> FoundRatios:
    return min(found, key=lambda one: abs(one.left - wanted))
