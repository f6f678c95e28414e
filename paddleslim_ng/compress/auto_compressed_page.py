"""The page about a compressed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle

from paddleslim_ng.analysis import LayerCost, Report, ReportTable
from paddleslim_ng.compress.auto_compressed import GIVEN, AutoCompressed, shown
from paddleslim_ng.version import __version__

__all__ = ['report_of']


def report_of(
    made: AutoCompressed,
    title: str,
    layers_before: Sequence[LayerCost],
    layers_after: Sequence[LayerCost],
    strategies: Mapping[str, Any],
) -> Report:
    """Return the content of the page.

    Args:
        made: what it tells of.
        title: its heading.
        layers_before: costs of the given model.
        layers_after: of the compressed one.
        strategies: by name; those that measured sensitivities have them.
    """
    sensitivities = [one.sensitivities for one in strategies.values() if getattr(one, 'sensitivities', None)]
    tables = [*_metrics(made), *made.result.report_tables(), _files(made)]
    tables += [made.measured.report_table()] if made.measured is not None else []
    return Report(
        title,
        models=list(made.figures.values()),
        layers_before=layers_before,
        layers_after=layers_after,
        sensitivities=sensitivities[-1] if sensitivities else {},
        tables=tables,
        notes=[*(one.summary for one in made.lite), *made.notes],
        environment={
            'Paddle': paddle.__version__,
            'paddleslim-ng': __version__,
            'training': f'{sum(record.seconds for record in made.result.records):.0f} s',
        },
    )


def _metrics(made: AutoCompressed) -> list[ReportTable]:
    names = list(made.metrics[GIVEN])
    rows = [[label, *(shown(found.get(name)) for name in names)] for label, found in made.metrics.items()]
    text = 'Of every model, read back from its files.'
    return [ReportTable('Metrics', ['model', *names], rows, text)] if names else []


def _files(made: AutoCompressed) -> ReportTable:
    return ReportTable('Files', ['what', 'program file'], [[label, str(path)] for label, path in made.files.items()])
