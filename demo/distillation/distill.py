"""A ResNet teaches a MobileNet to read digits of which few have labels.

    python distill.py
    python distill.py --loss attention_transfer --weight 1000
    python distill.py --teacher distilled/teacher --loss l2 --pair relu_16.tmp_0 relu_26.tmp_0

Trains the teacher on all labels (or takes a saved inference model), the student alone on the images with labels, and
the student with the teacher, who speaks about images without labels, too; takes the teacher out again, saves the
student, and tests what was saved.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import classifiers
import paddle

import paddleslim_ng as slim

PREFIX = 'teacher_'
# How each loss is called: with logits, or with a pair of feature maps.
ON_LOGITS: dict[str, Callable[[Any, Any, float], Any]] = {
    'soft_label': lambda t, s, heat: slim.dist.soft_label(
        t, s, teacher_temperature=heat, student_temperature=heat, scale_by_temperature=True
    ),
    'dkd': lambda t, s, heat: slim.dist.dkd(t, s, temperature=heat, beta=8.0),
    'skd': lambda t, s, heat: slim.dist.skd(t, s),
    'correlation': lambda t, s, heat: slim.dist.correlation(t, s, temperature=heat),
}
ON_MAPS = ('l2', 'cosine', 'regression', 'attention_transfer', 'similarity', 'rkd_distance', 'rkd_angle')
ANY_CHANNELS = ('regression', 'attention_transfer', 'similarity', 'rkd_distance', 'rkd_angle')


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = classifiers.parser(__doc__, 'MobileNet', 0.25, 0.05)
    classifiers.teacher_flags(parser)
    parser.add_argument('--teacher', help='inference model to load, or a network to train (default: ResNet18)')
    parser.add_argument('--loss', choices=(*ON_LOGITS, *ON_MAPS), default='soft_label', help='default: soft_label')
    parser.add_argument('--temperature', type=float, default=4.0, help='of losses on logits (default: 4)')
    parser.add_argument('--weight', type=float, default=1.0, help='of the loss (default: 1)')
    parser.add_argument('--warmup', type=int, default=0, help='steps in which the weight rises to it (default: 0)')
    parser.add_argument('--pair', nargs=2, metavar=('TEACHER', 'STUDENT'), help='feature maps (default: the deepest)')
    return parser.parse_args(arguments)


def get_teacher(options: argparse.Namespace, data: classifiers.Data) -> Any:
    given = options.teacher or 'ResNet18'
    if given in slim.models.MODELS:
        return classifiers.teacher(given, options, data, 'teacher', options.seed)
    return slim.runtime.load_inference_model(Path(given), paddle.static.Scope())


def choose(pairs: Any, options: argparse.Namespace) -> tuple[str, str]:
    """Return the names of the maps to compare: those asked for, or the deepest that are more than one pixel large."""
    if options.pair is not None:
        return PREFIX + options.pair[0], options.pair[1]
    maps = [pair for pair in pairs if len(pair.student.shape) == 4]
    large = [pair for pair in maps if max(pair.student.shape[2:]) > 1] or maps
    if not large:
        raise slim.errors.ConfigError('no two feature maps fit together; give --pair, or a loss on logits')
    return large[-1].names


def distill(options: argparse.Namespace, teacher: Any, data: classifiers.Data) -> Any:
    """Train a student with the teacher merged into its program; return the student without it."""
    student = classifiers.build(options.student, options.student_scale, options, options.seed)
    channels = 'any' if options.loss in ANY_CHANNELS else 'equal'
    pairs = slim.dist.match_features(teacher.program, student.program, prefix=PREFIX, channels=channels)
    print(pairs)
    merged = slim.dist.merge(
        teacher, student.program, {'image': 'image'}, paddle.CPUPlace(), student.scope, name_prefix=PREFIX
    )
    print(f'merged {len(merged)} variables of the teacher; its outputs differ by {merged.difference} from those alone')
    with paddle.static.program_guard(student.program, student.startup):
        if options.loss in ON_LOGITS:
            pair = (merged.outputs[0], slim.GraphWrapper.name_of(student.logits))
            distance = ON_LOGITS[options.loss](*pair, options.temperature)
        else:
            pair = choose(pairs, options)
            distance = slim.dist.feature_losses([pair], options.loss)
        weight = slim.dist.Warmup(options.weight, options.warmup) if options.warmup else options.weight
        total, weights = slim.dist.combine([(student.loss, 1.0), (distance, weight)])
    print(f'{options.loss} between {pair[0]} and {pair[1]}, weight {weight}')
    last = classifiers.train_with_teacher(student, total, data, options, [lambda: weights.step(student.scope)])
    print(f'last steps: loss {last[0]:.4f}, cross-entropy with the labels {last[1]:.4f}')
    return student


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    classifiers.begin(options)
    data = classifiers.load_data(options)
    teacher = get_teacher(options, data)
    rows = {'teacher': classifiers.accuracy(teacher.program, teacher.scope, teacher.fetches[0], data.test)}
    alone = classifiers.build(options.student, options.student_scale, options, options.seed)
    classifiers.train_alone(alone, data.labelled, options, options.steps, options.batch_size)
    rows['student alone'] = classifiers.accuracy(alone.evaluation, alone.scope, alone.logits, data.test)
    student = distill(options, teacher, data)
    path = options.output / 'student'
    slim.runtime.save_inference_model(student.evaluation, path, ['image'], [student.logits], student.scope)
    saved = slim.runtime.load_inference_model(path, paddle.static.Scope())
    rows[f'student, {options.loss}'] = classifiers.accuracy(saved.program, saved.scope, saved.fetches[0], data.test)
    print(f'saved {path} with {len(slim.GraphWrapper(saved.program).all_parameters())} parameters, none of the teacher')
    classifiers.report(rows, options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
