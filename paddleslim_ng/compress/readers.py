"""Readers in whatever form users have them, opened once for each epoch, as feeds of a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.data import make_feed
from paddleslim_ng.errors import ConfigError, DataError, SlimError

__all__ = ['Feed', 'Names', 'Reader', 'batch_size_of', 'named_variables']

Feed = dict[str, npt.NDArray[Any]]
Names = list[tuple[str, str]]


def named_variables(given: Iterable[Any], program: Any, role: str) -> Names:
    """Return ``[(readable name, variable name)]`` of a feed or fetch list.

    Args:
        given: pairs of a readable name and a name, Variable or Value; or bare names, Variables or Values.
        program: has the variables.
        role: how errors name the list.

    Raises:
        ConfigError: a readable name occurs twice.
        GraphError: the program has no such variable.
    """
    graph = GraphWrapper(program)
    found: Names = []
    for item in given:
        paired = isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)
        readable, target = item if paired else (None, item)
        name = graph.var(target).name()
        found.append((readable if readable is not None else name, name))
    labels = [label for label, _ in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f'{role} has the names {twice} twice')
    return found


def batch_size_of(feed: Feed) -> int:
    """Return the number of samples in a feed: the length of its first input."""
    first = next(iter(feed.values()))
    return int(first.shape[0]) if first.ndim else 1


class Reader:
    """A source of batches.

    Args:
        source: a function without arguments that returns an iterator (a reader or generator function), a
            ``paddle.io.DataLoader``, a list of batches, or another iterable. A batch is one array for each input in the
            order of ``feed_list``, a mapping by readable or variable name, or a list of samples.
        feed_list: ``[(readable name, variable name)]``.
        role: how errors name it, such as ``'train_reader'``.

    Raises:
        ConfigError: the source is of another kind.
    """

    def __init__(self, source: Any, feed_list: Names, role: str) -> None:
        self.source, self.feed_list, self.role = source, list(feed_list), role
        if isinstance(source, (str, bytes, Mapping)) or hasattr(source, '__array__'):
            raise ConfigError(
                f'{role} gives batches, and {type(source).__name__} is none of the kinds of readers; '
                'slim.data.BatchReader cuts arrays into batches'
            )
        if isinstance(source, paddle.io.Dataset):
            raise ConfigError(
                f'{role} gives batches, and {type(source).__name__} is a dataset, which gives samples: put it into a '
                'paddle.io.DataLoader with a batch_size'
            )
        if not hasattr(source, '__iter__') and not callable(source):
            raise ConfigError(f'{role} is a reader function, a DataLoader or a list of batches, not {source!r}')
        if not self.feed_list:
            raise ConfigError(f'{role} has no inputs to feed: the feed list is empty')
        self._ahead = False

    def is_exhaustible(self) -> bool:
        """Tell whether the source gives its batches once only, as a generator does."""
        return isinstance(self.source, Iterator)

    def length(self) -> int | None:
        """Return the number of batches of an epoch where the source tells it."""
        try:
            return len(self.source)
        except TypeError:
            return None

    def set_epoch(self, epoch: int) -> None:
        """Tell a source that shuffles by the number of the epoch which one comes: by ``epoch`` or ``set_epoch``."""
        owners: list[Any] = [self.source, getattr(self.source, 'batch_sampler', None)]
        for owner in owners:
            if hasattr(owner, 'set_epoch'):
                owner.set_epoch(epoch)
                return
            if hasattr(owner, 'epoch'):
                owner.epoch = epoch
                return

    def feeds(self, program: Any, skip: int = 0, skipped: Callable[[], None] | None = None) -> Iterator[Feed]:
        """Open the source and yield its batches.

        Args:
            program: has the inputs.
            skip: batches to read past, unchecked.
            skipped: called once they are behind; not where a thread reads ahead, in whose midst it would come.

        Raises:
            DataError: the source fails (chained) or is empty, or a batch does not fit; named by its number from 1.
        """
        graph = GraphWrapper(program)
        inputs = [graph.var(name).raw for _, name in self.feed_list]
        number = 0
        for number, item in enumerate(self._items(), 1):
            if number <= skip:
                if number == skip and skipped is not None and not self._ahead:
                    skipped()
                continue
            yield self._feed(item, inputs, number)
        if number == 0:
            again = ', or has been read already: give a function that opens it anew' if self.is_exhaustible() else ''
            raise DataError(f'{self.role} is empty: it gave no batch{again}')
        if number < skip:
            raise DataError(f'{self.role} gave {number} batches, where {skip} had been trained with before')

    def _items(self) -> Iterator[Any]:
        number = 1
        try:
            opened = self._open()
            self._ahead = _reads_ahead(opened)
            for item in opened:
                yield item
                number += 1
        except SlimError:
            raise
        except Exception as error:
            raise DataError(f'{self.role} failed at batch {number}: {type(error).__name__}: {error}') from error

    def _open(self) -> Iterable[Any]:
        opened: Any = self.source if hasattr(self.source, '__iter__') else self.source()
        if not hasattr(opened, '__iter__'):
            raise ConfigError(f'{self.role}() returned a {type(opened).__name__}, which is no iterator of batches')
        return iter(opened)  # type: ignore[no-any-return]

    def _feed(self, item: Any, inputs: Sequence[Any], number: int) -> Feed:
        try:
            arranged = self._arranged(item)
            _check_layout(arranged, inputs)
            feed = make_feed(arranged, inputs)
        except (DataError, TypeError, ValueError) as error:
            raise DataError(f'batch {number} of {self.role}: {error}') from error
        for name, array in feed.items():
            if array.size == 0 or (array.dtype.kind == 'f' and not np.isfinite(array).all()):
                what = 'is empty' if array.size == 0 else 'holds NaN or infinity'
                raise DataError(f'batch {number} of {self.role}: input {name!r} {what}')
        return feed

    def _arranged(self, item: Any) -> Any:
        """Return a batch as a mapping by variable names, or as one entry for each input."""
        if isinstance(item, (list, tuple)) and len(item) == 1 and isinstance(item[0], Mapping):
            item = item[0]  # DataLoader in static mode: one mapping for each device
        if isinstance(item, Mapping):
            return {
                name: item[name] if name in item else item.get(label)
                for label, name in self.feed_list
                if name in item or label in item
            }
        if len(self.feed_list) == 1 and hasattr(item, '__array__'):
            return [item]
        return item


def _reads_ahead(opened: Any) -> bool:
    """Tell whether batches come from a thread of this process that fetches them before they are asked for."""
    return type(opened).__name__ == '_DataLoaderIterSingleProcess'


def _check_layout(batch: Any, inputs: Sequence[Any]) -> None:
    """Raise where an array has the rank of its input and another shape: bringing it there would mix its axes up.

    Flat images and scalar labels have another rank, and are folded later.
    """
    if isinstance(batch, Mapping):
        columns, first = list(batch.values()), 0
    else:
        rows = list(batch)
        samples = bool(rows) and all(isinstance(row, (list, tuple)) for row in rows)
        columns, first = (list(rows[0]), 1) if samples else (rows, 0)
    if not first and any(_shape_of(column) == () and len(variable.shape) for column, variable in zip(columns, inputs)):
        raise DataError(
            'an entry is a single number: these are samples, and not yet batches; paddle.batch(reader, size) and '
            'slim.data.BatchReader make batches'
        )
    for column, variable in zip(columns, inputs):
        wanted = [int(size) for size in variable.shape][first:]
        found = _shape_of(column)
        if len(found) == len(wanted) and any(n not in (size, -1) for n, size in zip(wanted, found)):
            raise DataError(f'input {str(variable.name)!r} wants shape {tuple(wanted)}, the batch has {found}')


def _shape_of(column: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of a tensor of Paddle, whose shape is a method."""
    shape = getattr(column, 'shape', None)
    return tuple(shape() if callable(shape) else np.shape(column))
