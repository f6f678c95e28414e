"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 pixels, real data without a download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.data.dataset import ArrayDataset, Splits, stratified_split
from paddleslim_ng.data.isolated import read_gzip, zlib_is_shadowed
from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['digits', 'resize_bilinear']

_SIDE: Final[int] = 8
_WHITE: Final[float] = 16.0


def digits(size: int = 28, sizes: tuple[int, int, int] = (1197, 300, 300), seed: int = 0) -> Splits:
    """Return the digits data set (Alpaydin and Kaynak, 1998), divided into three stratified parts.

    Args:
        size: side of the images in pixels; 8 is the original, anything else is interpolated bilinearly.
        sizes: samples for training, validation and test, 1,797 together at most.
        seed: of the division.

    Returns:
        Parts with images [N, 1, size, size] scaled to [-1, 1] and labels 0-9.

    Raises:
        ConfigError: an impossible size.
        DataError: scikit-learn is not installed.

    Example:
        >>> splits = slim.data.digits(size=8)
        >>> splits.train.images.shape
        (1197, 1, 8, 8)
    """
    if size < 1:
        raise ConfigError(f'size must be at least 1 pixel, not {size!r}')
    pixels, labels = _load()
    parts = stratified_split(labels, sizes, seed)
    images = resize_bilinear(pixels, size, size)[:, None] / np.float32(_WHITE / 2) - np.float32(1)
    return Splits(*(ArrayDataset(images[part], labels[part]) for part in parts))


def _load() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return pixels [1797, 8, 8] in 0-16 and labels [1797]."""
    spec = importlib.util.find_spec('sklearn')
    if spec is None or not spec.submodule_search_locations:
        raise DataError('the digits are part of scikit-learn: pip install scikit-learn')
    file = Path(spec.submodule_search_locations[0], 'datasets', 'data', 'digits.csv.gz')
    if not zlib_is_shadowed() and not file.is_file():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images.astype(np.float32), bunch.target.astype(np.int64)
    # The file is read directly because scikit-learn would decompress it in this process.
    table = np.array([line.split(',') for line in read_gzip(file).decode().split()], dtype=np.float64)
    return table[:, :-1].reshape(-1, _SIDE, _SIDE).astype(np.float32), table[:, -1].astype(np.int64)


def resize_bilinear(images: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Interpolate images [..., H, W] linearly along both axes to [..., height, width].

    Pixels are areas: the borders of the images coincide, as in ``align_corners=False``.
    """
    rows = _interpolation(images.shape[-2], height)
    columns = _interpolation(images.shape[-1], width)
    return np.ascontiguousarray(rows @ images @ columns.T, dtype=np.float32)


def _interpolation(source: int, target: int) -> npt.NDArray[np.float32]:
    """Return the matrix [target, source] that interpolates a vector."""
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(centre.astype(np.int64), max(source - 2, 0))
    share = centre - low
    matrix = np.zeros((target, source), np.float32)
    matrix[np.arange(target), low] = 1 - share
    matrix[np.arange(target), np.minimum(low + 1, source - 1)] += share
    return matrix
