"""The graph wrapper and the import of the package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from harness import OURS, PADDLESLIM, Case, Metric, Outcome, Results, Target, cpu_seconds, median_of

OPS = 2500
REPEATS = 5
# PaddleSlim searches the whole program for each operator's neighbours; its figure is extrapolated from so many.
THEIR_SAMPLE = 10


def measure(side: str, quick: bool) -> Outcome:
    outcome = Outcome()
    _measure_import(side, outcome)
    _measure_wrapper(side, outcome, 1 if quick else REPEATS)
    return outcome


def _measure_import(side: str, outcome: Outcome) -> None:
    """Time the imports; the worker has imported paddle before."""
    if side == PADDLESLIM:
        outcome.add('import', cpu_seconds(lambda: importlib.import_module('paddleslim'))[0])
        return
    before = set(sys.modules)
    seconds, slim = cpu_seconds(lambda: importlib.import_module('paddleslim_ng'))
    outcome.add('import', seconds)
    names = [name for name in slim.__all__ if not name.startswith('_')]
    outcome.add('import_all', seconds + cpu_seconds(lambda: [getattr(slim, name) for name in names])[0])
    heavy = ('matplotlib', 'sklearn', 'scipy', 'optuna', 'pydantic', 'tqdm')
    outcome.facts['heavy'] = [name for name in heavy if name in sys.modules and name not in before]


def _measure_wrapper(side: str, outcome: Outcome, repeats: int) -> None:
    from cases import networks
    from paddleslim_ng.core import GraphWrapper, clone_program

    blocks = OPS // len_ops(networks.residual(1).train_program, networks.residual(2).train_program)
    program = networks.residual(blocks).train_program
    while True:
        count = len(GraphWrapper(program).ops())
        if count >= OPS:
            break
        blocks += 1
        program = networks.residual(blocks).train_program
    visit(side, networks.residual(1).train_program, Outcome())
    for _ in range(repeats):
        visit(side, clone_program(program), outcome)
    outcome.facts.update(ops=count, blocks=blocks)


def visit(side: str, program: Any, outcome: Outcome) -> None:
    """Time the wrapper of a program that has had none yet, and the neighbours of its operators."""

    def neighbours(ops: Sequence[Any]) -> int:
        return sum(len(graph.pre_ops(op)) + len(graph.next_ops(op)) for op in ops)

    build, graph = cpu_seconds(lambda: wrapper_of(side)(program))
    listing, ops = cpu_seconds(graph.ops)
    chosen = ops[:: len(ops) // THEIR_SAMPLE + 1] if side == PADDLESLIM else ops
    search, found = cpu_seconds(lambda: neighbours(chosen))
    outcome.add('build', build)
    outcome.add('wrapper', build + listing + search * len(ops) / len(chosen))
    outcome.facts['neighbours'] = found


def wrapper_of(side: str) -> Any:
    if side == PADDLESLIM:
        from paddleslim.core import GraphWrapper as TheirGraphWrapper

        return TheirGraphWrapper
    from paddleslim_ng.core import GraphWrapper

    return GraphWrapper


def len_ops(one: Any, two: Any) -> int:
    """Return how many operators a block adds."""
    from paddleslim_ng.core import GraphWrapper

    return len(GraphWrapper(two).ops()) - len(GraphWrapper(one).ops())


def notes(results: Results) -> list[str]:
    told = ', '.join(
        f'{outcome.facts["ops"]} operators, {outcome.facts["neighbours"]} neighbours ({side})'
        for side, outcome in results.items()
        if side != PADDLESLIM
    )
    loaded = {side: outcome.facts['heavy'] for side, outcome in results.items() if outcome.facts.get('heavy')}
    sentences = [f'Sizes: {told}.']
    if PADDLESLIM in results:
        sentences.append(f"PaddleSlim's neighbours are extrapolated from those of {THEIR_SAMPLE} operators.")
    if loaded:
        sentences.append(f'Heavy packages loaded along: {loaded}.')
    return sentences


CASE = Case(
    key='wrapper',
    title='Graph wrapper and import',
    text=f'`GraphWrapper(program)` and the neighbours (`pre_ops`, `next_ops`) of every operator of a training program '
    f'of {OPS} operators; and what the import costs beyond that of Paddle.',
    measure=measure,
    metrics=(
        Metric('build', 'wrapper alone', unit='ms', scale=1000.0, compare=False),
        Metric('wrapper', 'wrapper and all neighbours', unit='ms', scale=1000.0),
        Metric('import', 'import of the package'),
        Metric('import_all', 'import of all its modules', compare=False),
    ),
    targets=(
        Target('wrapper and all neighbours', OURS, median_of('wrapper', 1000.0), 100, 'ms'),
        Target('import', OURS, median_of('import'), 0.2, 's'),
    ),
    notes=notes,
)
