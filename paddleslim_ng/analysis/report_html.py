"""The sections of the report as HTML; every text from outside is escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Final

from paddleslim_ng.analysis.flops import LayerCost
from paddleslim_ng.analysis.report import ModelFigures, Report
from paddleslim_ng.analysis.svg import axes_for, line_chart

__all__ = ['render']

_STYLE: Final = """
:root { color-scheme: light dark; --page: #fbfbf9; --card: #fff; --ink: #1d1f22; --soft: #60656c; --rule: #e2e2dc;
  --curve: #2f6db3; --mark: #c2541b; --good: #1b7a4b; --bad: #b3362b; --bar: #cfdff2; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e8e8e4; --soft: #a0a5ac;
  --rule: #34383e; --curve: #7db1ee; --mark: #f0935a; --good: #5fc491; --bad: #f08a80; --bar: #2c4562; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 20px; }
h2 { font-size: 18px; margin: 40px 0 6px; }
p { color: var(--soft); margin: 0 0 12px; max-width: 74ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); gap: 12px; }
.tile, figure { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 12px 16px; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.tile b { display: block; font-size: 24px; font-weight: 600; line-height: 1.3; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 6px 14px; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .text { text-align: left; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule); }
tbody th { font-weight: 400; }
.free td { white-space: normal; max-width: 44ch; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tr.same { color: var(--soft); }
tfoot > tr > * { border-top: 2px solid var(--rule); font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat left / var(--share) 100%; min-width: 160px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 12px; }
figure { margin: 0; padding: 10px 8px 4px; }
figcaption { font-size: 13px; padding: 0 6px; overflow-wrap: anywhere; }
figcaption span { color: var(--mark); }
svg { display: block; width: 100%; height: auto; }
svg .grid { stroke: var(--rule); } svg .zero { stroke: var(--soft); stroke-width: .8; }
svg .tick { fill: var(--soft); font: 10px system-ui, sans-serif; }
svg .curve { fill: none; stroke: var(--curve); stroke-width: 2; stroke-linejoin: round; }
svg .point { fill: var(--curve); }
svg .threshold { stroke: var(--soft); stroke-dasharray: 4 3; }
svg line.chosen { stroke: var(--mark); stroke-dasharray: 2 2; } svg circle.chosen { fill: var(--mark); }
ul { padding-left: 20px; } li { margin: 2px 0; overflow-wrap: anywhere; }
@media print { body { background: #fff; } .tile, figure, tr { break-inside: avoid; } }
"""


def render(report: Report) -> str:
    """Return the page of a report."""
    sections: Sequence[Callable[[Report], str]] = (
        _tiles,
        _models,
        _equivalence,
        _sensitivities,
        _ratios,
        _layers,
        _tables,
        _notes,
        _environment,
    )
    title = escape(report.title)
    body = '\n'.join(part for part in (section(report) for section in sections) if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><style>{_STYLE}</style></head>\n<body><main><h1>{title}</h1>\n{body}\n</main></body></html>\n'
    )


def _section(title: str, text: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2>{f"<p>{escape(text)}</p>" if text else ""}{content}</section>'


def _table(head: Iterable[str], rows: Iterable[str], foot: str = '') -> str:
    columns = ''.join(f'<th scope="col">{escape(name)}</th>' for name in head)
    end = f'<tfoot>{foot}</tfoot>' if foot else ''
    return (
        f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody>{end}</table></div>'
    )


def _cells(name: str, values: Iterable[str], kind: str = '') -> str:
    """Return a row; the values are HTML."""
    attribute = f' class="{kind}"' if kind else ''
    return f'<tr{attribute}><th scope="row">{escape(name)}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>'


def _count(value: int | None) -> str:
    return '' if value is None else f'{value:,}'


def _short(value: float) -> str:
    for unit, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if abs(value) >= size:
            return f'{value / size:.3g} {unit}'
    return f'{value:.4g}'


def _bytes(value: int | None) -> str:
    return '' if value is None else f'{_short(value)}B'


def _change(before: float | None, after: float | None) -> str:
    """Return the relative change as HTML, green where it fell."""
    if not before or after is None:
        return ''
    change = after / before - 1
    kind = 'good' if change < -5e-5 else 'bad' if change > 5e-5 else ''
    text = f'{100 * change:+.1f} %'.replace('-', '\u2212')
    return f'<span class="{kind}">{text}</span>' if kind else text


def _tiles(report: Report) -> str:
    """Show the last model against the first."""
    if len(report.models) < 2:
        return ''
    first, last = report.models[0], report.models[-1]
    tiles = []
    if first.accuracy is not None and last.accuracy is not None:
        points = 100 * (last.accuracy - first.accuracy)
        kind = 'good' if points >= 0 else 'bad'
        change = f'{points:+.2f}'.replace('-', '\u2212')
        tiles.append(('accuracy', f'{100 * last.accuracy:.2f} %', f'<span class="{kind}">{change} points</span>'))
    rows: list[tuple[str, Callable[[ModelFigures], float | None], Callable[[Any], str]]] = [
        ('multiply-accumulates', lambda m: m.flops, _short),
        ('parameters', lambda m: m.params, _short),
        ('file size', lambda m: m.file_bytes, _bytes),
        ('latency', lambda m: m.latency.median if m.latency else None, lambda value: f'{value:.3g} ms'),
    ]
    for name, figure, text in rows:
        before, after = figure(first), figure(last)
        if before is not None and after is not None:
            tiles.append((name, escape(text(after)), _change(before, after)))
    shown = ''.join(
        f'<div class="tile"><span>{name}</span><b>{value}</b>{change}</div>' for name, value, change in tiles
    )
    return f'<div class="tiles">{shown}</div>' if tiles else ''


def _models(report: Report) -> str:
    if not report.models:
        return ''
    first = report.models[0]
    head = ['model', 'accuracy', 'MACs', 'change', 'parameters', 'change', 'files', 'latency, ms', 'p10 to p90']
    rows = []
    for model in report.models:
        other = None if model is first else model
        latency = model.latency
        rows.append(
            _cells(
                model.label,
                [
                    '' if model.accuracy is None else f'{100 * model.accuracy:.2f} %',
                    _count(model.flops),
                    _change(first.flops, other.flops) if other else '',
                    _count(model.params),
                    _change(first.params, other.params) if other else '',
                    _bytes(model.file_bytes),
                    f'{latency.median:.3f}' if latency else '',
                    f'{latency.p10:.3f} to {latency.p90:.3f}' if latency else '',
                ],
            )
        )
    text = 'MACs: multiply-accumulates of convolutions and matrix products, for one sample. Latency: median of one run.'
    return _section('Models', text, _table(head, rows))


def _equivalence(report: Report) -> str:
    if not report.equivalence:
        return ''
    rows = [
        _cells(name, [escape(value) if isinstance(value, str) else f'{value:.3g}'])
        for name, value in report.equivalence.items()
    ]
    text = 'The pruned network against the original with the same channels zeroed, on the same inputs.'
    return _section('Equivalence', text, _table(['check', 'figure'], rows))


def _sensitivities(report: Report) -> str:
    curves = {name: sorted(curve.items()) for name, curve in report.sensitivities.items() if curve}
    if not curves:
        return ''
    axes = axes_for(list(curves.values()), report.loss)
    figures = []
    for name, points in curves.items():
        ratio = report.ratios.get(name)
        chart = line_chart(name, points, axes, threshold=report.loss, chosen=ratio)
        mark = f' <span>{ratio:.3g}</span>' if ratio is not None else ''
        figures.append(f'<figure><figcaption>{escape(name)}{mark}</figcaption>{chart}</figure>')
    text = 'Relative loss of the metric against the ratio of channels pruned, one parameter at a time.'
    if report.loss is not None:
        text += f' The dashed line is the tolerated loss of {report.loss:g}.'
    if report.ratios:
        text += ' The mark is the ratio chosen.'
    return _section('Sensitivity', text, f'<div class="charts">{"".join(figures)}</div>')


def _ratios(report: Report) -> str:
    if not report.ratios:
        return ''
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="bar" style="--share: {min(max(ratio, 0.0), 1.0):.1%}">{ratio:.4f}</td></tr>'
        for name, ratio in report.ratios.items()
    ]
    return _section('Ratios pruned', '', _table(['parameter', 'ratio'], rows))


def _layers(report: Report) -> str:
    if not report.layers_before and not report.layers_after:
        return ''
    pairs = _matched(report.layers_before, report.layers_after)
    head = [
        'layer',
        'operator',
        'output before',
        'after',
        'MACs before',
        'after',
        'change',
        'parameters before',
        'after',
    ]
    rows = [_layer_row(before, after) for before, after in pairs]
    sums = [
        sum(getattr(row, key) for row in side)
        for key in ('macs', 'params')
        for side in (report.layers_before, report.layers_after)
    ]
    total = ['', '', '', _count(sums[0]), _count(sums[1]), _change(sums[0], sums[1]), _count(sums[2]), _count(sums[3])]
    return _section('Layers', 'For one sample; rows in grey are as before.', _table(head, rows, _cells('all', total)))


def _matched(
    before: Sequence[LayerCost], after: Sequence[LayerCost]
) -> list[tuple[LayerCost | None, LayerCost | None]]:
    """Pair rows by name and operator, repeated ones in order; what one side lacks is None."""
    waiting: dict[tuple[str, str], list[LayerCost]] = {}
    for row in after:
        waiting.setdefault((row.name, row.type), []).append(row)
    pairs: list[tuple[LayerCost | None, LayerCost | None]] = []
    for row in before:
        same = waiting.get((row.name, row.type))
        pairs.append((row, same.pop(0) if same else None))
    return pairs + [(None, row) for rows in waiting.values() for row in rows]


def _layer_row(before: LayerCost | None, after: LayerCost | None) -> str:
    known = before or after
    if known is None:
        return ''
    values = [
        escape(known.type),
        _shape(before),
        _shape(after),
        _count(before.macs if before else None),
        _count(after.macs if after else None),
        _change(before.macs, after.macs) if before and after else '',
        _count(before.params if before else None),
        _count(after.params if after else None),
    ]
    return _cells(known.name, values, 'same' if before == after else '')


def _shape(row: LayerCost | None) -> str:
    return '' if row is None else ' \u00d7 '.join(map(str, row.output_shape[1:] or row.output_shape))


def _tables(report: Report) -> str:
    parts = []
    for table in report.tables:
        rows = [_cells(first, map(escape, rest)) for first, *rest in table.rows]
        shown = f'<div class="free">{_table(table.head, rows)}</div>'
        parts.append(_section(table.title, table.text, shown + _list(table.notes)))
    return '\n'.join(parts)


def _notes(report: Report) -> str:
    return _section('Notes', '', _list(report.notes)) if report.notes else ''


def _list(lines: Sequence[str]) -> str:
    return '<ul>' + ''.join(f'<li>{escape(str(line))}</li>' for line in lines) + '</ul>' if lines else ''


def _environment(report: Report) -> str:
    if not report.environment:
        return ''
    rows = [_cells(name, [escape(str(value))]) for name, value in report.environment.items()]
    return _section('Environment', '', _table(['item', 'value'], rows))
