"""RESULTS.md from the figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from harness import PADDLESLIM, SIDES, Case, Metric, Outcome, Results, Target, ratio_of

INTRODUCTION = """\
# Benchmarks

Written by `make bench` (`benchmarks/run.py`); the figures behind it are in `RESULTS.json`. The sides take turns on one
machine, each in a process and an environment of its own, with one thread. Times are CPU seconds of the process: the
median, and in parentheses the least and the most where there are several; behind them, how many times as long
PaddleSlim took. Networks and parameter values are the same on all sides.
"""
SHORT = {side.key: side.title for side in SIDES}


def render(cases: Iterable[tuple[Case, Mapping[str, Any], Results]], environment: Mapping[str, Any]) -> str:
    """Return the whole report.

    Args:
        cases: each case with the circumstances of its run and the results of its sides.
        environment: processors and versions.
    """
    parts = [INTRODUCTION, *_environment(environment)]
    for case, circumstances, results in cases:
        parts += ['', f'## {case.title}', '', case.text, '', *_table(case, results), '', *_targets(case, results)]
        sentences = [*case.notes(results), _circumstances(circumstances, results)]
        parts += ['', *(f'- {sentence}' for sentence in sentences)]
    return '\n'.join(parts) + '\n'


def _environment(environment: Mapping[str, Any]) -> list[str]:
    lines = [f'Processor: {environment["processor"]}, {environment["processors"]} in use by this machine.', '']
    lines += ['| side | versions |', '|---|---|']
    for side in SIDES:
        found = environment['versions'].get(side.key)
        told = ', '.join(f'{name} {version}' for name, version in found.items()) if found else 'not measured'
        lines.append(f'| {side.title} | {told} |')
    return lines


def _circumstances(circumstances: Mapping[str, Any], results: Results) -> str:
    load = circumstances['load']
    told = (
        f'{circumstances["date"]}, {circumstances["rounds"]} round(s), load average {min(load):.1f} to {max(load):.1f}'
    )
    if circumstances['quick']:
        told += '; **a quick run on smaller networks, which the targets are not meant for**'
    if circumstances['failed']:
        told += '; failed: ' + ', '.join(SHORT[key] for key in circumstances['failed'])
    if PADDLESLIM not in results:
        told += "; PaddleSlim's environment is missing, so its column is"
    return told[0].upper() + told[1:] + '.'


def _table(case: Case, results: Results) -> list[str]:
    sides = [side for side in SIDES if side.key in results]
    lines = ['| | ' + ' | '.join(side.title for side in sides) + ' |', '|---|' + '---:|' * len(sides)]
    for metric in case.metrics:
        if any(metric.key in results[side.key].samples for side in sides):
            cells = [_cell(metric, results, side.key) for side in sides]
            heading = f'{metric.title}, {metric.unit}' if metric.unit else metric.title
            lines.append(f'| {heading} | ' + ' | '.join(cells) + ' |')
    return lines


def _cell(metric: Metric, results: Results, side: str) -> str:
    values = [value * metric.scale for value in results[side].samples.get(metric.key, ())]
    if not values:
        return '-'
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f' ({number(min(values))}-{number(max(values))})'
    ratio = ratio_of(results, metric.key, side) if metric.compare and side != PADDLESLIM else None
    return text if ratio is None else f'{text}, **{number(ratio)}x**'


def _targets(case: Case, results: Results) -> list[str]:
    lines = ['| to reach | | measured | reached |', '|---|---|---:|---|']
    for target in case.targets:
        for side in target.sides:
            value = target.measure(results, side)
            if value is not None:
                lines.append(
                    f'| {target.what} | {SHORT[side]} | {_measured(target, value)} | {_verdict(target, value)} |'
                )
    return lines if len(lines) > 2 else []


def _measured(target: Target, value: float) -> str:
    relation = 'at least' if target.at_least else 'at most'
    return f'{number(value, 4)} ({relation} {target.limit:g}{" " + target.unit if target.unit else ""})'


def _verdict(target: Target, value: float) -> str:
    return 'yes' if target.reached(value) else '**no**'


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent."""
    if value == 0:
        return '0'
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f'{value:.{max(digits - max(magnitude, 0), 0)}f}'


def missed(case: Case, results: Results) -> list[str]:
    """Return the targets that were not reached, in words."""
    found = []
    for target in case.targets:
        for side in target.sides:
            value = target.measure(results, side)
            if value is not None and not target.reached(value):
                found.append(f'{case.key}: {target.what}, {SHORT[side]}: {_measured(target, value)}')
    return found


def outcome_of(record: Mapping[str, Any]) -> Outcome:
    """Return what was written to RESULTS.json as an Outcome."""
    return Outcome(dict(record['samples']), dict(record['facts']))
