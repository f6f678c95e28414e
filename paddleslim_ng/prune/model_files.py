"""The files of a saved pruned model: arrays and JSON, written so that a crash leaves the old model or the new one.

``__shapes__.json`` is written last and names the other two with their digests, so a model is complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import CheckpointError
from paddleslim_ng.runtime.atomic import atomic_write, publish, temporary_sibling

__all__ = ['MANIFEST', 'ModelFiles', 'read_model_files', 'write_model_files']

MANIFEST = '__shapes__.json'
_KIND = 'paddleslim_ng pruned model'
_VERSION = 1
_PARAMS, _GROUPS = '__params__', '__groups__'

Array = npt.NDArray[Any]


@dataclass
class ModelFiles:
    """Content of a saved model.

    Attributes:
        arrays: every persistable of the program, by name.
        parameters: which of them are parameters.
        kept: ``{parameter: {axis: rows}}``, where positions were cut: for each size that the axis had, a row of that
            size and the positions of it that were kept; see :mod:`paddleslim_ng.prune.records`.
        groups: ``{filter: groups}`` of the convolutions.
    """

    arrays: dict[str, Array]
    parameters: list[str]
    kept: dict[str, dict[int, list[list[int]]]] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)


def write_model_files(dirname: str | os.PathLike[str], files: ModelFiles) -> None:
    """Write a model into a directory, replacing one that is there; other files in it are left alone.

    Raises:
        OSError: the directory cannot be made or written to; a model that was there is intact.
    """
    folder = Path(dirname)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(files.arrays)
    params = _publish_arrays(folder, [files.arrays[name] for name in names])
    text = json.dumps(files.groups, indent=1, sort_keys=True)
    groups = f'{_GROUPS}.{_digest(text.encode())[:16]}.json'
    atomic_write(folder / groups, text)
    manifest = {
        'kind': _KIND,
        'version': _VERSION,
        'params': params,
        'groups': {'file': groups, 'sha256': _digest(text.encode())},
        'order': names,
        'parameters': files.parameters,
        'shapes': {name: list(files.arrays[name].shape) for name in names},
        'kept': {name: {str(axis): rows for axis, rows in axes.items()} for name, axes in files.kept.items()},
    }
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1))
    for path in (*folder.glob(f'{_PARAMS}.*.npz'), *folder.glob(f'{_GROUPS}.*.json')):
        if path.name not in (params['file'], groups):
            path.unlink(missing_ok=True)


def _publish_arrays(folder: Path, arrays: Sequence[Array]) -> dict[str, str]:
    """Write arrays into a file named by its content, and return name and digest."""
    with temporary_sibling(folder / _PARAMS) as temporary:
        with open(temporary, 'xb') as file:
            named: dict[str, Any] = {f'array_{index}': array for index, array in enumerate(arrays)}
            np.savez(file, **named)
        digest = _file_digest(temporary)
        name = f'{_PARAMS}.{digest[:16]}.npz'
        publish(temporary, folder / name)
    return {'file': name, 'sha256': digest}


def read_model_files(dirname: str | os.PathLike[str]) -> ModelFiles:
    """Read a model that :func:`write_model_files` has written.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind or a newer version; the message names it.
    """
    folder = Path(dirname)
    path = folder / MANIFEST
    manifest = _json(path)
    if not isinstance(manifest, dict) or manifest.get('kind') != _KIND:
        raise CheckpointError(f'{path} does not describe a model saved by paddleslim_ng')
    if manifest.get('version') != _VERSION:
        raise CheckpointError(
            f'{path} has version {manifest.get("version")!r}; this release reads version {_VERSION}: update the library'
        )
    try:
        shapes = {str(name): tuple(int(n) for n in shape) for name, shape in manifest['shapes'].items()}
        kept = {
            str(name): {int(axis): [[int(n) for n in row] for row in rows] for axis, rows in axes.items()}
            for name, axes in manifest['kept'].items()
        }
        parameters = [str(name) for name in manifest['parameters']]
        order = [str(name) for name in manifest['order']]
        groups_path = _verified(folder, manifest['groups'])
        params_path = _verified(folder, manifest['params'])
        groups = {str(name): int(count) for name, count in _json(groups_path).items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f'{path} is damaged: {error!r}') from error
    arrays = _arrays(params_path, order)
    if {name: array.shape for name, array in arrays.items()} != shapes or not set(parameters) <= set(order):
        raise CheckpointError(f'{params_path} does not hold what {path} lists')
    for name, axes in kept.items():
        if not all(_sound(rows, shapes.get(name, ()), axis) for axis, rows in axes.items()):
            raise CheckpointError(f'{path} is damaged: it lists kept positions of {name!r} that it cannot have')
    return ModelFiles(arrays, parameters, kept, groups)


def _sound(rows: Sequence[Sequence[int]], shape: tuple[int, ...], axis: int) -> bool:
    """Tell whether every row has a size and as many positions below it as the axis has."""
    if not 0 <= axis < len(shape):
        return False
    return all(len(row) == shape[axis] + 1 and all(0 <= n < row[0] for n in row[1:]) for row in rows)


def _arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[f'array_{index}'] for index, name in enumerate(names)}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CheckpointError(f'{path} is damaged: {error!r}') from error


def _verified(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Return the path of a listed file whose content has the listed digest."""
    name = str(entry['file'])
    path = folder / name
    if Path(name).name != name:
        raise CheckpointError(f'{folder / MANIFEST} is damaged: it lists the file {name!r}')
    try:
        digest = _file_digest(path)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error}; the model is incomplete') from error
    if digest != entry['sha256']:
        raise CheckpointError(f'{path} is damaged: its content is not what was written; save the model again')
    return path


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text('utf-8'))
    except OSError as error:
        raise CheckpointError(
            f'{path} cannot be read: {error}; there is no complete model in this directory'
        ) from error
    except ValueError as error:
        raise CheckpointError(f'{path} is damaged: {error}') from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()
