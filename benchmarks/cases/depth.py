"""How the cost of pruning grows with depth."""

from __future__ import annotations

from typing import Any

from harness import (
    LEGACY,
    OURS,
    PADDLE26,
    PADDLESLIM,
    PIR,
    Case,
    Metric,
    Outcome,
    Results,
    Target,
    cpu_seconds,
    median_of,
)

DEPTHS = (16, 32, 64, 128, 256)
STREAM_DEPTHS = (64, 256)
# What PaddleSlim can be waited for.
THEIR_DEEPEST = 128
THEIR_DEEPEST_STREAM = 64
THEIR_DEEPEST_QUICK = 32
RATIO = 0.25
REPEATS = 3


def measure(side: str, quick: bool) -> Outcome:
    from cases import networks

    outcome = Outcome()
    repeats = 1 if side == PADDLESLIM or quick else REPEATS
    deepest = DEPTHS[-1] if side != PADDLESLIM else THEIR_DEEPEST_QUICK if quick else THEIR_DEEPEST
    deepest_stream = deepest if side != PADDLESLIM else min(deepest, THEIR_DEEPEST_STREAM)

    def one(classifier: Any, names: list[str], training: bool = False) -> tuple[float, Any]:
        program = classifier.train_program if training else classifier.val_program
        scope = networks.fresh_scope(classifier)
        return cpu_seconds(lambda: networks.prune(side, program, scope, names, RATIO))

    one(networks.residual(1), networks.residual_parameters(1, stream=True))
    for depth in (depth for depth in DEPTHS if depth <= deepest):
        classifier, names = networks.residual(depth), networks.residual_parameters(depth)
        for _ in range(repeats):
            seconds, pruned = one(classifier, names)
            outcome.add(str(depth), seconds)
        outcome.facts[f'channels_{depth}'] = sum(networks.sizes(pruned, names))
        if depth in STREAM_DEPTHS and depth <= deepest_stream:
            names = networks.residual_parameters(depth, stream=True)
            for _ in range(repeats):
                outcome.add(f'stream_{depth}', one(classifier, names)[0])
    if side != PADDLESLIM:
        names = networks.residual_parameters(deepest)
        outcome.add('training', one(classifier, names, training=True)[0])
    return outcome


def worst_growth(results: Results, side: str) -> float | None:
    """Return the largest ratio of the costs of two depths of which one is twice the other."""
    if side not in results:
        return None
    costs = [results[side].median(str(depth)) for depth in DEPTHS]
    ratios = [deep / shallow for shallow, deep in zip(costs, costs[1:]) if shallow and deep]
    return max(ratios) if ratios else None


def notes(results: Results) -> list[str]:
    growth = {side: worst_growth(results, side) for side in results}
    told = ', '.join(f'{value:.1f} ({side})' for side, value in growth.items() if value is not None)
    sentences = [f'Largest growth from one depth to its double: {told}.']
    if PADDLESLIM in results:
        sentences.append(f'PaddleSlim is measured once a round, up to {THEIR_DEEPEST} blocks.')
    for depth in DEPTHS:
        left = {side: o.facts[f'channels_{depth}'] for side, o in results.items() if f'channels_{depth}' in o.facts}
        if len(set(left.values())) > 1:
            sentences.append(f'Output channels left of {depth} blocks: {left}.')
    return sentences


CASE = Case(
    key='depth',
    title='Depth',
    text='`Pruner.prune(verify=False)` of the inference program of a stack of residual blocks (two 3x3 convolutions of '
    f'16 channels each): the first convolution of every block, by {RATIO}; with the stem, all sums are cut, too.',
    measure=measure,
    metrics=(
        *(Metric(str(depth), f'{depth} blocks') for depth in DEPTHS),
        *(Metric(f'stream_{depth}', f'{depth} blocks, with the stem') for depth in STREAM_DEPTHS),
        Metric('training', f'{DEPTHS[-1]} blocks, training program'),
    ),
    targets=(
        Target('256 blocks, legacy', (PADDLE26, LEGACY), median_of('256'), 0.5, 's'),
        Target('256 blocks, PIR', (PIR,), median_of('256'), 0.2, 's'),
        Target('doubling the depth', OURS, worst_growth, 2.3, 'times'),
    ),
    rounds=2,
    notes=notes,
)
