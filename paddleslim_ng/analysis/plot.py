"""Sensitivity curves as a matplotlib figure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['plot_sensitivities']

_LINES_PER_LEGEND_COLUMN = 20


def plot_sensitivities(
    sensitivities: Mapping[str, Mapping[float, float]],
    path: str | os.PathLike[str] | None = None,
    loss: float | None = None,
) -> Figure:
    """Draw one curve per parameter: the loss of the metric against the ratio pruned.

    The figure has no part in pyplot's state, needs no display, and is released like any object. Colours follow the
    order of the parameters, from the first (dark) to the last (light).

    Args:
        sensitivities: ``{parameter: {ratio: loss}}``, as :func:`paddleslim_ng.prune.sensitivity` returns it; ratios and
            losses are fractions.
        path: file to write, of any format matplotlib knows by its suffix; written atomically.
        loss: draw this tolerated loss as a dashed line.

    Returns:
        The ``matplotlib.figure.Figure``.

    Raises:
        ConfigError: there is no curve, or the suffix is unknown.
    """
    curves = {name: sorted(curve.items()) for name, curve in sensitivities.items() if curve}
    if not curves:
        raise ConfigError('there is no sensitivity to plot: the dictionary is empty')
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = -(-len(curves) // _LINES_PER_LEGEND_COLUMN)
    figure = Figure(figsize=(8.0 + 2.2 * columns, 5.0), layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = matplotlib.colormaps['viridis']
    for index, (name, points) in enumerate(curves.items()):
        colour = colours(0.92 * index / max(len(curves) - 1, 1))
        ratios, losses = zip(*points)
        axes.plot(ratios, losses, marker='o', markersize=3.5, linewidth=1.6, color=colour, label=name)
    if loss is not None:
        axes.axhline(loss, color='0.35', linestyle='--', linewidth=1.0, label=f'tolerated loss {loss:g}')
    axes.set_xlabel('ratio of channels pruned')
    axes.set_ylabel('relative loss of the metric')
    axes.margins(x=0.03)
    axes.grid(color='0.9')
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(loc='center left', bbox_to_anchor=(1.01, 0.5), fontsize='small', frameon=False, ncols=columns)
    if path is not None:
        _save(figure, canvas, Path(path))
    return figure


def _save(figure: Figure, canvas: Any, path: Path) -> None:
    import io

    from paddleslim_ng.runtime.atomic import atomic_write

    suffix = path.suffix.lstrip('.').lower()
    if suffix not in canvas.get_supported_filetypes():
        raise ConfigError(
            f'matplotlib cannot write {path.name!r}; use one of {sorted(canvas.get_supported_filetypes())}'
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=150)
    atomic_write(path, buffer.getvalue())
