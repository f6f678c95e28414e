"""What the benchmarks of accuracies share: several seeds, tables of their results, and pages made of sections."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import paddle

import paddleslim_ng as slim

HERE = Path(__file__).resolve().parent
#: Columns of :func:`spread`.
SPREAD = ('mean', 'lowest', 'highest')
Result = TypeVar('Result')


def arguments(description: str | None, quick: str, seeds: int = 3) -> argparse.ArgumentParser:
    """Return a parser with the flags that all have.

    Args:
        description: the module's docstring.
        quick: what is less with ``--quick``.
        seeds: how many by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=seeds, help=f'default: {seeds}')
    parser.add_argument('--quick', action='store_true', help=f'{quick}; nothing is written')
    return parser


def collected(seeds: int, run: Callable[[int], Iterator[tuple[str, Result]]]) -> dict[str, list[Result]]:
    """Run all seeds, tell what each row comes to, and return the rows: a result for each seed."""
    results: dict[str, list[Result]] = {}
    for seed in range(seeds):
        for name, result in run(seed):
            print(f'seed {seed}, {name}: {result}', flush=True)
            results.setdefault(name, []).append(result)
    return results


def build_of_paddle() -> str:
    """Return version and IR."""
    ir = 'PIR' if slim.GraphWrapper(paddle.static.Program()).ir == 'pir' else 'legacy IR'
    return f'Paddle {paddle.__version__} {ir}'


def mean(results: Sequence[Any], name: str) -> float:
    """Return the mean of a field over the seeds."""
    return statistics.mean(getattr(result, name) for result in results)


def spread(values: Sequence[float]) -> list[str]:
    """Return mean, lowest and highest of accuracies as texts."""
    return [f'{value:.3f}' for value in (statistics.mean(values), min(values), max(values))]


def table(head: Sequence[str], rows: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the lines of a table in Markdown.

    Args:
        head: names of the columns.
        rows: cells, by the text of the first column, or of the first columns with ``|`` between them.
    """
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    return [*lines, *(f'| {" | ".join([name, *cells])} |' for name, cells in rows.items())]


def write_page(name: str, text: str) -> None:
    """Write a page, or replace what stands before the sections of one."""
    page = HERE / name
    _, heading, rest = page.read_text('utf-8').partition('\n## ') if page.is_file() else ('', '', '')
    page.write_text(text.rstrip('\n') + '\n' + (heading and f'{heading}{rest}'), 'utf-8')


def write_section(name: str, heading: str, text: str) -> None:
    """Replace a section of a page, or add it.

    Args:
        name: the page.
        heading: the section's first line.
        text: the section with its heading.
    """
    page = HERE / name
    before, _, after = page.read_text('utf-8').partition(heading)
    _, following, rest = after.partition('\n## ')
    page.write_text(f'{before.rstrip()}\n\n{text.rstrip()}\n{following}{rest}', 'utf-8')
