"""The result of a compression run as one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paddleslim_ng.analysis.flops import LayerCost
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime.atomic import atomic_write
from paddleslim_ng.runtime.latency import Latency

__all__ = ['ModelFigures', 'Report', 'ReportTable', 'write_report']


@dataclass(frozen=True)
class ModelFigures:
    """What is known of one model; None leaves a cell empty.

    Attributes:
        label: such as ``'trained'``, ``'pruned'``, ``'fine-tuned'``.
        accuracy: fraction in [0, 1].
        flops: multiply-accumulates of one sample.
        params: elements of all parameters.
        file_bytes: size of the inference model.
        latency: of one run.
    """

    label: str
    accuracy: float | None = None
    flops: int | None = None
    params: int | None = None
    file_bytes: int | None = None
    latency: Latency | None = None


@dataclass(frozen=True)
class ReportTable:
    """A table of its own, for what the other sections have no place for.

    Attributes:
        title: heading of the section.
        head: names of the columns.
        rows: cells as text, row by row; the first of a row names it.
        text: a paragraph above the table.
        notes: lines below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ''
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """The content of a report. Everything but the title may be left out, and is then not shown.

    Attributes:
        title: heading of the page.
        models: in order of their making; the first is what the others are compared with.
        equivalence: figures of the checks, such as ``{'maximum absolute difference': 1e-6}``.
        layers_before: :func:`paddleslim_ng.analysis.layer_costs` of the original.
        layers_after: the same of the pruned program; rows are matched by name.
        sensitivities: ``{parameter: {ratio: loss}}``.
        loss: tolerated loss by which the ratios were chosen.
        ratios: ``{parameter: ratio}`` as chosen.
        tables: further tables, such as the files made for devices and what was measured of them.
        notes: lines that the reader should know, such as those of ``pruner.report``.
        environment: versions, machine, seeds, times.
    """

    title: str
    models: Sequence[ModelFigures] = ()
    equivalence: Mapping[str, float | str] = field(default_factory=dict)
    layers_before: Sequence[LayerCost] = ()
    layers_after: Sequence[LayerCost] = ()
    sensitivities: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    loss: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[ReportTable] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """Return the whole page."""
        from paddleslim_ng.analysis.report_html import render

        return render(self)


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write a report as one HTML file that needs nothing else: no script, no network, light and dark.

    Args:
        path: the file; its folder must exist. An older one is replaced in one step.
        report: the content.

    Raises:
        ConfigError: there is no title, or a row of a table has not as many cells as its head.
        OSError: the file cannot be written.

    Example:
        >>> write_report('report.html', Report('Digits', models=[ModelFigures('trained', accuracy=0.97)]))
    """
    if not report.title:
        raise ConfigError('a report needs a title')
    for table in report.tables:
        uneven = [list(row) for row in table.rows if len(row) != len(table.head)]
        if uneven:
            raise ConfigError(f'table {table.title!r} has {len(table.head)} columns, and a row {uneven[0]}')
    atomic_write(path, report.html())
