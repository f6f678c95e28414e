"""Paddle's binary files of parameters, read and written without Paddle, so that damage is an error with a cause.

A file holds tensors one after the other and no names: those of the program's persistable variables, sorted, apply. One
tensor is a version (u32, 0), a number of LoD levels (u64) with as many sized tables, a version again (u32, 0), the size
(i32) and content of a protobuf message with element type (field 1) and sizes (field 2), and the raw data.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import DataError

__all__ = ['read_combined', 'read_separate', 'write_combined']

# Numbers of Paddle's element types; bfloat16 is kept as the uint16 that Paddle's own arrays use.
_DTYPES: Final[Mapping[int, str]] = {
    0: 'bool',
    1: 'int16',
    2: 'int32',
    3: 'int64',
    4: 'float16',
    5: 'float32',
    6: 'float64',
    20: 'uint8',
    21: 'int8',
    22: 'uint16',
    23: 'complex64',
    24: 'complex128',
}
_NUMBERS: Final[Mapping[str, int]] = {name: number for number, name in _DTYPES.items()}


class _Tensor(NamedTuple):
    """One tensor and where the next begins."""

    array: npt.NDArray[Any]
    end: int


def read_combined(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read a file that holds all parameters.

    Args:
        path: the file.
        names: names of the tensors in it, in any order.

    Returns:
        ``{name: array}``, sorted by name; the arrays are read-only views of the file's content.

    Raises:
        DataError: the file is missing, truncated, damaged, or holds another number of tensors.
    """
    content = _content(path)
    found: dict[str, npt.NDArray[Any]] = {}
    position = 0
    for name in sorted(names):
        if position == len(content):
            raise DataError(
                f'{os.fspath(path)} holds {len(found)} tensors where the program has {len(names)} parameters; '
                f'the first that is missing is {name!r}: the file is truncated or belongs to another model'
            )
        found[name], position = _parse(content, position, path, name)
    if position != len(content):
        raise DataError(
            f'{os.fspath(path)} goes on after the last of {len(names)} parameters, by {len(content) - position} bytes: '
            'it belongs to another model'
        )
    return found


def read_separate(folder: str | os.PathLike[str], names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read parameters from files of their own, called as they are.

    Raises:
        DataError: a file is missing, truncated or damaged.
    """
    found = {}
    for name in sorted(names):
        path = Path(folder, name)
        content = _content(path)
        found[name], end = _parse(content, 0, path, name)
        if end != len(content):
            raise DataError(f'{path} goes on after its tensor, by {len(content) - end} bytes: it is damaged')
    return found


def write_combined(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write all parameters into one file.

    Args:
        path: the file; it must not exist.
        arrays: ``{name: array}``; ``uint16`` is bfloat16.

    Raises:
        OSError: the folder is not writable, or the device is full.
        DataError: an element type that Paddle's files do not have.
    """
    for name, array in arrays.items():
        if array.dtype.name not in _NUMBERS:
            raise DataError(f'parameter {name!r} has elements of type {array.dtype}, which parameter files cannot hold')
    with open(path, 'xb') as file:
        for name in sorted(arrays):
            array = np.asarray(arrays[name], order='C')
            description = _describe(array)
            file.write(struct.pack('<IQIi', 0, 0, 0, len(description)))
            file.write(description)
            file.write(array.reshape(-1).view('uint8').data if array.size else b'')


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f'cannot read parameters from {os.fspath(path)}: {error.strerror}') from error


def _parse(content: bytes, start: int, path: str | os.PathLike[str], name: str) -> _Tensor:
    try:
        return _tensor_at(content, start)
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(
            f'{os.fspath(path)} is damaged or truncated: parameter {name!r}, at byte {start} of {len(content)}, '
            f'cannot be read ({error})'
        ) from error


def _tensor_at(content: bytes, start: int) -> _Tensor:
    version, levels = struct.unpack_from('<IQ', content, start)
    position = start + 12
    if version != 0 or levels != 0:
        raise ValueError(f'version {version} with {levels} LoD levels where 0 and 0 are known')
    version, size = struct.unpack_from('<Ii', content, position)
    position += 8
    if version != 0 or not 0 < size <= len(content) - position:
        raise ValueError(f'a description of {size} bytes in version {version}')
    dtype, shape = _description(content[position : position + size])
    position += size
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if count * dtype.itemsize > len(content) - position:
        raise ValueError(f'{shape} elements of {dtype} need more bytes than the {len(content) - position} that follow')
    array = np.frombuffer(content, dtype, count, position).reshape(shape) if count else np.empty(shape, dtype)
    return _Tensor(array, position + count * dtype.itemsize)


def _description(message: bytes) -> tuple[np.dtype[Any], list[int]]:
    """Decode element type and sizes from a protobuf message."""
    number, position = -1, 0
    shape: list[int] = []
    while position < len(message):
        tag, position = _varint(message, position)
        if tag == 0x12:  # sizes in packed form
            size, position = _varint(message, position)
            end = position + size
            while position < end:
                value, position = _varint(message, position)
                shape.append(value)
            continue
        value, position = _varint(message, position)
        if tag == 0x08:
            number = value
        elif tag == 0x10:
            shape.append(value)
        else:
            raise ValueError(f'field {tag >> 3} in the description')
    if number not in _DTYPES:
        raise ValueError(f'element type {number}')
    return np.dtype(_DTYPES[number]), shape


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError('a number that never ends')


def _describe(array: npt.NDArray[Any]) -> bytes:
    fields = b'\x08' + _encoded(_NUMBERS[array.dtype.name])
    return fields + b''.join(b'\x10' + _encoded(size) for size in array.shape)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
