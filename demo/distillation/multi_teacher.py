"""Several teachers speak to one student with one voice: the mean of their probabilities or of their logits.

python multi_teacher.py
python multi_teacher.py --teachers ResNet18 MobileNetV2 --weights 2 1 --kind logits
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import classifiers
import paddle

import paddleslim_ng as slim


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = classifiers.parser(__doc__, 'LeNet', 1.0, 0.02)
    classifiers.teacher_flags(parser)
    parser.add_argument(
        '--teachers', nargs='+', default=['ResNet18', 'ResNet18'], help='networks (default: ResNet18 ResNet18)'
    )
    parser.add_argument('--weights', type=float, nargs='+', help='of the teachers (default: all the same)')
    parser.add_argument('--kind', choices=('probability', 'logits'), default='probability', help='what is averaged')
    parser.add_argument('--temperature', type=float, default=4.0, help='default: 4')
    return parser.parse_args(arguments)


def distill(options: argparse.Namespace, teachers: Sequence[Any], weights: Any, data: classifiers.Data) -> Any:
    """Return a student that learned from labels and from the mean of some teachers."""
    student = classifiers.build(options.student, options.student_scale, options, options.seed)
    place, scope, names = paddle.CPUPlace(), student.scope, {'image': 'image'}
    merged = [
        slim.dist.merge(one, student.program, names, place, scope, name_prefix=f'teacher{number}_')
        for number, one in enumerate(teachers)
    ]
    heat = options.temperature
    with paddle.static.program_guard(student.program, student.startup):
        logits = slim.dist.mix([one.outputs[0] for one in merged], weights, kind=options.kind)
        distance = slim.dist.soft_label(
            logits, student.logits, teacher_temperature=heat, student_temperature=heat, scale_by_temperature=True
        )
        total, _ = slim.dist.combine([(student.loss, 1.0), (distance, 1.0)])
    last = classifiers.train_with_teacher(student, total, data, options)
    print(f'last steps: loss {last[0]:.4f}, cross-entropy with the labels {last[1]:.4f}')
    return student


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    classifiers.begin(options)
    data = classifiers.load_data(options)
    teachers = [
        classifiers.teacher(model, options, data, f'teacher{number}', options.seed + number)
        for number, model in enumerate(options.teachers)
    ]
    rows = {
        f'teacher {number}, {model}': classifiers.accuracy(one.program, one.scope, one.fetches[0], data.test)
        for number, (model, one) in enumerate(zip(options.teachers, teachers))
    }
    alone = classifiers.build(options.student, options.student_scale, options, options.seed)
    classifiers.train_alone(alone, data.labelled, options, options.steps, options.batch_size)
    rows['student alone'] = classifiers.accuracy(alone.evaluation, alone.scope, alone.logits, data.test)
    choices = {f'student of teacher {number}': ([one], None) for number, one in enumerate(teachers)}
    choices[f'student of all, {options.kind}'] = (teachers, options.weights)
    for name, (chosen, weights) in choices.items():
        student = distill(options, chosen, weights, data)
        rows[name] = classifiers.accuracy(student.evaluation, student.scope, student.logits, data.test)
    path = options.output / 'student'
    slim.runtime.save_inference_model(student.evaluation, path, ['image'], [student.logits], student.scope)
    print(f'saved {path}, the student of all teachers')
    classifiers.report(rows, options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
