"""One file with arrays and plain state, atomically written, whose damage is noticed: checkpoints are made of it.

The file is what ``numpy.savez`` writes, so numpy alone can open it; nothing in it is pickled. A member called
``state`` holds JSON, in which ``{"array": "name"}`` stands for an array. The file ends in the SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['Snapshot', 'read_snapshot', 'write_snapshot']

_STATE: Final = 'state'
_TENSOR: Final = 'tensor/'
_ARRAY: Final = 'array/'
_MARK: Final = b'SLIMSHA2'
_TAIL: Final = len(_MARK) + 32
Arrays = Mapping[str, npt.NDArray[Any]]


class Snapshot(NamedTuple):
    """The content of a file.

    Attributes:
        tensors: arrays by name.
        state: plain values (None, bool, int, float, str, lists, dicts with str keys), and arrays among them.
    """

    tensors: dict[str, npt.NDArray[Any]]
    state: dict[str, Any]


def write_snapshot(path: str | os.PathLike[str], tensors: Arrays, state: Mapping[str, Any]) -> None:
    """Write a snapshot in one step that survives a crash at any point.

    Args:
        path: the file; its folder must exist.
        tensors: arrays by name, of numbers.
        state: see :class:`Snapshot`; tuples become lists, and numbers of numpy Python's.

    Raises:
        ConfigError: the state holds something else; the message says where.
        OSError: the folder is missing or not writable, or the device is full; a former file is then untouched.
    """
    members: dict[str, npt.NDArray[Any]] = {_TENSOR + name: _numeric(array, name) for name, array in tensors.items()}
    plain = _packed(dict(state), 'state', members)
    members[_STATE] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, array in members.items():
            with archive.open(zipfile.ZipInfo(name + '.npy'), 'w', force_zip64=True) as file:
                np.save(file, np.asarray(array, order='C'), allow_pickle=False)
    content = buffer.getvalue()
    atomic_write(path, content + _MARK + hashlib.sha256(content).digest())


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read what :func:`write_snapshot` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, truncated or something else.
    """
    try:
        whole = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f'cannot read {os.fspath(path)}: {error.strerror}') from error
    content, tail = whole[:-_TAIL], whole[-_TAIL:]
    if not tail.startswith(_MARK) or hashlib.sha256(content).digest() != tail[len(_MARK) :]:
        raise CheckpointError(f'{os.fspath(path)} is damaged, truncated or no snapshot: its checksum does not fit')
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
        state = _unpacked(json.loads(members.pop(_STATE).tobytes()), members)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f'{os.fspath(path)} is not a snapshot of this version: {error}') from error
    tensors = {name[len(_TENSOR) :]: array for name, array in members.items() if name.startswith(_TENSOR)}
    return Snapshot(tensors, state)


def _numeric(array: Any, name: str) -> npt.NDArray[Any]:
    found = np.asarray(array)
    if found.dtype.hasobject:
        raise ConfigError(f'{name!r} is an array of Python objects, which a snapshot does not hold')
    return found


def _packed(value: Any, where: str, members: dict[str, npt.NDArray[Any]]) -> Any:
    """Return what JSON can hold, and put arrays among the members."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        name = f'{_ARRAY}{len(members)}'
        members[name] = _numeric(value, where)
        return {'array': name}
    if isinstance(value, (list, tuple)):
        return [_packed(item, f'{where}[{index}]', members) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise ConfigError(f'{where} has the key {odd[0]!r}; a snapshot holds dicts whose keys are text')
        packed = {key: _packed(item, f'{where}[{key!r}]', members) for key, item in value.items()}
        return {'dict': packed} if set(packed) in ({'array'}, {'dict'}) else packed
    raise ConfigError(f'{where} is a {type(value).__name__}, which a snapshot does not hold')


def _unpacked(value: Any, members: dict[str, npt.NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, members) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {'array'}:
        return members.pop(value['array'])
    inner = value['dict'] if set(value) == {'dict'} else value
    return {key: _unpacked(item, members) for key, item in inner.items()}
