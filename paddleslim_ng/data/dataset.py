"""Data sets held as arrays, and their division into training, validation and test parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['ArrayDataset', 'Splits', 'stratified_split']


class ArrayDataset(paddle.io.Dataset):  # type: ignore[misc]
    """Images and labels in memory, as a ``paddle.io.Dataset``.

    Args:
        images: [N, C, H, W].
        labels: N integers, of shape [N] or [N, 1].

    Attributes:
        images: float32 [N, C, H, W].
        labels: int64 [N, 1].

    Raises:
        DataError: the shapes do not fit each other.
    """

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        super().__init__()
        self.images: npt.NDArray[np.float32] = np.ascontiguousarray(images, dtype=np.float32)
        self.labels: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64).reshape(-1, 1)
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            found = f'{self.images.shape} and {len(self.labels)} labels'
            raise DataError(f'images must be [N, C, H, W] with one label each, got {found}')

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        return self.images[index], self.labels[index]

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> ArrayDataset:
        """Return the samples at ``indices``, in that order."""
        return ArrayDataset(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of a data set.

    Attributes:
        train: to fit weights.
        validation: to choose (sensitivities, ratios, hyperparameters).
        test: for the final figures only.
    """

    train: ArrayDataset
    validation: ArrayDataset
    test: ArrayDataset


def stratified_split(labels: npt.ArrayLike, sizes: Sequence[int], seed: int = 0) -> tuple[npt.NDArray[np.int64], ...]:
    """Divide sample indices at random into parts in which every class keeps its share.

    Args:
        labels: class of every sample, [N] or [N, 1].
        sizes: number of samples of each part; they may sum to less than N.
        seed: of the division; the same seed gives the same parts with every version of numpy.

    Returns:
        One array of indices per part, each in random order. Class counts differ from exact shares by at most one
        or two samples.

    Raises:
        ConfigError: a size is negative, or the sizes sum to more than N.
    """
    flat = np.asarray(labels).reshape(-1)
    if min(sizes) < 0 or sum(sizes) > len(flat):
        raise ConfigError(f'cannot take parts of {list(sizes)} samples from {len(flat)}')
    # RandomState's stream is frozen by numpy's compatibility policy; that of Generator is not.
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(flat))
    # Each class is spread evenly over [0, 1), so any interval holds its share of every class.
    position = np.empty(len(flat))
    for value in np.unique(flat):
        members = shuffled[flat[shuffled] == value]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = shuffled[np.argsort(position[shuffled], kind='stable')]
    bounds = np.cumsum([0, *sizes])
    return tuple(random.permutation(order[start:end]) for start, end in zip(bounds[:-1], bounds[1:]))
