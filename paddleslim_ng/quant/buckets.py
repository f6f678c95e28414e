"""Buckets: the parts of a tensor that have a range or a codebook of their own, in numpy and in a program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['BUCKETS', 'Buckets', 'check_buckets']

# What the argument ``bucket`` takes: the whole tensor, its output channels, or a given number of elements.
BUCKETS: Final = (None, 'channel', 'split')
Array = npt.NDArray[Any]


def check_buckets(kind: Any, size: Any) -> None:
    """Check the arguments ``bucket`` and ``bucket_size``.

    Raises:
        ConfigError: an unknown kind, or a size that is not a whole number of at least 2.
    """
    if kind not in BUCKETS:
        near = nearest_names(str(kind), ['channel', 'split'])
        raise ConfigError(f'bucket must be one of {list(BUCKETS)}, not {kind!r}{near}')
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 2:
        raise ConfigError(f'bucket_size must be a whole number of at least 2, not {size!r}')


@dataclass(frozen=True)
class Buckets:
    """How a tensor is divided.

    Of ``split``, the elements in C order are brought into the shape ``[size, count]``, filled up with copies of the
    last one, and every column is a bucket: neighbours are in different ones (PocketFlow's layout).

    Attributes:
        shape: of the tensor.
        axis: of the channels where each of them is a bucket.
        size: elements of a bucket where they are split.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    size: int | None = None

    @property
    def count(self) -> int:
        """Number of buckets."""
        if self.axis is not None:
            return self.shape[self.axis]
        return 1 if self.size is None else -(-self.elements // self.size)

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def _padding(self) -> int:
        return 0 if self.size is None else self.count * self.size - self.elements

    @property
    def within(self) -> tuple[int, ...]:
        """Axes of what :meth:`arrange` returns along which a bucket extends."""
        if self.size is not None:
            return (0,)
        return tuple(axis for axis in range(len(self.shape)) if axis != self.axis)

    def arrange(self, array: Array) -> Array:
        """Return a tensor so that each bucket is what extends along :attr:`within`."""
        if self.size is None:
            return array
        flat = array.reshape(-1)
        filled: Array = np.concatenate([flat, np.repeat(flat[-1:], self._padding)])
        return filled.reshape(self.size, self.count)

    def restore(self, array: Array) -> Array:
        """Return the tensor of what :meth:`arrange` returned."""
        if self.size is None:
            return array
        found: Array = array.reshape(-1)[: self.elements].reshape(self.shape)
        return found

    def rows(self, array: Array) -> Array:
        """Return a tensor as ``[count, elements of a bucket]``."""
        if self.size is not None:
            return self.arrange(array).T
        first = array if self.axis is None else np.moveaxis(array, self.axis, 0)
        return first.reshape(self.count, -1)

    def from_rows(self, rows: Array) -> Array:
        """Return the tensor of what :meth:`rows` returned."""
        if self.size is not None:
            return self.restore(rows.T)
        if self.axis is None:
            return rows.reshape(self.shape)
        moved = np.moveaxis(np.empty(self.shape, np.bool_), self.axis, 0).shape
        return np.moveaxis(rows.reshape(moved), 0, self.axis)

    def build_arrange(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build :meth:`arrange` in a program."""
        if self.size is None:
            return x
        flat = e.reshape(x, [-1])
        if self._padding:
            last = e.slice(flat, 0, self.elements - 1, self.elements)
            flat = e.concat([flat, e.tile(last, [self._padding])], 0)
        return e.reshape(flat, [self.size, self.count])

    def build_restore(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build :meth:`restore` in a program."""
        if self.size is None:
            return x
        flat = e.reshape(x, [-1])
        if self._padding:
            flat = e.slice(flat, 0, 0, self.elements)
        return e.reshape(flat, self.shape)

    def build_rows(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build :meth:`rows` in a program."""
        if self.size is not None:
            return e.transpose(self.build_arrange(e, x), [1, 0])
        if self.axis:
            x = e.transpose(x, self._channels_first)
        return e.reshape(x, [self.count, -1])

    def build_from_rows(self, e: Expressions, rows: VarWrapper) -> VarWrapper:
        """Build :meth:`from_rows` in a program."""
        if self.size is not None:
            return self.build_restore(e, e.transpose(rows, [1, 0]))
        if not self.axis:
            return e.reshape(rows, self.shape)
        order = self._channels_first
        moved = e.reshape(rows, [self.shape[axis] for axis in order])
        return e.transpose(moved, [order.index(axis) for axis in range(len(order))])

    @property
    def _channels_first(self) -> list[int]:
        first = self.axis or 0
        return [first, *(axis for axis in range(len(self.shape)) if axis != first)]

    @classmethod
    def of(cls, shape: Sequence[int], kind: str | None, axis: int | None, size: int) -> Buckets:
        """Return the buckets of a kind; a tensor without channels is one bucket of kind ``'channel'``."""
        sizes = tuple(int(n) for n in shape)
        return cls(sizes, axis if kind == 'channel' else None, int(size) if kind == 'split' else None)
