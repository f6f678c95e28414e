"""Feeds that are checked against the inputs of a program, and errors that say what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.errors import DataError, nearest_names

__all__ = ['Feed', 'InputField', 'check_count', 'check_names', 'checked_feed', 'stacked_feed']

Array = npt.NDArray[Any]
Feed = dict[str, Array]


class InputField(NamedTuple):
    """An input: its name, shape (-1 where open) and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, var: VarWrapper) -> InputField:
        """Return the field of an input; bfloat16 is fed as the 16 bits that it is."""
        return cls(var.name(), var.shape(), np.dtype({'bfloat16': 'uint16'}.get(var.dtype(), var.dtype())))


def check_count(fields: Sequence[InputField], count: int, what: str) -> None:
    """Raise DataError where ``what`` does not have one field for each input."""
    if count != len(fields):
        raise DataError(
            f'{what} has {count} field{"s" * (count != 1)}, but the program has {len(fields)} '
            f'input{"s" * (len(fields) != 1)}: {[field.name for field in fields]}'
        )


def check_names(fields: Sequence[InputField], given: Mapping[Any, Any], what: str) -> None:
    """Raise DataError where the names that ``what`` holds are not those of the inputs."""
    known = [field.name for field in fields]
    missing = [name for name in known if name not in given]
    unknown = [name for name in given if name not in known]
    if missing or unknown:
        near = nearest_names(str(unknown[0]), known) if unknown else ''
        raise DataError(f'{what} holds {list(given)}, but the inputs of the program are {known}{near}')


def stacked_feed(fields: Sequence[InputField], rows: Sequence[Sequence[Array]], batch: int) -> Feed:
    """Return the feed of some samples, each one array for each input.

    Raises:
        DataError: samples of different or wrong shapes, or what :func:`checked_feed` refuses.
    """
    columns = []
    for index, field in enumerate(fields):
        shapes = {row[index].shape for row in rows}
        if len(shapes) > 1 or not all(_matches(shape, field.shape[1:]) for shape in shapes):
            raise DataError(
                f'samples of batch {batch} for the input {field.name!r} have the shapes {sorted(map(list, shapes))}, '
                f'where one of {list(field.shape[1:])} belongs into {list(field.shape)}'
            )
        columns.append(np.stack([row[index] for row in rows]))
    return checked_feed(fields, columns, batch)


def checked_feed(fields: Sequence[InputField], columns: Sequence[Array], batch: int) -> Feed:
    """Return the feed of one array for each input, in the element types of the inputs.

    Raises:
        DataError: a wrong shape or type, numbers that do not fit into the type, or NaN or infinity.
    """
    return {field.name: _check_array(field, array, batch) for field, array in zip(fields, columns)}


def _check_array(field: InputField, array: Array, batch: int) -> Array:
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
