"""Accuracy of sparse networks on digits, over several seeds, and the table in SPARSE_ACCURACY.md next to this file.

    FLAGS_enable_pir_api=1 python benchmarks/sparse_accuracy.py [--seeds 5] [--quick]

Every run of a seed starts from the same trained network and trains for the same number of epochs, the dense one too.
The harder set is made of the same images: enlarged canvas, rotation, clutter of other digits, and noise.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn
from paddle.nn import functional

import paddleslim_ng as slim

Array = npt.NDArray[Any]
HERE = Path(__file__).resolve().parent
RATIOS = (0.5, 0.75, 0.9, 0.95)
BATCH = 64
FIRST, AFTER = 15, 6  # epochs before and after the pruning begins


class Task(NamedTuple):
    """Images and labels to learn from, and to test on."""

    name: str
    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


def easy() -> Task:
    """The digits as they are, 8x8."""
    digits = slim.data.digits(size=8)
    train, test = _arrays(digits.train), _arrays(digits.test)
    return Task('digits', *train, *test)


def hard(copies: int = 3) -> Task:
    """Digits at random places of a 14x14 canvas, turned by up to 30 degrees, among parts of others, in noise."""
    plain = easy()
    rng = np.random.default_rng(0)
    train = [_spoil(plain.images, rng) for _ in range(copies)]
    test = [_spoil(plain.test_images, rng) for _ in range(copies)]
    labels, test_labels = (np.concatenate([part] * copies) for part in (plain.labels, plain.test_labels))
    return Task('harder digits', np.concatenate(train), labels, np.concatenate(test), test_labels)


def _arrays(dataset: Any) -> tuple[Array, Array]:
    images = np.asarray(dataset.images, np.float32).reshape(-1, 1, 8, 8)
    return images, np.asarray(dataset.labels, np.int64).reshape(-1, 1)


def _spoil(images: Array, rng: np.random.Generator) -> Array:
    from scipy import ndimage

    low = images.min()
    found = np.full((len(images), 1, 14, 14), low, np.float32)
    for index, image in enumerate(images):
        canvas = found[index, 0]
        for _ in range(4):
            other = images[rng.integers(len(images)), 0]
            (a, b), (y, x) = rng.integers(0, 6, 2), rng.integers(0, 12, 2)
            canvas[y : y + 3, x : x + 3] = other[a : a + 3, b : b + 3][: 14 - y, : 14 - x]
        turned = ndimage.rotate(image[0], rng.uniform(-30, 30), reshape=False, order=1, cval=low)
        y, x = rng.integers(0, 7, 2)
        canvas[y : y + 8, x : x + 8] = np.maximum(canvas[y : y + 8, x : x + 8], turned)
    spread = images.std()
    return (found + rng.normal(0, 0.3 * spread, found.shape)).astype(np.float32)


class Learner:
    """A small convolutional network with 50 thousand weights."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed = task, seed
        self.scope, self.exe = paddle.static.Scope(), slim.Executor()
        self.train_program, startup = paddle.static.Program(), paddle.static.Program()
        self.train_program.random_seed = startup.random_seed = seed + 1
        paddle.seed(seed + 1)
        with paddle.static.program_guard(self.train_program, startup), paddle.utils.unique_name.guard():
            image = paddle.static.data('image', [None, *task.images.shape[1:]], 'float32')
            label = paddle.static.data('label', [None, 1], 'int64')
            h = image
            for inner, outer, size, stride in ((1, 32, 3, 1), (32, 64, 3, 2), (64, 64, 1, 1), (64, 48, 3, 2)):
                h = functional.relu(
                    nn.BatchNorm2D(outer)(nn.Conv2D(inner, outer, size, stride, size // 2, bias_attr=False)(h))
                )
            self.logits = nn.Linear(48, 10)(paddle.flatten(functional.adaptive_avg_pool2d(h, 1), 1))
            loss = functional.cross_entropy(self.logits, label)
            self.test_program = slim.core.clone_program(self.train_program, for_test=True)
            paddle.optimizer.Momentum(0.05, 0.9, weight_decay=5e-4).minimize(loss)
        self.exe.run(startup, scope=self.scope)

    def epochs(self, first: int, count: int, after: Callable[[], None] = lambda: None) -> None:
        for epoch in range(first, first + count):
            for feed in self._batches(epoch):
                self.exe.run(self.train_program, feed=feed, scope=self.scope)
                after()

    def _batches(self, epoch: int) -> Iterator[dict[str, Array]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.task.images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield {'image': self.task.images[chosen], 'label': self.task.labels[chosen]}

    @property
    def steps(self) -> int:
        return len(self.task.images) // BATCH

    def accuracy(self) -> float:
        feed = {'image': self.task.test_images, 'label': self.task.test_labels}
        (scores,) = self.exe.run(self.test_program, feed, [self.logits], scope=self.scope)
        return float((scores.argmax(axis=1) == self.task.test_labels.reshape(-1)).mean())

    def state(self) -> dict[str, Array]:
        names = [var.name() for var in slim.GraphWrapper(self.train_program).vars() if var.persistable()]
        return {name: slim.core.load_array(self.scope, name) for name in names}

    def restore(self, state: dict[str, Array]) -> None:
        for name, value in state.items():
            slim.core.store_array(self.scope, name, value)


def _gmp(learner: Learner, ratio: float, epochs: int) -> Any:
    total = learner.steps * epochs
    pruning = max(11, total // 2)
    configs = {
        'stable_iterations': 0,
        'pruning_iterations': pruning,
        'tuning_iterations': max(0, total - pruning),
        'pruning_steps': max(1, min(20, (pruning - 1) // 11)),
        'initial_ratio': 0.15,
    }
    return slim.sparse.GMPUnstructuredPruner(learner.train_program, ratio, learner.scope, configs=configs)


def _one_shot(learner: Learner, ratio: float, epochs: int) -> Any:
    pruner = slim.sparse.UnstructuredPruner(learner.train_program, ratio=ratio, scope=learner.scope)
    pruner.step()
    return pruner


def _pattern(learner: Learner, ratio: float, epochs: int) -> Any:
    pruner = slim.sparse.UnstructuredPruner(learner.train_program, pattern='2:4', scope=learner.scope)
    pruner.step()
    return pruner


def runs() -> dict[str, tuple[Callable[[Learner, float, int], Any] | None, float]]:
    """Return what is compared, by its name in the table."""
    found: dict[str, tuple[Callable[[Learner, float, int], Any] | None, float]] = {'dense': (None, 0.0)}
    for ratio in RATIOS:
        found[f'{ratio:.0%}, one-shot'] = (_one_shot, ratio)
        found[f'{ratio:.0%}, GMP'] = (_gmp, ratio)
    found['2:4, one-shot'] = (_pattern, 0.5)
    return found


def measure(task: Task, seed: int, quick: bool) -> dict[str, tuple[float, float]]:
    """Return accuracy and sparsity of every run of one seed."""
    first, after = (1, 1) if quick else (FIRST, AFTER)
    dense = Learner(task, seed)
    dense.epochs(0, first)
    state = dense.state()
    found = {}
    for name, (make, ratio) in runs().items():
        learner = Learner(task, seed)
        learner.restore(state)
        pruner = make(learner, ratio, after) if make is not None else None
        learner.epochs(first, after, pruner.step if pruner is not None else lambda: None)
        found[name] = (learner.accuracy(), pruner.sparsity().prunable if pruner is not None else 0.0)
    return found


def table(task: Task, results: list[dict[str, tuple[float, float]]]) -> list[str]:
    """Return the Markdown table of one task."""
    lines = [
        f'## {task.name}',
        '',
        f'{len(task.images)} images to learn from, {len(task.test_images)} to test on.',
        '',
        '| run | zeros | accuracy, % | difference to dense, of the same seed |',
        '|---|---:|---:|---:|',
    ]
    for name in results[0]:
        scores = [100 * result[name][0] for result in results]
        gaps = [100 * (result[name][0] - result['dense'][0]) for result in results]
        zeros = 100 * results[0][name][1]
        lines.append(f'| {name} | {zeros:.3f} % | {_spread(scores)} | {_spread(gaps) if name != "dense" else ""} |')
    gains = []
    for ratio in RATIOS:
        pairs = [100 * (r[f'{ratio:.0%}, GMP'][0] - r[f'{ratio:.0%}, one-shot'][0]) for r in results]
        gains.append(f'{_spread(pairs)} at {ratio:.0%}')
    return [*lines, '', f'GMP minus one-shot, of the same seed: {"; ".join(gains)}.', '']


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f'{statistics.mean(values):.2f} ± {deviation:.2f}'


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--quick', action='store_true', help='one epoch of everything, and nothing is written')
    args = parser.parse_args()
    paddle.enable_static()
    lines = [
        '# Accuracy of sparse networks on digits',
        '',
        f'Mean and standard deviation over {args.seeds} seeds; Paddle {paddle.__version__}. A network of 50 thousand '
        f'weights is trained for {FIRST} epochs; every run goes on from there for {AFTER} epochs, the dense one, too. '
        'One ratio over all prunable weights. GMP raises it during the first half of these epochs. Made by '
        '`benchmarks/sparse_accuracy.py`.',
        '',
    ]
    for task in (easy(), hard()):
        results = []
        for seed in range(args.seeds):
            results.append(measure(task, seed, args.quick))
            print(task.name, seed, {name: round(score, 4) for name, (score, _) in results[-1].items()}, flush=True)
        lines += table(task, results)
    print('\n'.join(lines))
    if not args.quick:
        (HERE / 'SPARSE_ACCURACY.md').write_text('\n'.join(lines).rstrip() + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
