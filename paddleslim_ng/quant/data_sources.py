"""What users calibrate with, in whatever form they have it, as an iterator of checked feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.errors import ConfigError, DataError, SlimError
from paddleslim_ng.quant.feed_fields import Feed, InputField, check_count, check_names, checked_feed, stacked_feed

__all__ = ['Feed', 'FirstKept', 'read_feeds']

Array = npt.NDArray[Any]


class FirstKept:
    """Iterates over feeds and keeps the first one, on which what comes of them is compared and measured.

    Attributes:
        first: a copy of the first feed; None until it has been read.
    """

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = feeds
        self.first: Feed | None = None

    def __iter__(self) -> Iterator[Feed]:
        for feed in self._feeds:
            if self.first is None:
                self.first = dict(feed)
            yield feed


def read_feeds(
    inputs: Sequence[VarWrapper],
    source: Any,
    *,
    samples: bool = False,
    batch_size: int = 1,
    batch_nums: int | None = None,
) -> Iterator[Feed]:
    """Turn a source of data into feeds, one batch at a time.

    Known sources:

    - an array, of one axis less for each sample, cut into batches; ``{input: array}`` or, for several inputs, a list of
      one array for each, cut together;
    - ``paddle.io.DataLoader`` of either mode, or any other iterable of batches;
    - a function without arguments that returns one: a batch generator or reader;
    - with ``samples=True``, the same with samples (without axis 0), ``batch_size`` of which become a batch; a
      ``paddle.io.Dataset`` has samples.

    A batch is ``{input: array}``, a list or tuple with one array for each input in their order, an array where there is
    one input, or a list of samples (tuples), as ``paddle.batch`` makes them. A bare array without axis 0 is a sample.
    The last batch may be smaller.

    Args:
        inputs: what a batch has to hold, in the order of its fields; see :func:`paddleslim_ng.runtime.data_inputs`.
        source: the data.
        samples: whether ``source`` gives samples.
        batch_size: how many samples become a batch; batches that come as such are handed on as they are.
        batch_nums: how many batches to read; all where None.

    Returns:
        An iterator of ``{input: array}``, in the element types of the inputs. It raises DataError, naming the batch
        (counted from 1), for the wrong number of fields, shape or type, for NaN and infinity, for a failure of the
        source itself (chained), and where there is no batch or less than ``batch_nums``.

    Raises:
        ConfigError: no input, ``batch_size`` or ``batch_nums`` that is not positive, or a ``source`` of another kind.

    Example:
        >>> feeds = read_feeds(data_inputs(program), np.load('images.npy'), batch_size=8, batch_nums=4)
    """
    for name, value in (('batch_size', batch_size), ('batch_nums', batch_nums)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise ConfigError(f'{name} must be a positive whole number, not {value!r}')
    fields = [InputField.of(var) for var in inputs]
    if not fields:
        raise ConfigError('the program has no input to feed')
    return _limited(_feeds(fields, _Numbered(_opener(fields, source)), samples, batch_size), batch_nums)


def _limited(feeds: Iterator[Feed], batch_nums: int | None) -> Iterator[Feed]:
    count = 0
    while count != batch_nums:
        feed = next(feeds, None)
        if feed is None:
            break
        count += 1
        yield feed
    if not count:
        raise DataError('the source of data is empty: it gave no batch')
    if batch_nums is not None and count < batch_nums:
        raise DataError(
            f'the source of data ended after {count} of {batch_nums} batches: give more data, or ask for less'
        )


class _Numbered:
    """Iterates over a source, and says at which batch it failed."""

    def __init__(self, opener: Callable[[], Iterable[Any]]) -> None:
        self._opener = opener
        self._iterator: Iterator[Any] | None = None
        self.batch = 1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            if self._iterator is None:
                self._iterator = iter(self._opener())
            return next(self._iterator)
        except (StopIteration, SlimError):
            raise
        except Exception as error:
            raise DataError(
                f'the source of data failed at batch {self.batch}: {type(error).__name__}: {error}'
            ) from error


def _opener(fields: Sequence[InputField], source: Any) -> Callable[[], Iterable[Any]]:
    """Return what opens the source; arrays are cut into samples."""
    arrays = _whole_arrays(fields, source)
    if arrays is not None:
        return lambda: _Rows(arrays)
    if hasattr(source, '__iter__') and not isinstance(source, (str, bytes, Mapping)):
        return lambda: iter(source)
    if callable(source):
        return lambda: iter(source())
    if hasattr(source, '__getitem__') and hasattr(source, '__len__') and not isinstance(source, (str, bytes)):
        return lambda: (source[index] for index in range(len(source)))
    raise ConfigError(
        f'cannot calibrate with {type(source).__name__}: give a generator function, a DataLoader, an iterable of '
        'batches, or arrays'
    )


class _Rows:
    """Arrays that belong together, to be cut into batches."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays

    def __iter__(self) -> Iterator[Any]:
        return iter((self,))

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        count = len(next(iter(self.arrays.values())))
        for start in range(0, count, size):
            yield {name: array[start : start + size] for name, array in self.arrays.items()}


def _whole_arrays(fields: Sequence[InputField], source: Any) -> dict[str, Array] | None:
    """Return ``{input: array}`` where the source is one array for each input, else None."""
    if isinstance(source, Mapping):
        found = {str(name): np.asarray(value) for name, value in source.items()}
    elif _is_array(source):
        check_count(fields, 1, 'the array')
        found = {fields[0].name: np.asarray(source)}
    elif len(fields) > 1 and isinstance(source, (list, tuple)) and source and all(map(_is_array, source)):
        check_count(fields, len(source), 'the list of arrays')
        found = {field.name: np.asarray(value) for field, value in zip(fields, source)}
    else:
        return None
    check_names(fields, found, 'the mapping of arrays')
    if any(not array.ndim for array in found.values()) or len({len(array) for array in found.values()}) > 1:
        shapes = {name: list(array.shape) for name, array in found.items()}
        raise DataError(f'the arrays to calibrate with differ in length along axis 0: {shapes}')
    return found


def _is_array(item: Any) -> bool:
    """Tell whether this is an array or a tensor of Paddle, rather than a container of them."""
    return hasattr(item, '__array__') and not isinstance(item, (list, tuple, Mapping))


def _feeds(fields: Sequence[InputField], source: _Numbered, samples: bool, batch_size: int) -> Iterator[Feed]:
    """Group samples into batches, and check every batch."""
    waiting: list[list[Array]] = []
    for item in source:
        if isinstance(item, _Rows):
            for part in item.batches(batch_size):
                yield checked_feed(fields, [part[field.name] for field in fields], source.batch)
                source.batch += 1
        elif samples or _is_bare_sample(fields, item):
            waiting.append(_fields_of(fields, item, source.batch))
            if len(waiting) == batch_size:
                yield stacked_feed(fields, waiting, source.batch)
                source.batch, waiting = source.batch + 1, []
        else:
            yield _batch(fields, item, source.batch)
            source.batch += 1
    if waiting:
        yield stacked_feed(fields, waiting, source.batch)


def _is_bare_sample(fields: Sequence[InputField], item: Any) -> bool:
    return len(fields) == 1 and _is_array(item) and np.ndim(item) == len(fields[0].shape) - 1


def _batch(fields: Sequence[InputField], item: Any, batch: int) -> Feed:
    if isinstance(item, (list, tuple)) and item:
        listed = all(isinstance(sample, (list, tuple)) for sample in item)
        bare = len(fields) == 1 and all(_is_bare_sample(fields, sample) for sample in item)
        if (listed and not _fits(fields, item)) or bare:
            return stacked_feed(fields, [_fields_of(fields, sample, batch) for sample in item], batch)
    return checked_feed(fields, _fields_of(fields, item, batch), batch)


def _fits(fields: Sequence[InputField], item: Sequence[Any]) -> bool:
    """Tell whether nested lists are one array of numbers for each input, rather than samples."""
    if len(item) != len(fields):
        return False
    return all(not _holds_arrays(value) and np.ndim(value) == len(field.shape) for field, value in zip(fields, item))


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(_is_array(part) or _holds_arrays(part) for part in value)


def _fields_of(fields: Sequence[InputField], item: Any, batch: int) -> list[Array]:
    """Return the arrays of a batch or sample, in the order of the inputs."""
    if isinstance(item, (list, tuple)) and len(item) == 1 and isinstance(item[0], Mapping):
        item = item[0]  # DataLoader in static mode: one mapping for each device
    if isinstance(item, Mapping):
        check_names(fields, item, f'batch {batch}')
        return [np.asarray(item[field.name]) for field in fields]
    values = list(item) if isinstance(item, (list, tuple)) else [item]
    check_count(fields, len(values), f'batch {batch}')
    return [np.asarray(value) for value in values]
