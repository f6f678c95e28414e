"""Measured figures as a table, and what they mean in words, with the spread taken seriously."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paddleslim_ng.deploy.engine_row import EngineRow, counterpart, percent
from paddleslim_ng.deploy.engines import ENGINES
from paddleslim_ng.deploy.quantized_verdict import about_quantization
from paddleslim_ng.runtime.latency import Latency

__all__ = ['HEAD', 'MARGIN', 'Comparison', 'EngineRow', 'cells', 'compare', 'table', 'verdict']

#: Columns of the table of figures.
HEAD = ('model', 'engine', 'median ms', 'p10', 'p90', 'memory MB', 'speed', 'difference', 'note')

#: Fraction below which a difference is called none, however small the spread: two processes of one and the same small
#: model differ by almost that much through the placement of their memory alone.
MARGIN = 0.1
#: Difference of outputs, as a fraction of their scale, beyond which accuracy should be checked.
_NOTABLE_DIFFERENCE = 0.02
#: The same, beyond which an engine computes something else, and is not recommended however fast.
_OTHER_COMPUTATION = 0.25
#: Fraction of interrupted runs from which a machine is called busy.
_BUSY = 0.25


@dataclass(frozen=True)
class Comparison:
    """A latency beside another.

    Attributes:
        ratio: median of the first by that of the second: above 1, the second is faster.
        outcome: ``'faster'``, ``'slower'`` or ``'same'``.
    """

    ratio: float
    outcome: str
    reason: str = ''

    def __str__(self) -> str:
        if self.outcome == 'same':
            return f'no faster: {self.ratio:.2f}x, {self.reason}'
        factor = self.ratio if self.outcome == 'faster' else 1 / self.ratio
        return f'{factor:.2f}x {self.outcome}'


def compare(before: Latency, after: Latency) -> Comparison:
    """Say whether ``after`` is faster than ``before``.

    A difference counts where the median of either lies outside the other's 10th to 90th percentile, and the medians are
    more than :data:`MARGIN` apart.
    """
    ratio = before.median / after.median
    slower, faster = (before, after) if ratio >= 1 else (after, before)
    if faster.median >= slower.p10 or slower.median <= faster.p90:
        return Comparison(ratio, 'same', 'within the spread')
    if slower.median < (1 + MARGIN) * faster.median:
        return Comparison(ratio, 'same', f'less than {MARGIN:.0%} apart')
    return Comparison(ratio, 'faster' if ratio > 1 else 'slower')


def cells(rows: Sequence[EngineRow], baseline: str | None = None) -> list[list[str]]:
    """Return the figures as texts, a list per row, under :data:`HEAD`, with the speed relative to ``baseline``.

    That is the speed on the same engine, or for int8, where that has none, on oneDNN in float.
    """
    return [_cells(row, counterpart(rows, baseline, row.engine)) for row in rows]


def table(rows: Sequence[EngineRow], baseline: str | None = None) -> str:
    """Return :func:`cells` as aligned text, one line per row."""
    every = [list(HEAD), *cells(rows, baseline)]
    widths = [max(len(line[column]) for line in every) for column in range(len(HEAD))]
    lines = []
    for line in every:
        texts = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        texts += [text.rjust(width) for text, width in zip(line[2:-1], widths[2:-1])]
        lines.append('  '.join([*texts, line[-1]]).rstrip())
    return '\n'.join(lines)


def _cells(row: EngineRow, base: EngineRow | None) -> list[str]:
    times = ['-', '-', '-'] if row.latency is None else [_ms(v) for v in (row.latency.median, row.latency.p10)]
    if row.latency is not None:
        times.append(_ms(row.latency.p90))
    speed = '-'
    if row.latency is not None and base is not None and base.latency is not None and base is not row:
        speed = f'{base.latency.median / row.latency.median:.2f}x'
    memory = '-' if row.memory_mb is None else f'{row.memory_mb:.1f}'
    difference = '-' if row.difference is None else f'{row.difference:.1e}'
    return [row.model, row.engine, *times, memory, speed, difference, row.note]


def _ms(value: float) -> str:
    return f'{value:.3f}' if value < 10 else f'{value:.1f}'


def verdict(rows: Sequence[EngineRow], baseline: str | None = None) -> list[str]:
    """Return what the figures mean, one sentence per entry.

    Args:
        rows: one for each model and engine, those that did not run included.
        baseline: label of the model that the others are compared with; None compares engines only.
    """
    others = list(dict.fromkeys(row.model for row in rows if row.model != baseline))
    sentences = [] if baseline is None else [text for label in others for text in _beside(rows, baseline, label)]
    sentences += _advice(rows, baseline)
    sentences += about_quantization(rows, baseline)
    sentences += _caveats(rows)
    return [*sentences, *_not_run(rows)]


def _beside(rows: Sequence[EngineRow], baseline: str, label: str) -> list[str]:
    """Compare one model with the original: engine by engine, and each at its best."""
    sentences = []
    said = []
    for row in rows:
        base = counterpart(rows, baseline, row.engine)
        if row.model != label or row.latency is None or base is None or base.latency is None:
            continue
        comparison = compare(base.latency, row.latency)
        # 2.2x slower on MobileNetV1, where Paddle Inference gains a factor of 3.
        advice = ''
        if row.engine == 'lite_x86' and row.quantized and not base.quantized and comparison.outcome != 'faster':
            advice = '; keep fp32 there'
        sentences.append(f'{label} on {row.title}: {_against(comparison, baseline)}{_pair(row, base)}{advice}')
        said.append((row, base))
    best, base = _fastest(rows, label), _fastest(rows, baseline)
    if best is None or base is None or (best, base) in said:
        return sentences
    if best.latency is not None and base.latency is not None:
        comparison = compare(base.latency, best.latency)
        sentences.append(
            f'each at its best, {label} on {best.title} and {baseline} on {base.title}: '
            f'{label} is {_against(comparison, baseline)}{_pair(best, base)}'
        )
    return sentences


def _against(comparison: Comparison, baseline: str) -> str:
    return str(comparison) if comparison.outcome == 'same' else f'{comparison} than {baseline}'


def _pair(row: EngineRow, base: EngineRow) -> str:
    if row.latency is None or base.latency is None:
        return ''
    where = f' on {base.title}' if (row.engine, base.engine) == ('int8', ENGINES['int8'].in_float) else ''
    return f' ({_ms(row.latency.median)} ms against {_ms(base.latency.median)} ms{where})'


def _advice(rows: Sequence[EngineRow], baseline: str | None) -> list[str]:
    """Recommend one model on one engine, or to keep the original."""
    best = _fastest(rows)
    if best is None or best.latency is None:
        return ['nothing could be measured']
    base = None if baseline is None else _fastest(rows, baseline)
    if base is not None and base.latency is not None and best.model != baseline:
        comparison = compare(base.latency, best.latency)
        if comparison.outcome == 'faster':
            return [f'fastest: {best.model} on {best.title}, {comparison} than {baseline} at its best']
        return [f'for speed, keep {baseline} on {base.title}: nothing measured is clearly faster']
    if base is not None and len({row.model for row in rows if row.latency is not None}) > 1:
        return [f'for speed, keep {baseline} on {best.title}: nothing measured is faster']
    rest = [row for row in rows if row is not best and row.model == best.model and _is_trusted(row)]
    equal = [
        row.title for row in rest if row.latency is not None and compare(row.latency, best.latency).outcome == 'same'
    ]
    addition = f'; {" and ".join(equal)} within the spread of it' if equal else ''
    return [f'fastest: {best.model} on {best.title}{addition}']


def _caveats(rows: Sequence[EngineRow]) -> list[str]:
    """Say where outputs differ, and how busy the machine was."""
    first = {row.model: row for row in reversed(rows) if row.latency is not None}
    sentences = [
        _about_outputs(row, first[row.model])
        for row in rows
        if row.difference is not None and not row.difference <= _NOTABLE_DIFFERENCE
    ]
    interrupted = max((row.latency.interrupted for row in rows if row.latency is not None), default=0.0)
    if interrupted > _BUSY:
        sentences.append(
            f'the machine was busy: other programs interrupted up to {interrupted:.0%} of the runs of an engine; these '
            'do not count where enough others are left, but measure again on a quiet machine'
        )
    return sentences


def _about_outputs(row: EngineRow, first: EngineRow) -> str:
    advice = 'check the accuracy there' if _is_trusted(row) else 'do not use it there'
    if row.difference is None or not math.isfinite(row.difference):
        return f'outputs of {row.model} on {row.title} are no numbers, or of another shape: {advice}'
    return (
        f'outputs of {row.model} on {row.title} differ by {percent(row.difference)} of their scale from those on '
        f'{first.title}: {advice}'
    )


def _is_trusted(row: EngineRow) -> bool:
    return row.difference is None or row.difference <= _OTHER_COMPUTATION


def _not_run(rows: Sequence[EngineRow]) -> list[str]:
    """Name every engine that did not run, models of the same reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.latency is None:
            reasons.setdefault((row.title, row.note), []).append(row.model)
    return [f'not executed: {", ".join(models)} on {title}: {note}' for (title, note), models in reasons.items()]


def _fastest(rows: Sequence[EngineRow], model: str | None = None) -> EngineRow | None:
    """Return the row of the smallest median, of one model or of all, among those that compute the right thing."""
    ran = [row for row in rows if row.latency is not None and _is_trusted(row) and model in (None, row.model)]
    return min(ran, key=lambda row: row.latency.median if row.latency else 0.0, default=None)
