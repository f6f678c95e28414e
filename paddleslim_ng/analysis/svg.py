"""Small line charts as inline SVG, coloured by the style sheet of the page that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ['Axes', 'axes_for', 'line_chart', 'nice_ticks']

_WIDTH, _HEIGHT = 232.0, 158.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 8.0, 10.0, 26.0


@dataclass(frozen=True)
class Axes:
    """The ranges that a set of charts shares.

    Attributes:
        x_ticks: labelled positions from the lower to the upper end of the x axis.
        y_ticks: the same of the y axis.
    """

    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the picture."""
        return (
            _LEFT + _share(x, self.x_ticks) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - _share(y, self.y_ticks) * (_HEIGHT - _TOP - _BOTTOM),
        )


def _share(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def nice_ticks(low: float, high: float, count: int = 4) -> tuple[float, ...]:
    """Return about ``count`` round numbers, evenly spaced, that enclose ``low`` and ``high``."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 2.5, 5, 10) if factor * scale >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 12) for index in range(first, max(last, first + 1) + 1))


def axes_for(curves: Sequence[Sequence[tuple[float, float]]], threshold: float | None = None) -> Axes:
    """Return axes that hold every point of every curve, the origin and the threshold."""
    xs = [0.0, *(x for curve in curves for x, _ in curve)]
    ys = [0.0, *(y for curve in curves for _, y in curve if math.isfinite(y))]
    if threshold is not None:
        ys.append(threshold)
    return Axes(nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys)))


def line_chart(
    title: str,
    points: Sequence[tuple[float, float]],
    axes: Axes,
    *,
    threshold: float | None = None,
    chosen: float | None = None,
) -> str:
    """Return one curve as an ``<svg>`` element.

    Args:
        title: said by screen readers and shown on hovering.
        points: (x, y), sorted by x; points with y not finite are left out.
        axes: ranges, shared with the neighbouring charts.
        threshold: y of a dashed line.
        chosen: x of a mark on the curve.
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    parts = [f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(title)}">']
    parts += _grid(axes)
    if threshold is not None:
        (x0, y), (x1, _) = axes.at(axes.x_ticks[0], threshold), axes.at(axes.x_ticks[-1], threshold)
        parts.append(f'<line class="threshold" x1="{x0:.1f}" y1="{y:.1f}" x2="{x1:.1f}" y2="{y:.1f}"/>')
    if finite:
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in (axes.at(*point) for point in finite))
        parts.append(f'<polyline class="curve" points="{path}"/>')
    for x, y in finite:
        cx, cy = axes.at(x, y)
        parts.append(
            f'<circle class="point" cx="{cx:.1f}" cy="{cy:.1f}" r="2.6"><title>{x:g}: {y:.4g}</title></circle>'
        )
    if chosen is not None and finite:
        cx, cy = axes.at(chosen, _interpolate(finite, chosen))
        parts.append(f'<line class="chosen" x1="{cx:.1f}" y1="{cy:.1f}" x2="{cx:.1f}" y2="{_HEIGHT - _BOTTOM:g}"/>')
        parts.append(
            f'<circle class="chosen" cx="{cx:.1f}" cy="{cy:.1f}" r="4"><title>chosen: {chosen:.4g}</title></circle>'
        )
    return ''.join([*parts, '</svg>'])


def _grid(axes: Axes) -> list[str]:
    parts = []
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for tick in axes.y_ticks:
        _, y = axes.at(axes.x_ticks[0], tick)
        kind = 'zero' if tick == 0 else 'grid'
        parts.append(f'<line class="{kind}" x1="{_LEFT:g}" y1="{y:.1f}" x2="{right:g}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5:g}" y="{y + 3:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in axes.x_ticks:
        x, _ = axes.at(tick, axes.y_ticks[0])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 14:g}" text-anchor="middle">{tick:g}</text>')
    return parts


def _interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """Follow the straight pieces of the curve; it starts at the origin and is level beyond its last point."""
    known = [(0.0, 0.0), *points] if points[0][0] > 0 else list(points)
    for (x0, y0), (x1, y1) in zip(known, known[1:]):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y1
    return known[-1][1]
