"""Tables of paired accuracies, and which differences exceed the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

Scores = Sequence[Mapping[str, float]]
LEVEL = 0.05


def table(results: Scores, baseline: str, reference: Sequence[str] = ()) -> list[str]:
    """Return a Markdown table of one row per run, and sentences about it.

    Args:
        results: accuracies of all runs, by seed.
        baseline: the run that others are compared with, seed by seed.
        reference: runs that are shown and not compared.
    """
    others = [name for name in results[0] if name not in (baseline, *reference)]
    chances = {name: chance(gaps(results, name, baseline)) for name in others}
    held = holm(chances)
    lines = [
        f'| run | accuracy, % | difference to {baseline} | its standard error | seeds better / worse | p | p, Holm |',
        '|---|---:|---:|---:|---:|---:|---:|',
    ]
    for name in results[0]:
        scores = [100 * result[name] for result in results]
        row = [name, f'{statistics.mean(scores):.2f} ± {deviation(scores):.2f}']
        if name in chances:
            found = gaps(results, name, baseline)
            counts = f'{sum(gap > 0 for gap in found)} / {sum(gap < 0 for gap in found)}'
            row += [f'{statistics.mean(found):+.2f}', f'{error(found):.2f}', counts]
            row += [_probability(chances[name]), _probability(held[name])]
        else:
            row += [''] * 5
        lines.append(f'| {" | ".join(row)} |')
    return [*lines, '', *_words(results, baseline, chances, held)]


def versus(results: Scores, name: str, other: str) -> str:
    """Return a sentence about the difference between two runs."""
    found = gaps(results, name, other)
    told = 'more than the noise' if chance(found) < LEVEL else 'not told apart'
    return (
        f'{name} minus {other}: {statistics.mean(found):+.2f}, standard error {error(found):.2f}, '
        f'p {_probability(chance(found))}: {told}.'
    )


def _probability(value: float) -> str:
    return '<0.001' if value < 0.001 else f'{value:.3f}'


def gaps(results: Scores, name: str, baseline: str) -> list[float]:
    """Return the differences of a run to the baseline in percentage points, seed by seed."""
    return [100 * (result[name] - result[baseline]) for result in results]


def deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def error(values: Sequence[float]) -> float:
    """Return the standard error of the mean."""
    return deviation(values) / math.sqrt(len(values))


def chance(values: Sequence[float]) -> float:
    """Return the probability of a mean at least as far from zero where there is no difference (Student's t)."""
    from scipy import stats

    if error(values) == 0:
        return 1.0 if statistics.mean(values) == 0 else 0.0 if len(values) > 1 else 1.0
    return float(2 * stats.t.sf(abs(statistics.mean(values)) / error(values), len(values) - 1))


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Return probabilities that hold for all comparisons together (Holm, 1979)."""
    found: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(chances, key=lambda name: chances[name])):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[name]))
        found[name] = largest
    return found


def _words(results: Scores, baseline: str, chances: Mapping[str, float], held: Mapping[str, float]) -> list[str]:
    means = {name: statistics.mean(gaps(results, name, baseline)) for name in chances}
    groups = {
        f'Above {baseline} beyond the noise, all comparisons taken together (Holm, p < {LEVEL})': [
            name for name in chances if held[name] < LEVEL and means[name] > 0
        ],
        f'Above it only when looked at alone (p < {LEVEL}; among {len(chances)} comparisons one such is expected by '
        f'chance in {min(1.0, 1 - (1 - LEVEL) ** len(chances)):.0%} of all studies)': [
            name for name in chances if held[name] >= LEVEL > chances[name] and means[name] > 0
        ],
        'Below it, when looked at alone': [name for name in chances if chances[name] < LEVEL and means[name] < 0],
        'Not told apart from it': [name for name in chances if chances[name] >= LEVEL],
    }
    return [f'- {what}: {", ".join(names) or "none"}.' for what, names in groups.items()]
