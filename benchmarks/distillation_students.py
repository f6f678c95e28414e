"""What the study of distilled networks trains: the digits with few labels, teachers, and students."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional

import paddleslim_ng as slim

Array = npt.NDArray[Any]
LABELS, STEPS, BATCH, UNLABELLED = 100, 400, 25, 50
TEACHER_STEPS, TEACHER_BATCH = 360, 64
MAP = {'image': 'image'}
STAGES = ('early', 'middle', 'late')


@dataclass(frozen=True)
class Data:
    """Images, their labels (only some of which a student may see), and the test part."""

    images: Array
    labels: Array
    known: Array
    test_images: Array
    test_labels: Array

    def share(self, scores: Array) -> float:
        """Return the share of the test images whose class has the highest score."""
        return float((scores.argmax(axis=1) == self.test_labels[:, 0]).mean())


def data(seed: int) -> Data:
    """Return the digits, with ``LABELS`` labels known, as many of each class."""
    parts = slim.data.digits(size=8, sizes=(1197, 0, 600))
    (known,) = slim.data.stratified_split(parts.train.labels, (LABELS,), seed)
    return Data(parts.train.images, parts.train.labels, known, parts.test.images, parts.test.labels)


class Net:
    """Three convolutions and a linear layer; a teacher has two wide ones in front of each.

    Attributes:
        maps: what the three stages make: 16 channels of 8x8, 32 and 32 of 4x4, the same for teacher and student.
        logits: class scores.
        losses: cross-entropy of each sample [N, 1].
    """

    def __init__(self, seed: int, width: int = 0) -> None:
        self.scope, self.exe = paddle.static.Scope(), slim.Executor()
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.main.random_seed = self.startup.random_seed = seed
        self.maps: dict[str, Any] = {}
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            h = paddle.static.data('image', [None, 1, 8, 8], 'float32')
            label = paddle.static.data('label', [None, 1], 'int64')
            for name, channels, stride in zip(STAGES, (16, 32, 32), (1, 2, 1)):
                inner = [width, width, channels] if width else [channels]
                for place, filters in enumerate(inner):
                    h = _layer(h, filters, stride if place == 0 else 1)
                self.maps[name] = h
            self.logits = nn.Linear(32, 10)(paddle.flatten(functional.adaptive_avg_pool2d(h, 1), 1))
            self.losses = functional.cross_entropy(self.logits, label, reduction='none')
        self.evaluation = slim.core.clone_program(self.main, for_test=True)

    def train(self, feeds: Iterable[Mapping[str, Array]]) -> None:
        for feed in feeds:
            self.exe.run(self.main, feed, scope=self.scope)

    def accuracy(self, given: Data) -> float:
        feed = {'image': given.test_images, 'label': given.test_labels}
        (scores,) = self.exe.run(self.evaluation, feed, [self.logits], scope=self.scope)
        return given.share(scores)

    def state(self) -> dict[str, Array]:
        names = [var.name() for var in slim.GraphWrapper(self.evaluation).all_parameters()]
        return {name: slim.core.load_array(self.scope, name) for name in names}

    def restore(self, state: Mapping[str, Array]) -> None:
        for name, array in state.items():
            slim.core.store_array(self.scope, name, array, paddle.CPUPlace())


def minimize(main: Any, startup: Any, loss: Any) -> None:
    """Add the optimizer that everything is trained with."""
    decay = paddle.regularizer.L2Decay(5e-4)
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard('training'):
        paddle.optimizer.Momentum(0.05, 0.9, weight_decay=decay).minimize(loss)


def _layer(x: Any, filters: int, stride: int) -> Any:
    made = nn.Conv2D(int(x.shape[1]), filters, 3, stride, 1, bias_attr=False)(x)
    return functional.relu(nn.BatchNorm2D(filters)(made))


def batches(indices: Array, size: int, steps: int, seed: int) -> Iterable[Array]:
    """Yield so many batches of indices, epoch after epoch, each in its own order."""
    done = 0
    for epoch in range(steps):
        order = np.random.default_rng([seed, epoch]).permutation(indices)
        for start in range(0, len(order) - size + 1, size):
            if done == steps:
                return
            done += 1
            yield order[start : start + size]


def teacher(given: Data, seed: int, steps: int) -> Net:
    """Train a teacher on all labels."""
    net = Net(1000 + seed, width=48)
    with paddle.static.program_guard(net.main, net.startup):
        loss = paddle.mean(net.losses)
    minimize(net.main, net.startup, loss)
    net.exe.run(net.startup, scope=net.scope)
    everything = np.arange(len(given.labels))
    net.train(
        {'image': given.images[chosen], 'label': given.labels[chosen]}
        for chosen in batches(everything, TEACHER_BATCH, steps, 1000 + seed)
    )
    return net


def feeds(given: Data, seed: int, steps: int, extra: int) -> Iterable[dict[str, Array]]:
    """Yield batches of images with labels, and of others whose labels count for nothing."""
    unknown = np.setdiff1d(np.arange(len(given.labels)), given.known)
    others: Iterable[Array] = [np.zeros(0, np.int64)] * steps
    if extra:
        others = batches(unknown, extra, steps, 500 + seed)
    for mine, other in zip(batches(given.known, BATCH, steps, seed), others):
        chosen = np.concatenate([mine, other])
        weights = np.zeros((len(chosen), 1), np.float32)
        weights[: len(mine)] = len(chosen) / len(mine)
        labels = given.labels[chosen].copy()
        labels[len(mine) :] = 0
        yield {'image': given.images[chosen], 'label': labels, 'known': weights}


class Pupil:
    """A student with its teachers merged; what a loss is built from."""

    def __init__(self, seed: int, teachers: Sequence[Net]) -> None:
        self.net = Net(seed)
        self.merged = [
            slim.dist.merge(
                one.evaluation,
                self.net.main,
                MAP,
                scope=self.net.scope,
                teacher_scope=one.scope,
                name_prefix=f'teacher{place}_',
            )
            for place, one in enumerate(teachers)
        ]
        self.teachers = teachers

    def logits(self, place: int = 0) -> tuple[Any, Any]:
        return self.merged[place][self.teachers[place].logits], self.net.logits

    def maps(self, stage: str) -> tuple[Any, Any]:
        return self.merged[0][self.teachers[0].maps[stage]], self.net.maps[stage]
