"""From sensitivity curves to pruning ratios."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from paddleslim_ng.errors import ConfigError

__all__ = ['get_ratios_by_loss']

_LOG = logging.getLogger(__name__)
Point = tuple[float, float]


def get_ratios_by_loss(
    sensitivities: Mapping[str, Mapping[float, float]],
    loss: float,
    *,
    monotone: bool = False,
    through_zero: bool = False,
) -> dict[str, float]:
    """Find for each parameter the ratio at which its curve reaches ``loss``.

    A curve is scanned from its largest ratio down to the first measured loss that does not exceed ``loss``; between
    that point and the next larger ratio the curve is a straight line. Where the largest ratio itself is within
    ``loss`` it is the answer: nothing is extrapolated. So a curve that crosses ``loss`` more than once, as noisy ones
    do, gives its last crossing, which is the optimistic one.

    Args:
        sensitivities: ``{parameter: {ratio: relative loss}}``; negative losses are gains.
        loss: tolerated relative loss, for example 0.01.
        monotone: first replace each curve by the non-decreasing one nearest in least squares (isotonic regression),
            so that the noise of single measurements does not decide.
        through_zero: count the loss 0 at ratio 0 as measured, so that a parameter whose smallest ratio already costs
            too much still gets a small one.

    Returns:
        ``{parameter: ratio}``. A parameter whose smallest measured ratio already exceeds ``loss`` is left out (the
        log names it), unless ``through_zero`` is set.

    Raises:
        ConfigError: ``loss`` or a measured value is not a finite number.

    Example:
        >>> curves = {'conv1_weights': {0.1: 0.0, 0.2: 0.02, 0.3: 0.1}}
        >>> slim.prune.get_ratios_by_loss(curves, 0.01)
        {'conv1_weights': 0.15000000000000002}
    """
    if not math.isfinite(loss):
        raise ConfigError(f'loss must be a finite number, not {loss!r}')
    ratios: dict[str, float] = {}
    omitted: list[str] = []
    for parameter, curve in sensitivities.items():
        points = _points(parameter, curve)
        if monotone:
            points = _isotonic(points)
        if through_zero and points and points[0][0] > 0:
            points = [(0.0, 0.0), *points]
        ratio = _crossing(points, float(loss))
        if ratio is None:
            omitted.append(parameter)
        else:
            ratios[parameter] = ratio
    if omitted:
        _LOG.warning(
            'left unpruned, since even the smallest measured ratio loses more than %g: %s', loss, ', '.join(omitted)
        )
    return ratios


def _points(parameter: str, curve: Mapping[float, float]) -> list[Point]:
    points = sorted((float(ratio), float(value)) for ratio, value in curve.items())
    bad = [point for point in points if not all(map(math.isfinite, point))]
    if bad:
        raise ConfigError(f'the sensitivities of {parameter!r} contain {bad[0]}; every ratio and loss must be finite')
    return points


def _crossing(points: Sequence[Point], loss: float) -> float | None:
    for index in range(len(points) - 1, -1, -1):
        ratio, value = points[index]
        if value > loss:
            continue
        if index == len(points) - 1:
            return ratio
        next_ratio, next_value = points[index + 1]
        return ratio + (loss - value) * (next_ratio - ratio) / (next_value - value)
    return None


def _isotonic(points: Sequence[Point]) -> list[Point]:
    if len(points) < 2:
        return list(points)
    from sklearn.isotonic import isotonic_regression

    fitted = isotonic_regression([value for _, value in points])
    return [(ratio, float(value)) for (ratio, _), value in zip(points, fitted)]
