"""Accuracy of distilled networks on digits with few labels; writes DISTILLATION_ACCURACY.md next to this file.

    FLAGS_enable_pir_api=1 python benchmarks/distillation_accuracy.py [--seeds 5] [--quick]

All that a seed decides (which images have labels, initial weights, order of the images) is the same for every loss, so
that differences are paired. Every network is looked at once, after its last step; nothing is chosen by the test part.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import distillation_table as table
import paddle
from distillation_students import (
    BATCH,
    LABELS,
    STAGES,
    STEPS,
    TEACHER_BATCH,
    TEACHER_STEPS,
    UNLABELLED,
    Data,
    Net,
    Pupil,
    data,
    feeds,
    minimize,
    teacher,
)

import paddleslim_ng as slim

HERE = Path(__file__).resolve().parent
# Weights are those of the losses' authors, or of the comparison of Tian et al. (2020), where these compute the same;
# otherwise 1. They were set before the first run.
HEAT = 4.0
LOSSES: dict[str, tuple[float, Callable[[Pupil], Any]]] = {
    'soft_label (T=1)': (1.0, lambda p: slim.dist.soft_label(*p.logits())),
    'soft_label (T=4)': (
        1.0,
        lambda p: slim.dist.soft_label(
            *p.logits(), teacher_temperature=HEAT, student_temperature=HEAT, scale_by_temperature=True
        ),
    ),
    'dkd': (1.0, lambda p: slim.dist.dkd(*p.logits(), temperature=HEAT, beta=8.0)),
    'skd': (1.0, lambda p: slim.dist.skd(*p.logits())),
    'correlation': (2.0, lambda p: slim.dist.correlation(*p.logits(), temperature=HEAT)),
    'l2 (logits)': (1.0, lambda p: slim.dist.l2(*p.logits())),
    'l2 (last map)': (1.0, lambda p: slim.dist.l2(*p.maps('late'))),
    'cosine (last map)': (1.0, lambda p: slim.dist.cosine(*p.maps('late'))),
    'fsp': (1.0, lambda p: slim.dist.fsp(*(p.maps(stage)[side] for side in (0, 1) for stage in ('middle', 'late')))),
    'regression': (100.0, lambda p: slim.dist.regression(*p.maps('middle'), adapter='always')),
    'attention_transfer': (
        1000.0,
        lambda p: slim.dist.feature_losses([p.maps(stage) for stage in STAGES], 'attention_transfer'),
    ),
    'similarity': (3000.0, lambda p: slim.dist.similarity(*p.maps('late'))),
    'rkd_distance': (25.0, lambda p: slim.dist.rkd_distance(*p.maps('late'))),
    'rkd_angle': (50.0, lambda p: slim.dist.rkd_angle(*p.maps('late'))),
}
WITH_UNLABELLED = ('soft_label (T=4)', 'dkd', 'correlation', 'l2 (last map)', 'attention_transfer')


def distilled(name: str, given: Data, seed: int, teachers: Sequence[Net], steps: int, initial: Any, extra: int) -> Net:
    """Train a student with a loss beside the cross-entropy, on images with labels and ``extra`` ones without."""
    pupil = Pupil(seed, teachers)
    net = pupil.net
    with paddle.static.program_guard(net.main, net.startup):
        known = paddle.static.data('known', [None, 1], 'float32')
        terms = [(paddle.mean(net.losses * known), 1.0)]
        if name in LOSSES:
            weight, build = LOSSES[name]
            terms.append((build(pupil), weight))
        elif name == HINTON:
            # The hard half is the cross-entropy above, halved; the soft half is Hinton's.
            terms = [(_hinton(pupil), 1.0)]
        elif name == TWO:
            logits = slim.dist.mix([pupil.logits(place)[0] for place in (0, 1)], kind='probability')
            terms = [(_hinton(pupil, logits), 1.0)]
        total = slim.dist.combine(terms)[0]
    minimize(net.main, net.startup, total)
    net.exe.run(net.startup, scope=net.scope)
    net.restore(initial)
    net.train(feeds(given, seed, steps, extra))
    return net


ALONE, HINTON, TWO, MUTUAL = 'student alone', 'hinton', 'hinton (two teachers, mixed)', 'dml (two students)'


def _hinton(pupil: Pupil, logits: Any = None) -> Any:
    theirs, own = pupil.logits()
    return slim.dist.hinton(logits if logits is not None else theirs, own, 'label', temperature=HEAT)


def mutual(given: Data, seed: int, steps: int, initial: Any) -> float:
    """Train two students that teach each other, and return the accuracy of the one that starts as all others do."""
    nets = [Net(seed), Net(seed + 100)]
    scope, peers = paddle.static.Scope(), []
    for net, state in zip(nets, (initial, None)):
        net.exe.run(net.startup, scope=net.scope)
        net.restore(state or {})
        with paddle.static.program_guard(net.main, net.startup):
            peers.append(slim.dist.Peer(net.main, net.logits, paddle.mean(net.losses), net.scope))
    joint = slim.dist.dml(peers, scope=scope)
    minimize(joint.program, joint.startup_program, joint.total)
    exe = slim.Executor()
    exe.run(joint.startup_program, scope=scope)
    for feed in feeds(given, seed, steps, 0):
        del feed['known']
        exe.run(joint.program, feed, scope=scope)
    (scores,) = exe.run(joint.extract(0), {'image': given.test_images}, [joint.peers[0].logits], scope=scope)
    return given.share(scores)


def measure(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Return accuracies by table and by row, for one seed."""
    given = data(seed)
    steps, first = (8, 8) if quick else (STEPS, TEACHER_STEPS)
    teachers = [teacher(given, 2 * seed + number + 1, first) for number in (0, 1)]
    start = Net(seed + 1)
    start.exe.run(start.startup, scope=start.scope)
    initial = start.state()

    def score(name: str, extra: int = 0) -> float:
        used = [] if name == ALONE else teachers if name == TWO else teachers[:1]
        return distilled(name, given, seed + 1, used, steps, initial, extra).accuracy(given)

    few = {'teacher': teachers[0].accuracy(given), ALONE: score(ALONE)}
    few.update({name: score(name) for name in (HINTON, *LOSSES, TWO)})
    few[MUTUAL] = mutual(given, seed + 1, steps, initial)
    more = {ALONE: few[ALONE], **{name: score(name, UNLABELLED) for name in WITH_UNLABELLED}}
    return {'labelled': few, 'unlabelled': more}


def report(results: Sequence[dict[str, dict[str, float]]]) -> list[str]:
    """Return the lines of DISTILLATION_ACCURACY.md."""
    few, more = ([result[part] for result in results] for part in ('labelled', 'unlabelled'))
    weights = ', '.join(f'{name}: {weight:g}' for name, (weight, _) in LOSSES.items())
    return [
        '# Accuracy of distilled networks on digits',
        '',
        f'Mean and standard deviation over {len(results)} seeds, on 600 test images; Paddle {paddle.__version__}. '
        f'A student of 14 thousand weights sees {LABELS} labelled images, as many of each class, for {STEPS} steps of '
        f'{BATCH}. A teacher, wider and three times as deep, was trained on the labels of all 1197 images for '
        f'{TEACHER_STEPS} steps of {TEACHER_BATCH}. Momentum with a rate of 0.05 throughout, weight decay 5e-4, no '
        'augmentation. For one seed, all students have the same labelled images in the same order, the same initial '
        'weights and the same teacher; the test is a paired t-test. Nothing was tuned: weights of losses are those of '
        'their authors or of the comparison of Tian et al. (2020) where these compute the same, else 1, and were set '
        'before the first run. Made by `benchmarks/distillation_accuracy.py`.',
        '',
        f'Losses are added to the cross-entropy with these weights: {weights}. `hinton` halves the cross-entropy and '
        f'adds half of T^2 times the soft one, with T = {HEAT:g}, which is also the temperature of dkd and '
        'correlation.',
        '',
        f'## The {LABELS} labelled images alone',
        '',
        *table.table(few, ALONE, ['teacher']),
        f'- {table.versus(few, TWO, HINTON)}',
        '',
        '## The other images, too, without labels',
        '',
        f'Each step has {UNLABELLED} images more, whose labels the student does not see: the teacher speaks about all, '
        'the cross-entropy about those with labels. The student alone is the one above. The teacher has seen the '
        'labels of these images: the table shows what reaches the student through it.',
        '',
        *table.table(more, ALONE),
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--quick', action='store_true', help='eight steps of everything, and nothing is written')
    args = parser.parse_args()
    paddle.enable_static()
    logging.getLogger('paddleslim_ng').setLevel(logging.WARNING)
    results = []
    for seed in range(args.seeds):
        begin = time.process_time()
        results.append(measure(seed, args.quick))
        print(f'seed {seed}, {time.process_time() - begin:.0f} CPU s', flush=True)
        for part in results[-1].values():
            print('  ', {name: round(value, 4) for name, value in part.items()}, flush=True)
    text = '\n'.join(report(results)).rstrip() + '\n'
    print(text)
    if not args.quick:
        (HERE / 'DISTILLATION_ACCURACY.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
