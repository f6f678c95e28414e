"""Pruning of single weights: the pruner's step, and what masks add to a training step."""

from __future__ import annotations

from typing import Any

from harness import (
    OURS,
    PADDLESLIM,
    Case,
    Metric,
    Outcome,
    Results,
    Target,
    cpu_seconds,
    median_of,
)

RATIO = 0.55
BATCH = 8
REPEATS = 5
PAIRS = 6


def pruner(side: str, program: Any, scope: Any, **options: Any) -> Any:
    """Make the side's pruner."""
    if side == PADDLESLIM:
        from paddleslim.prune import UnstructuredPruner as TheirPruner

        return TheirPruner(program, 'ratio', scope=scope, **options)
    from paddleslim_ng.sparse import UnstructuredPruner

    return UnstructuredPruner(program, 'ratio', scope=scope, **options)


def build(name: str, quick: bool) -> Any:
    """Build a classifier with training program in a scope of its own, with the same weights on all sides."""
    from cases import networks

    kwargs = {'scale': 0.25} if quick else {}
    scope = networks.paddle.static.Scope()
    built = networks.build_classifier(name, [3, 224, 224], 1000, model_kwargs=kwargs, scope=scope)
    networks.fill(built.train_program, scope)
    return built, scope


def zeros_of(program: Any, scope: Any) -> int:
    """Count the zero weights of everything with more than one axis."""
    from paddleslim_ng.core import GraphWrapper, view_array

    names = [var.name() for var in GraphWrapper(program).all_parameters() if len(var.shape()) > 1]
    return sum(int((view_array(scope, name) == 0).sum()) for name in names)


def measure(side: str, quick: bool) -> Outcome:
    outcome = Outcome()
    _measure_steps(side, quick, outcome)
    _measure_blocks(side, quick, outcome)
    _measure_training(side, quick, outcome)
    return outcome


def _measure_steps(side: str, quick: bool, outcome: Outcome) -> None:
    built, scope = build('ResNet50', quick)
    made = pruner(side, built.train_program, scope, ratio=RATIO)
    outcome.add('first', cpu_seconds(made.step)[0])
    for _ in range(1 if quick else REPEATS):
        outcome.add('idle', cpu_seconds(made.step)[0])
    outcome.facts['zeros'] = zeros_of(built.train_program, scope)
    for ratio in (0.6, 0.65, 0.7)[: 1 if quick else 3]:
        made.ratio = ratio
        outcome.add('update', cpu_seconds(made.step)[0])


def _measure_blocks(side: str, quick: bool, outcome: Outcome) -> None:
    built, scope = build('MobileNet', quick)
    made = pruner(side, built.train_program, scope, ratio=RATIO, sparse_block=[4, 1])
    outcome.add('blocks', cpu_seconds(made.step)[0])


def _measure_training(side: str, quick: bool, outcome: Outcome) -> None:
    """Let a dense and a sparse network train in turns, on the same images."""
    import numpy as np

    dense, dense_scope = build('MobileNet', quick)
    sparse, sparse_scope = build('MobileNet', quick)
    made = pruner(side, sparse.train_program, sparse_scope, ratio=0.75)
    made.step()
    random = np.random.default_rng(0)
    images = random.standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    feed = {'image': images, 'label': random.integers(0, 1000, (BATCH, 1))}

    def run(built: Any, scope: Any) -> float:
        return cpu_seconds(lambda: built.exe.run(built.train_program, feed, built.outputs, scope=scope))[0]

    pairs = 1 if quick else PAIRS
    run(dense, dense_scope), run(sparse, sparse_scope)
    times = [(run(dense, dense_scope), run(sparse, sparse_scope)) for _ in range(pairs)]
    outcome.add('dense', float(np.median([left for left, _ in times])))
    outcome.add('masked', float(np.median([right for _, right in times])))
    outcome.add('overhead', float(np.median([right / left for left, right in times])))
    outcome.facts['mask_bytes'] = _mask_bytes(sparse_scope, made)


def _mask_bytes(scope: Any, made: Any) -> int:
    from paddleslim_ng.core import view_array

    return sum(int(view_array(scope, name).nbytes) for name in made.masks.values())


def notes(results: Results) -> list[str]:
    found = []
    zeros = {side: outcome.facts.get('zeros') for side, outcome in results.items()}
    found.append(f'Zero weights of the ResNet50 after the steps at ratio {RATIO}: {zeros}.')
    sizes = {side: outcome.facts.get('mask_bytes') for side, outcome in results.items()}
    found.append(f'Bytes of all masks of the MobileNet: {sizes}.')
    theirs = results.get(PADDLESLIM)
    if theirs is not None and theirs.median('idle') is not None:
        found.append(
            "PaddleSlim's step does the same work whether or not the ratio has changed, and leaves the weights as they "
            'are until the program runs again.'
        )
    return found


CASE = Case(
    key='sparse',
    title='Pruning single weights',
    text=f'`UnstructuredPruner.step` of a ResNet50 (25.5 million prunable weights), all ranked together: where the '
    f'ratio stays at {RATIO}, and where it rises; of a MobileNet with blocks of 4x1; and a training step of a '
    f'MobileNet for {BATCH} images of 3x224x224 with masks (75 % zeros) and without, in turns in one process.',
    measure=measure,
    metrics=(
        Metric('first', 'ResNet50, first step'),
        Metric('idle', 'ResNet50, nothing changes', 'ms', 1000.0),
        Metric('update', 'ResNet50, the ratio rises', 'ms', 1000.0),
        Metric('blocks', 'MobileNet, blocks of 4x1', 'ms', 1000.0),
        Metric('dense', 'training step, dense', 'ms', 1000.0, compare=False),
        Metric('masked', 'training step, with masks', 'ms', 1000.0, compare=False),
        Metric('overhead', 'training step, with masks / dense', '', compare=False),
    ),
    targets=(
        Target('step where nothing changes', OURS, median_of('idle', 1000.0), 100.0, 'ms'),
        Target('step where the ratio rises', OURS, median_of('update', 1000.0), 250.0, 'ms'),
        Target('step with blocks of 4x1', OURS, median_of('blocks', 1000.0), 150.0, 'ms'),
        Target('training step with masks', OURS, median_of('overhead'), 1.05, 'times dense'),
    ),
    rounds=2,
    notes=notes,
)
