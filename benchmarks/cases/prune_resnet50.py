"""Pruning of a ResNet50."""

from __future__ import annotations

from typing import Any

from harness import LEGACY, PADDLE26, PADDLESLIM, PIR, Case, Metric, Outcome, Target, cpu_seconds, median_of

BLOCKS = ('2a', '2b', '2c', '3a', '3b', '3c', '3d', '4a', '4b', '4c', '4d', '4e', '4f', '5a', '5b', '5c')
PARAMETERS = tuple(f'res{block}_branch2{part}_weights' for block in BLOCKS for part in 'ab')
RATIO = 0.25
REPEATS = 3


def measure(side: str, quick: bool) -> Outcome:
    from cases import networks

    scale = {'scale': 0.25} if quick else {}
    outcome = Outcome()
    warm_up = networks.residual(1)
    large = networks.build_classifier(
        'ResNet50', [3, 224, 224], 1000, model_kwargs=scale, scope=networks.paddle.static.Scope()
    )

    def one(classifier: Any, kind: str, names: Any, verify: bool = False) -> tuple[float, Any]:
        program = classifier.train_program if kind == 'training' else classifier.val_program
        scope = networks.fresh_scope(classifier)
        return cpu_seconds(lambda: networks.prune(side, program, scope, names, RATIO, verify))

    repeats = 1 if quick or side == PADDLESLIM else REPEATS
    for kind in ('inference', 'training'):
        one(warm_up, kind, networks.residual_parameters(1))
        for _ in range(repeats):
            seconds, pruned = one(large, kind, PARAMETERS)
            outcome.add(kind, seconds)
        outcome.facts[f'{kind}_channels'] = sum(networks.sizes(pruned, PARAMETERS))
        outcome.facts[f'{kind}_ops'] = len(networks.GraphWrapper(pruned).ops())
    if side != PADDLESLIM:
        outcome.add('verified', one(large, 'inference', PARAMETERS, verify=True)[0])
    return outcome


def notes(results: dict[str, Outcome]) -> list[str]:
    sentences = []
    for kind in ('inference', 'training'):
        left = {side: outcome.facts.get(f'{kind}_channels') for side, outcome in results.items()}
        if len(set(left.values())) == 1:
            sentences.append(f'All leave {next(iter(left.values()))} output channels in the {kind} program.')
        else:
            sentences.append(f'Output channels left in the {kind} program: {left}.')
    costs = [
        f'{outcome.median("verified") - outcome.median("inference"):.2f} s ({side})'  # type: ignore[operator]
        for side, outcome in results.items()
        if outcome.median('verified') is not None
    ]
    if costs:
        sentences.append(f'The equivalence check of the inference program, on made-up images, adds {", ".join(costs)}.')
    return sentences


CASE = Case(
    key='prune',
    title='Pruning a ResNet50',
    text=f'`Pruner.prune` of a ResNet50 for images of 3x224x224, {len(PARAMETERS)} parameters (the first two '
    f'convolutions of all blocks) by {RATIO}, scope included, with `verify=False`; training with Momentum.',
    measure=measure,
    metrics=(
        Metric('inference', 'inference program'),
        Metric('training', 'training program'),
        Metric('verified', 'inference program, with the equivalence check', compare=False),
    ),
    targets=(
        Target('inference program, legacy', (PADDLE26, LEGACY), median_of('inference'), 0.15, 's'),
        Target('training program, legacy', (PADDLE26, LEGACY), median_of('training'), 0.3, 's'),
        Target('inference program, PIR', (PIR,), median_of('inference'), 0.10, 's'),
        Target('training program, PIR', (PIR,), median_of('training'), 0.15, 's'),
    ),
    notes=notes,
)
