"""Pictures of quantization errors: a bar for every layer, histograms of the worst ones, boxes of many tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from paddleslim_ng.quant.error_figures import Histogram
    from paddleslim_ng.quant.layer_errors import RuntimeErrors

__all__ = ['plot_boxes', 'plot_histograms', 'plot_runtime_errors', 'save_figure']

_COLUMNS: Final = 3
_LARGEST: Final = 120.0  # decibels that stand for no error
_LETTERS: Final = 40


def plot_runtime_errors(
    errors: RuntimeErrors, path: str | os.PathLike[str] | None = None, *, worst: int = 6, by: str = 'own'
) -> Figure:
    """Draw signal to noise of all layers in program order, and histograms of the worst ones.

    Args:
        errors: by :func:`paddleslim_ng.quant.runtime_errors`.
        path: file to write, of any format that matplotlib knows by its suffix; written atomically.
        worst: how many layers get a histogram.
        by: ``'own'`` or ``'accumulated'``: which error ranks them.

    Raises:
        ConfigError: an unknown suffix or rank.
    """
    ranked = errors.ranked(by)[: max(worst, 0)]
    figure, axes = _figure(1 + -(-len(ranked) // _COLUMNS), max(6.0, 0.35 * len(errors.layers)))
    top = figure.add_subplot(axes[0, :])
    places = np.arange(len(errors.layers))
    for offset, kind, colour in ((-0.2, 'own', '#31688e'), (0.2, 'accumulated', '#b8c7d6')):
        decibels = [min(max(getattr(layer, kind).sqnr, 0.0), _LARGEST) for layer in errors.layers]
        top.bar(places + offset, decibels, 0.4, color=colour, label=kind)
    top.set_xticks(places, [_short(layer.output) for layer in errors.layers], rotation=90, fontsize=7)
    top.set_ylabel('signal to noise, dB')
    top.set_title(f'error of layers on {errors.runtime}')
    top.legend(frameon=False)
    for index, layer in enumerate(ranked):
        _histogram(figure.add_subplot(axes[1 + index // _COLUMNS, index % _COLUMNS]), layer.output, layer.histogram)
    return _finished(figure, path)


def plot_histograms(histograms: Mapping[str, Histogram], path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the values of tensors in float and quantized.

    Args:
        histograms: by name.
        path: file to write; see :func:`plot_runtime_errors`.

    Raises:
        ConfigError: there is none, or an unknown suffix.
    """
    if not histograms:
        raise ConfigError('there is no histogram to plot')
    figure, axes = _figure(-(-len(histograms) // _COLUMNS), 10.0)
    for index, (name, histogram) in enumerate(histograms.items()):
        _histogram(figure.add_subplot(axes[index // _COLUMNS, index % _COLUMNS]), name, histogram)
    return _finished(figure, path)


def plot_boxes(
    values: Mapping[str, Sequence[float] | npt.NDArray[Any]],
    path: str | os.PathLike[str] | None = None,
    title: str = '',
) -> Figure:
    """Draw a box for the values of each tensor, outliers as points.

    Args:
        values: by name.
        path: file to write; see :func:`plot_runtime_errors`.
        title: above the picture.

    Raises:
        ConfigError: there is none, or an unknown suffix.
    """
    if not values:
        raise ConfigError('there is no tensor to plot')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 0.35 * len(values)), 5.0), layout='constrained')
    axes = figure.add_subplot()
    axes.boxplot([np.asarray(row, np.float64).reshape(-1) for row in values.values()], sym='.')
    axes.set_xticks(range(1, len(values) + 1), [_short(name) for name in values], rotation=90, fontsize=7)
    axes.set_title(title)
    return _finished(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure atomically, in the format of the suffix.

    Raises:
        ConfigError: matplotlib has no such format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = Path(path)
    suffix = target.suffix.lstrip('.').lower()
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    if suffix not in known:
        raise ConfigError(f'matplotlib cannot write {target.name!r}; use one of {sorted(known)}')
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=120)
    atomic_write(target, buffer.getvalue())


def _figure(rows: int, width: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.0 * rows), layout='constrained')
    return figure, figure.add_gridspec(rows, _COLUMNS)


def _histogram(axes: Any, name: str, histogram: Histogram) -> None:
    axes.stairs(histogram.exact + 0.5, histogram.edges, fill=True, color='#b8c7d6', label='float', baseline=0.5)
    axes.stairs(histogram.found + 0.5, histogram.edges, color='#d1495b', label='quantized', baseline=0.5)
    axes.set_yscale('log')
    axes.set_title(_short(name), fontsize=8)
    axes.legend(frameon=False, fontsize=7)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f'...{name[3 - _LETTERS :]}'


def _finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        save_figure(figure, path)
    return figure
