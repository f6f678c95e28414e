"""The fewest layers that have to stay in float for a metric to be good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paddleslim_ng.errors import ConfigError

__all__ = ['FloatLayers', 'fewest_float_layers']

Kept = tuple[str, ...]


@dataclass(frozen=True)
class FloatLayers:
    """What :func:`fewest_float_layers` found.

    Attributes:
        layers: those that stay in float, the most sensitive one first.
        metric: with these in float and all others quantized.
        evaluations: the metric of every set of float layers that was tried, in order.
    """

    layers: Kept
    metric: float
    evaluations: tuple[tuple[Kept, float], ...]


def fewest_float_layers(ranked: Sequence[str], metric: Callable[[Kept], float], target: float) -> FloatLayers:
    """Return a set of layers with which a target is met, and none of which can be spared.

    Bisection finds how many of the most sensitive layers are enough; then layers are quantized again one by one, the
    least sensitive first, as long as the target is met, until none of them can be. That no other set of fewer layers
    would do takes all subsets to know.

    Args:
        ranked: all layers, the most sensitive one first.
        metric: of the model with given layers in float, the larger the better.
        target: smallest metric that is allowed.

    Raises:
        ConfigError: not even the float model meets the target.
    """
    seen: dict[Kept, float] = {}

    def passes(kept: Kept) -> bool:
        if kept not in seen:
            seen[kept] = metric(kept)
        return seen[kept] >= target

    every = tuple(ranked)
    if passes(()):
        return _result((), seen)
    if not passes(every):
        raise ConfigError(f'the float model has a metric of {seen[every]:.6g}, so that {target:.6g} is out of reach')
    low, high = 0, len(every)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(every[:middle]) else (middle, high)
    kept = every[:high]
    while True:
        smaller = next((rest for rest in _without_one(kept) if passes(rest)), None)
        if smaller is None:
            return _result(kept, seen)
        kept = smaller


def _without_one(kept: Kept) -> list[Kept]:
    return [kept[:place] + kept[place + 1 :] for place in reversed(range(len(kept)))]


def _result(kept: Kept, seen: dict[Kept, float]) -> FloatLayers:
    return FloatLayers(kept, seen[kept], tuple(seen.items()))
