"""What users calibrate with, in whatever form they have it, as an iterator of checked feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.errors import ConfigError, DataError, SlimError, nearest_names

__all__ = ['Feed', 'read_feeds']

Array = npt.NDArray[Any]
Feed = dict[str, Array]


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
    fields = [_Field(var.name(), var.shape(), np.dtype(_storage(var.dtype()))) for var in inputs]
    if not fields:
        raise ConfigError('the program has no input to feed')
    return _limited(_feeds(fields, _Numbered(_opener(fields, source)), samples, batch_size), batch_nums)


class _Field(NamedTuple):
    """An input: its name, shape (-1 where open) and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _storage(dtype: str) -> str:
    return 'uint16' if dtype == 'bfloat16' else dtype


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


def _opener(fields: Sequence[_Field], source: Any) -> Callable[[], Iterable[Any]]:
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


def _whole_arrays(fields: Sequence[_Field], source: Any) -> dict[str, Array] | None:
    """Return ``{input: array}`` where the source is one array for each input, else None."""
    if isinstance(source, Mapping):
        found = {str(name): np.asarray(value) for name, value in source.items()}
    elif _is_array(source):
        _check_count(fields, 1, 'the array')
        found = {fields[0].name: np.asarray(source)}
    elif len(fields) > 1 and isinstance(source, (list, tuple)) and source and all(map(_is_array, source)):
        _check_count(fields, len(source), 'the list of arrays')
        found = {field.name: np.asarray(value) for field, value in zip(fields, source)}
    else:
        return None
    _check_names(fields, found, 'the mapping of arrays')
    if any(not array.ndim for array in found.values()) or len({len(array) for array in found.values()}) > 1:
        shapes = {name: list(array.shape) for name, array in found.items()}
        raise DataError(f'the arrays to calibrate with differ in length along axis 0: {shapes}')
    return found


def _is_array(item: Any) -> bool:
    """Tell whether this is an array or a tensor of Paddle, rather than a container of them."""
    return hasattr(item, '__array__') and not isinstance(item, (list, tuple, Mapping))


def _feeds(fields: Sequence[_Field], source: _Numbered, samples: bool, batch_size: int) -> Iterator[Feed]:
    """Group samples into batches, and check every batch."""
    waiting: list[list[Array]] = []
    for item in source:
        if isinstance(item, _Rows):
            for part in item.batches(batch_size):
                yield _checked(fields, [part[field.name] for field in fields], source.batch)
                source.batch += 1
        elif samples or _is_bare_sample(fields, item):
            waiting.append(_fields_of(fields, item, source.batch))
            if len(waiting) == batch_size:
                yield _stacked(fields, waiting, source.batch)
                source.batch, waiting = source.batch + 1, []
        else:
            yield _batch(fields, item, source.batch)
            source.batch += 1
    if waiting:
        yield _stacked(fields, waiting, source.batch)


def _is_bare_sample(fields: Sequence[_Field], item: Any) -> bool:
    return len(fields) == 1 and _is_array(item) and np.ndim(item) == len(fields[0].shape) - 1


def _batch(fields: Sequence[_Field], item: Any, batch: int) -> Feed:
    if isinstance(item, (list, tuple)) and item:
        listed = all(isinstance(sample, (list, tuple)) for sample in item)
        bare = len(fields) == 1 and all(_is_bare_sample(fields, sample) for sample in item)
        if (listed and not _fits(fields, item)) or bare:
            return _stacked(fields, [_fields_of(fields, sample, batch) for sample in item], batch)
    return _checked(fields, _fields_of(fields, item, batch), batch)


def _fits(fields: Sequence[_Field], item: Sequence[Any]) -> bool:
    """Tell whether nested lists are one array of numbers for each input, rather than samples."""
    if len(item) != len(fields):
        return False
    return all(not _holds_arrays(value) and np.ndim(value) == len(field.shape) for field, value in zip(fields, item))


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(_is_array(part) or _holds_arrays(part) for part in value)


def _fields_of(fields: Sequence[_Field], item: Any, batch: int) -> list[Array]:
    """Return the arrays of a batch or sample, in the order of the inputs."""
    if isinstance(item, (list, tuple)) and len(item) == 1 and isinstance(item[0], Mapping):
        item = item[0]  # DataLoader in static mode: one mapping for each device
    if isinstance(item, Mapping):
        _check_names(fields, item, f'batch {batch}')
        return [np.asarray(item[field.name]) for field in fields]
    values = list(item) if isinstance(item, (list, tuple)) else [item]
    _check_count(fields, len(values), f'batch {batch}')
    return [np.asarray(value) for value in values]


def _check_count(fields: Sequence[_Field], count: int, what: str) -> None:
    if count != len(fields):
        raise DataError(
            f'{what} has {count} field{"s" * (count != 1)}, but the program has {len(fields)} '
            f'input{"s" * (len(fields) != 1)}: {[field.name for field in fields]}'
        )


def _check_names(fields: Sequence[_Field], given: Mapping[Any, Any], what: str) -> None:
    known = [field.name for field in fields]
    missing = [name for name in known if name not in given]
    unknown = [name for name in given if name not in known]
    if missing or unknown:
        near = nearest_names(str(unknown[0]), known) if unknown else ''
        raise DataError(f'{what} holds {list(given)}, but the inputs of the program are {known}{near}')


def _stacked(fields: Sequence[_Field], rows: Sequence[Sequence[Array]], batch: int) -> Feed:
    """Make a batch of samples."""
    columns = []
    for index, field in enumerate(fields):
        shapes = {row[index].shape for row in rows}
        if len(shapes) > 1 or not all(_matches(shape, field.shape[1:]) for shape in shapes):
            raise DataError(
                f'samples of batch {batch} for the input {field.name!r} have the shapes {sorted(map(list, shapes))}, '
                f'where one of {list(field.shape[1:])} belongs into {list(field.shape)}'
            )
        columns.append(np.stack([row[index] for row in rows]))
    return _checked(fields, columns, batch)


def _checked(fields: Sequence[_Field], columns: Sequence[Array], batch: int) -> Feed:
    return {field.name: _check_array(field, array, batch) for field, array in zip(fields, columns)}


def _check_array(field: _Field, array: Array, batch: int) -> Array:
    where = f'batch {batch} for the input {field.name!r}'
    if array.size == 0 or not _matches(array.shape, field.shape):
        raise DataError(f'{where} has the shape {list(array.shape)}, and the program takes {list(field.shape)}')
    if array.dtype != field.dtype:
        if array.dtype.kind != field.dtype.kind or array.dtype.kind not in 'fiu':
            raise DataError(f'{where} holds {array.dtype}, and the program takes {field.dtype}: convert it')
        array = _converted(array, field.dtype, where)
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
        kinds = [kind for kind, found in (('NaN', np.isnan(array)), ('infinity', np.isinf(array))) if found.any()]
        raise DataError(f'{where} holds {" and ".join(kinds)}')
    return np.ascontiguousarray(array)


def _converted(array: Array, dtype: np.dtype[Any], where: str) -> Array:
    if dtype.kind != 'f' and not np.can_cast(array.dtype, dtype):
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise DataError(f'{where} holds {array.dtype} beyond the range of {dtype}')
    with np.errstate(over='ignore'):  # infinity is found later
        return array.astype(dtype)


def _matches(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(size < 0 or n == size for n, size in zip(shape, wanted))
