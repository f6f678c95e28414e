"""What train.py and evaluate.py share: data sets, the flags that choose one, and how accuracy is counted."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.errors import ConfigError

DATA = Path(__file__).resolve().parents[1] / 'data'
MODEL = 'pruned'  # name of the inference model in the folder that train.py writes and evaluate.py reads


@dataclass(frozen=True)
class Task:
    """A data set and what fits it: image size and number of epochs are defaults."""

    channels: int
    image_size: int
    classes: int
    epochs: int
    folder: str


TASKS = {
    'digits': Task(1, 28, 10, 40, ''),
    'mnist': Task(1, 28, 10, 20, 'mnist'),
    'imagenet': Task(3, 224, 1000, 120, 'ILSVRC2012'),
}


def boolean(text: str) -> bool:
    """Read a flag's value as old scripts write it: ``--is_distributed True``."""
    if text.lower() not in ('true', 'false', '1', '0'):
        raise argparse.ArgumentTypeError(f'{text!r} is neither True nor False')
    return text.lower() in ('true', '1')


def positive(text: str) -> int:
    """Read a number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 1 on')
    return int(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--data', choices=tuple(TASKS), default='digits', help='default: digits, of scikit-learn')
    parser.add_argument('--data_dir', type=Path, help='folder of mnist or imagenet (default: demo/data/...)')
    parser.add_argument('--image_size', type=positive, help='side of the images (default: 28, or 224 for imagenet)')
    parser.add_argument('--batch_size', type=positive, default=64, help='samples in a batch of a device (default: 64)')
    parser.add_argument(
        '--use_gpu',
        type=boolean,
        nargs='?',
        const=True,
        default=paddle.is_compiled_with_cuda(),
        help="default: where this build of Paddle has GPUs' kernels",
    )


def load(options: argparse.Namespace, training: bool) -> tuple[Any, Any, Any]:
    """Return the training, validation and test parts; the first is None where it is not asked for.

    The parts do not depend on ``--seed``: evaluate.py sees the test part that train.py has not touched. ImageNet's
    validation images serve as both.
    """
    task = TASKS[options.data]
    size = options.image_size or task.image_size
    folder = options.data_dir or DATA / task.folder
    if options.data == 'imagenet':
        held_out = slim.data.ImageList(folder / 'val_list.txt', size=size)
        train = None
        if training:
            train = slim.data.ImageList(folder / 'train_list.txt', size=size, augment=True, seed=options.seed)
        return train, held_out, held_out
    if options.data == 'mnist' and size != task.image_size:
        raise ConfigError(f'the images of mnist have {task.image_size} pixels a side; leave --image_size out')
    splits = slim.data.mnist(folder) if options.data == 'mnist' else slim.data.digits(size)
    return splits.train, splits.validation, splits.test


class Share(paddle.io.Dataset):
    """Samples of one rank, in the order of one epoch: its part of every batch of the whole job.

    The order depends on seed and epoch alone, and the ranks' parts together are the batches of a single process with a
    batch so many times as large.
    """

    def __init__(self, dataset: Any, options: argparse.Namespace, epoch: int, ranks: slim.distributed.Ranks) -> None:
        super().__init__()
        self.dataset = dataset
        order = np.random.RandomState([options.seed, epoch]).permutation(len(dataset))
        steps = steps_of(dataset, options, ranks)
        whole = order[: steps * ranks.size * options.batch_size].reshape(steps, ranks.size, options.batch_size)
        self.order = whole[:, ranks.rank].reshape(-1)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.order[index])]


def steps_of(dataset: Any, options: argparse.Namespace, ranks: slim.distributed.Ranks) -> int:
    """Return the batches of an epoch; the last one is left out where it is not full."""
    steps = len(dataset) // (options.batch_size * ranks.size)
    if steps < 1:
        raise ConfigError(f'{len(dataset)} samples do not fill a batch of {options.batch_size} on {ranks.size} ranks')
    return steps


def batches(dataset: Any, batch_size: int) -> Any:
    """Return an iterable over the feeds of a data set, in its order."""
    return map(slim.data.make_feed, slim.data.BatchReader(dataset, batch_size)())


def accuracy(scores_of: Callable[[Any], Any], dataset: Any, batch_size: int, ranks: Any = None) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy; each rank looks at its share of the samples, and all learn the result.

    Args:
        scores_of: returns the scores [N, classes] for a feed of images and labels.
        dataset: the samples.
        batch_size: samples that are looked at together.
        ranks: of a distributed job.
    """
    rank, size = (ranks.rank, ranks.size) if ranks is not None else (0, 1)
    share = paddle.io.Subset(dataset, range(rank, len(dataset), size))
    right = np.zeros(2, np.int64)
    for feed in batches(share, batch_size):
        best = np.argsort(-scores_of(feed), axis=1, kind='stable')[:, :5]
        hits = best == feed['label']
        right += [hits[:, 0].sum(), hits.any(axis=1).sum()]
    total = right if ranks is None else ranks.gather(right).sum(axis=0)
    return total[0] / len(dataset), total[1] / len(dataset)
