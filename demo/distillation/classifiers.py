"""What the three scripts share: digits, networks before their optimizer, training, accuracy, and their flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional

import paddleslim_ng as slim
from paddleslim_ng.runtime.atomic import atomic_write

TEACHER_BATCH = 64


@dataclass
class Classifier:
    """A network with its loss, ready for a teacher and an optimizer.

    Attributes:
        program: what will be trained.
        startup: its startup program.
        evaluation: the network in test mode, as it was before anything was added.
        logits: class scores.
        loss: cross-entropy with the labels that are known.
        scope: its parameters.
    """

    program: Any
    startup: Any
    evaluation: Any
    logits: Any
    loss: Any
    scope: Any


def build(model: str, scale: float, options: argparse.Namespace, seed: int) -> Classifier:
    program, startup = paddle.static.Program(), paddle.static.Program()
    program.random_seed = startup.random_seed = seed + 1  # to Paddle, 0 is no seed
    network = slim.models.create(model, scale=scale)
    with paddle.static.program_guard(program, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, 1, options.image_size, options.image_size], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        known = paddle.static.data('known', [None, 1], 'float32')
        network.net(image, class_dim=10)
        loss = paddle.mean(functional.cross_entropy(network.logits, label, reduction='none') * known)
        evaluation = slim.core.clone_program(program, for_test=True)
    return Classifier(program, startup, evaluation, network.logits, loss, paddle.static.Scope())


def minimize(program: Any, startup: Any, loss: Any, rate: float, steps: int) -> Any:
    """Add Momentum, whose rate falls along a cosine, and return the schedule."""
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(rate, steps)
    decay = paddle.regularizer.L2Decay(1e-4)
    with paddle.static.program_guard(program, startup):
        paddle.optimizer.Momentum(schedule, 0.9, weight_decay=decay).minimize(loss)
    return schedule


def fit(
    program: Any,
    scope: Any,
    feeds: Iterable[Mapping[str, Any]],
    after: Sequence[Callable[[], Any]] = (),
    losses: Sequence[Any] = (),
) -> list[float]:
    """Train on batches; return the means of ``losses`` over the last ten."""
    exe, seen = slim.Executor(), []
    for feed in feeds:
        values = exe.run(program, feed, list(losses), scope=scope)
        seen.append([float(np.mean(value)) for value in values])
        for step in after:
            step()
    return [float(value) for value in np.mean(seen[-10:], axis=0)] if losses else []


def batches(
    part: Any, size: int, steps: int, seed: int, others: Any = None, extra: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield batches of labelled images and, with them, ``extra`` of ``others``, whose labels are hidden.

    ``known`` weighs the cross-entropy of each image, so that its mean is that over the labelled ones.
    """
    known = np.zeros((size + extra, 1), np.float32)
    known[:size] = (size + extra) / size
    unlabelled = _endless(others, extra, seed + 1) if extra else None
    for _, (images, labels) in zip(range(steps), _endless(part, size, seed)):
        if unlabelled is not None:
            more = next(unlabelled)[0]
            images, labels = np.concatenate([images, more]), np.concatenate([labels, np.zeros((extra, 1), np.int64)])
        yield {'image': images, 'label': labels, 'known': known}


def _endless(part: Any, size: int, seed: int) -> Iterator[Any]:
    if len(part) < size:
        raise slim.errors.ConfigError(f'{len(part)} images do not fill a batch of {size}')
    reader = slim.data.BatchReader(part, size, shuffle=True, seed=seed, drop_last=True)
    while True:
        yield from reader()


def train_alone(net: Classifier, part: Any, options: argparse.Namespace, steps: int, batch: int) -> None:
    """Train a network on labels alone."""
    schedule = minimize(net.program, net.startup, net.loss, options.lr, steps)
    slim.Executor().run(net.startup, scope=net.scope)
    fit(net.program, net.scope, batches(part, batch, steps, options.seed), [schedule.step])


def train_with_teacher(
    net: Classifier, loss: Any, data: Data, options: argparse.Namespace, after: Sequence[Callable[[], Any]] = ()
) -> list[float]:
    """Train a student on a loss against its teachers, take them out, and return the last losses."""
    schedule = minimize(net.program, net.startup, loss, options.lr, options.steps)
    slim.Executor().run(net.startup, scope=net.scope)
    feeds = batches(data.labelled, options.batch_size, options.steps, options.seed, data.others, options.unlabelled)
    last = fit(net.program, net.scope, feeds, [schedule.step, *after], [loss, net.loss])
    net.evaluation = slim.dist.strip(net.program, for_test=True, scope=net.scope)
    return last


def accuracy(program: Any, scope: Any, logits: Any, part: Any) -> float:
    """Return the share of images whose class has the highest score."""
    inference = slim.core.cut_program(program, ['image'], [logits])
    exe, right = slim.Executor(), 0
    for images, labels in slim.data.BatchReader(part, 100)():
        (scores,) = exe.run(inference, {'image': images}, [logits], scope=scope)
        right += int((scores.argmax(axis=1) == labels[:, 0]).sum())
    return right / len(part)


def teacher(model: str, options: argparse.Namespace, data: Data, name: str, seed: int) -> Any:
    """Train a teacher on all labels, save it, and load what was saved."""
    net = build(model, options.teacher_scale, options, seed)
    train_alone(net, data.train, options, options.teacher_steps, TEACHER_BATCH)
    path = options.output / name
    slim.runtime.save_inference_model(net.evaluation, path, ['image'], [net.logits], net.scope)
    return slim.runtime.load_inference_model(path, paddle.static.Scope())


@dataclass
class Data:
    """The digits.

    Attributes:
        train: all training images, with labels: for teachers.
        labelled: the few whose labels students see.
        others: the rest, whose labels they do not see.
        test: for the accuracies.
    """

    train: Any
    labelled: Any
    others: Any
    test: Any


def load_data(options: argparse.Namespace) -> Data:
    parts = slim.data.digits(options.image_size, sizes=(1197, 0, 600))
    (known,) = slim.data.stratified_split(parts.train.labels, (options.labels,), options.seed)
    rest = np.setdiff1d(np.arange(len(parts.train)), known)
    return Data(parts.train, parts.train.subset(known), parts.train.subset(rest), parts.test)


def report(rows: dict[str, float], options: argparse.Namespace) -> None:
    """Print accuracies and write them to ``figures.json``."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f'{name.ljust(width)}  {value:.4f}')
    atomic_write(options.output / 'figures.json', json.dumps(rows, indent=1) + '\n')


def parser(about: str | None, student: str, scale: float, rate: float) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('--student', default=student, help=f'one of slim.models.MODELS (default: {student})')
    made.add_argument(
        '--student_scale', type=float, default=scale, help=f'multiplier of its channels (default: {scale:g})'
    )
    made.add_argument('--labels', type=int, default=100, help='images that students learn from (default: 100)')
    made.add_argument('--image_size', type=int, default=20, help='side of the images (default: 20)')
    made.add_argument('--steps', type=int, default=200, help='of students (default: 200)')
    made.add_argument('--batch_size', type=int, default=25, help='labelled images in a step (default: 25)')
    made.add_argument('--lr', type=float, default=rate, help=f'learning rate at the start (default: {rate:g})')
    made.add_argument('--seed', type=int, default=0, help='of weights, labels and orders (default: 0)')
    made.add_argument('--output', type=Path, default=Path('distilled'), help='folder of the results')
    return made


def teacher_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument('--teacher_scale', type=float, default=0.25, help='multiplier of its channels (default: 0.25)')
    made.add_argument('--teacher_steps', type=int, default=120, help='of 64 of all 1197 images (default: 120)')
    made.add_argument(
        '--unlabelled', type=int, default=50, help='images without labels in a step with a teacher (default: 50)'
    )


def begin(options: argparse.Namespace) -> None:
    paddle.enable_static()
    options.output.mkdir(parents=True, exist_ok=True)
    ir = 'PIR' if paddle.framework.in_pir_mode() else 'legacy'
    print(f'Paddle {paddle.__version__}, {ir} programs; {options.labels} labelled images, seed {options.seed}')
