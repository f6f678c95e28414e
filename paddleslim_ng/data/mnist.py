"""MNIST from the idx files of its authors, plain or gzipped, in a folder that the user names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.data.dataset import ArrayDataset, Splits, stratified_split
from paddleslim_ng.data.isolated import read_gzip
from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['mnist', 'read_idx']

_TYPES: Final[Mapping[int, str]] = {0x08: '>u1', 0x09: '>i1', 0x0B: '>i2', 0x0C: '>i4', 0x0D: '>f4', 0x0E: '>f8'}


def mnist(folder: str | os.PathLike[str], validation: int = 5000, seed: int = 0) -> Splits:
    """Read MNIST or a set in its format, such as Fashion-MNIST (LeCun et al., 1998).

    Nothing is downloaded.

    Args:
        folder: holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each plain or as ``.gz``.
        validation: how many training images to set apart, stratified by class.
        seed: of that choice.

    Returns:
        Parts with images [N, 1, 28, 28] scaled to [-1, 1], labels 0-9.

    Raises:
        DataError: a file is missing or damaged; the message says where to put it.
        ConfigError: ``validation`` is negative or leaves nothing to train on.
    """
    train, test = _part(Path(folder), 'train'), _part(Path(folder), 't10k')
    if not 0 <= validation < len(train):
        raise ConfigError(f'validation must be from 0 to {len(train) - 1}, not {validation!r}')
    fit, choose = stratified_split(train.labels, (len(train) - validation, validation), seed)
    return Splits(train.subset(fit), train.subset(choose), test)


def _part(folder: Path, prefix: str) -> ArrayDataset:
    images = read_idx(_find(folder, f'{prefix}-images-idx3-ubyte'))
    labels = read_idx(_find(folder, f'{prefix}-labels-idx1-ubyte'))
    if images.ndim != 3 or labels.shape != (len(images),):
        raise DataError(f'{prefix} files in {folder}: images {images.shape} and labels {labels.shape} do not fit')
    return ArrayDataset(images[:, None].astype(np.float32) / np.float32(127.5) - np.float32(1), labels)


def _find(folder: Path, name: str) -> Path:
    candidates = [name, f'{name}.gz', name.replace('-idx', '.idx'), f'{name.replace("-idx", ".idx")}.gz']
    found = next((folder / candidate for candidate in candidates if (folder / candidate).is_file()), None)
    if found is None:
        raise DataError(
            f'there is no {name} (or {name}.gz) in {folder.absolute()}; nothing is downloaded: '
            'put the four MNIST files there'
        )
    return found


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read an array from an idx file; a name that ends in ``.gz`` is decompressed.

    Raises:
        DataError: the file is missing, is not in idx format, or is longer or shorter than its header says.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f'there is no file {file}')
    content = read_gzip(file) if file.suffix == '.gz' else file.read_bytes()
    if len(content) < 4 or content[:2] != b'\0\0' or content[2] not in _TYPES:
        raise DataError(f'{file} is not an idx file: it starts with {content[:4].hex()}')
    rank, dtype = content[3], np.dtype(_TYPES[content[2]])
    header = 4 + 4 * rank
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], '>u4')) if len(content) >= header else ()
    if len(shape) != rank or len(content) != header + int(np.prod(shape)) * dtype.itemsize:
        raise DataError(f'{file} is damaged: {len(content)} bytes do not hold an array of shape {shape}')
    return np.frombuffer(content, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder('='))
