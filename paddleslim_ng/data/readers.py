"""Batches of a data set: seeded readers, Paddle's loader, and feed dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.data.dataset import ArrayDataset
from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['BatchReader', 'data_loader', 'make_feed']

Batch = tuple[npt.NDArray[Any], ...]

_DTYPES: Final[Mapping[str, str]] = {
    'fp16': 'float16',
    'float16': 'float16',
    'fp32': 'float32',
    'float32': 'float32',
    'fp64': 'float64',
    'float64': 'float64',
    'int32': 'int32',
    'int64': 'int64',
    'uint8': 'uint8',
    'bool': 'bool',
}


class _Sampler(paddle.io.BatchSampler):  # type: ignore[misc]
    """Index batches of successive epochs; the order depends on (seed, epoch) alone."""

    def __init__(self, count: int, batch_size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        # The base class, which the loader asks for, would draw from numpy's global generator; nothing of it is used.
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f'batch_size must be a positive integer, not {batch_size!r}')
        if seed < 0:
            raise ConfigError(f'seed must not be negative, not {seed!r}')
        self.count, self.batch_size, self.drop_last = count, batch_size, drop_last
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def __len__(self) -> int:
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.count))
        if self.shuffle:
            order = np.random.RandomState([self.seed, self.epoch]).permutation(self.count).tolist()
        self.epoch += 1
        return (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self)))


class BatchReader:
    """A callable that returns an iterator over the batches of one epoch, as Paddle's classic readers do.

    Args:
        dataset: an :class:`ArrayDataset`, or any sized collection of (image, label) samples.
        batch_size: samples in a batch.
        shuffle: take the samples in a new random order each epoch.
        seed: of the orders; epoch ``e`` has the same order in every run.
        drop_last: leave out the last batch if it is not full.

    Raises:
        ConfigError: ``batch_size`` is not positive or ``seed`` is negative.

    Example:
        >>> reader = slim.data.BatchReader(slim.data.digits(8).train, 32, shuffle=True, seed=1)
        >>> for images, labels in reader():
        ...     exe.run(program, feed={'image': images, 'label': labels})
    """

    def __init__(
        self, dataset: Any, batch_size: int, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> None:
        self._dataset = dataset
        self._sampler = _Sampler(len(dataset), batch_size, shuffle, seed, drop_last)

    @property
    def seed(self) -> int:
        """Seed of the orders."""
        return self._sampler.seed

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next call starts; set it to resume a run."""
        return self._sampler.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._sampler.epoch = value

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def __call__(self) -> Iterator[Batch]:
        """Start the next epoch: batches (images [N, C, H, W], labels [N, 1])."""
        return (_gather(self._dataset, indices) for indices in iter(self._sampler))


def _gather(dataset: Any, indices: list[int]) -> Batch:
    if isinstance(dataset, ArrayDataset):
        return dataset.images[indices], dataset.labels[indices]
    samples = [dataset[index] for index in indices]
    return tuple(np.stack([np.asarray(item) for item in column]) for column in zip(*samples))


def data_loader(
    dataset: Any,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    feed_list: Sequence[Any] | None = None,
    places: Any = None,
) -> Any:
    """Wrap a data set in a ``paddle.io.DataLoader`` whose order depends on the seed and the epoch alone.

    Args:
        dataset: a ``paddle.io.Dataset`` of (image, label) samples.
        batch_size: samples in a batch.
        shuffle: take the samples in a new random order each epoch.
        seed: of the orders.
        drop_last: leave out the last batch if it is not full.
        num_workers: processes that read ahead; 0 reads in this one.
        feed_list: the program's inputs; batches are then feed dictionaries, otherwise lists [images, labels].
        places: device of the batches; default the CPU.

    Raises:
        ConfigError: ``batch_size`` is not positive or ``seed`` is negative.
    """
    return paddle.io.DataLoader(
        dataset,
        feed_list=feed_list,
        places=paddle.CPUPlace() if places is None else places,
        return_list=feed_list is None,
        batch_sampler=_Sampler(len(dataset), batch_size, shuffle, seed, drop_last),
        num_workers=num_workers,
    )


def make_feed(batch: Any, inputs: Sequence[Any] = ('image', 'label')) -> dict[str, npt.NDArray[Any]]:
    """Turn a batch into the feed dictionary of an executor.

    Args:
        batch: one array per input, or a list of samples (tuples with one entry per input), as ``paddle.batch`` yields;
            a dictionary is taken as it is.
        inputs: names, or the program's input variables, whose shape and type the arrays are then brought to: flat
            images are folded, scalar labels become [N, 1].

    Returns:
        One contiguous array per input name. Given names only, floating-point columns become float32, and integer
        columns int64 with at least two axes.

    Raises:
        DataError: the batch is empty, has another number of columns, or a column does not fit its input.

    Example:
        >>> exe.run(program, feed=slim.data.make_feed(batch, inputs), fetch_list=outputs)
    """
    names = [item if isinstance(item, str) else str(item.name) for item in inputs]
    if isinstance(batch, Mapping):
        if set(names) - set(batch):
            raise DataError(f'the batch lacks {sorted(set(names) - set(batch))}; it has {sorted(batch)}')
        columns = [np.asarray(batch[name]) for name in names]
    else:
        columns = _columns(batch, len(names))
    return {name: _fit(column, item, name) for name, column, item in zip(names, columns, inputs)}


def _columns(batch: Any, count: int) -> list[npt.NDArray[Any]]:
    rows = list(batch)
    if not rows:
        raise DataError('the batch is empty')
    by_sample = all(isinstance(row, (tuple, list)) for row in rows)
    widths = {len(row) for row in rows} if by_sample else {len(rows)}
    if widths != {count}:
        raise DataError(f'the batch has {sorted(widths)} columns for {count} inputs')
    if by_sample:
        return [np.stack([np.asarray(value) for value in column]) for column in zip(*rows)]
    return [np.asarray(column) for column in rows]


def _fit(column: npt.NDArray[Any], item: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(item, str):
        if np.issubdtype(column.dtype, np.floating):
            return np.ascontiguousarray(column, np.float32)
        return np.ascontiguousarray(column.reshape(-1, 1) if column.ndim == 1 else column, np.int64)
    shape = [int(size) for size in item.shape]
    shape[0] = len(column)
    # More than one unknown size cannot be inferred: the column must already have its shape.
    target = column.shape if shape.count(-1) > 1 else tuple(shape)
    dtype = _DTYPES.get(str(item.dtype).rpartition('.')[2].lower(), str(column.dtype))
    try:
        return np.ascontiguousarray(column.reshape(target), dtype)
    except ValueError as error:
        raise DataError(f'input {name!r} wants shape {tuple(shape)}, the batch has {column.shape}') from error
