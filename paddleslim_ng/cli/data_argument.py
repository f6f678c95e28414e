"""Inputs and labels as the command line names them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.model_argument import read_arrays
from paddleslim_ng.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from paddleslim_ng.core import VarWrapper
    from paddleslim_ng.data import ImageList
    from paddleslim_ng.data.dataset import Splits

__all__ = ['digits_for', 'folder_for', 'image_batches', 'read_data_arrays', 'read_label_array', 'single_input']

_ARRAYS = ('.npy', '.npz')


def read_data_arrays(path: str | None) -> Any:
    """Read arrays from an ``.npy`` or ``.npz`` file, before Paddle is imported; None where another source is named.

    Raises:
        DataError: the file is missing or damaged.
    """
    if path is None or Path(path).suffix not in _ARRAYS:
        return None
    return read_arrays(path) if path.endswith('.npz') else _array(path)


def read_label_array(path: str | None) -> npt.NDArray[Any] | None:
    """Read integer labels, [N] or [N, 1], from an ``.npy`` file; None where no file, or one of another kind, is named.

    Raises:
        DataError: the file is missing or damaged, or holds something else.
    """
    if path is None or Path(path).suffix != '.npy':
        return None
    labels = _array(path)
    if labels.dtype.kind not in 'iu' or not labels.size or labels.size != len(labels):
        raise DataError(f'{path!r} must hold N whole numbers, not {labels.dtype} of shape {list(labels.shape)}')
    return labels.reshape(-1)


def _array(path: str) -> npt.NDArray[Any]:
    import numpy as np

    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f'cannot read an array from {path!r}: {error}') from error
    if not array.ndim:
        raise DataError(f'{path!r} holds a single number; it needs one entry for each sample')
    return array


def single_input(inputs: Sequence[VarWrapper]) -> VarWrapper:
    """Return the one input of a model that images are fed to.

    Raises:
        ConfigError: there are several.
    """
    if len(inputs) != 1:
        names = [var.name() for var in inputs]
        raise ConfigError(f'the model has the inputs {names}: give --data FILE.npz with an array for each')
    return inputs[0]


def digits_for(image: VarWrapper, shapes: Mapping[str, Sequence[int]]) -> Splits:
    """Return the digits in the size that a model takes.

    Raises:
        ConfigError: it takes something else.
    """
    channels, side = _size(image, shapes)
    from paddleslim_ng.data import digits

    if channels != 1:
        raise ConfigError(f'the digits have one channel, and the model takes {channels}')
    return digits(size=side)


def folder_for(
    arguments: argparse.Namespace, image: VarWrapper, shapes: Mapping[str, Sequence[int]], list_file: str | None = None
) -> ImageList:
    """Return the images of the folder ``--data`` in the size that a model takes, or those that a list names.

    Raises:
        ConfigError: the model takes no images.
        DataError: the folder or the list is missing or empty.
    """
    channels, side = _size(image, shapes)
    from paddleslim_ng.data import ImageList

    options = {'size': side, 'channels': channels, 'mean': arguments.mean, 'std': arguments.std}
    if list_file is None:
        return ImageList.of_folder(arguments.data, **options)
    if not Path(arguments.data).is_dir():
        raise DataError(f'the folder {arguments.data!r} is missing')
    return ImageList(list_file, arguments.data, **options)


def image_batches(images: ImageList, size: int) -> Callable[[], Iterator[Any]]:
    """Return a reader of batches of images, without their labels."""

    def batches() -> Iterator[Any]:
        import numpy as np

        for start in range(0, len(images), size):
            stop = min(start + size, len(images))
            yield [np.stack([images[index][0] for index in range(start, stop)])]

    return batches


def _size(image: VarWrapper, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Return how many channels and pixels the images have that a model takes."""
    shape = list(shapes.get(image.name(), image.shape()))
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or shape[2] < 1:
        raise ConfigError(
            f'the model takes {list(image.shape())} as {image.name()!r}: images need [N, 1 or 3, side, side]; name '
            f'open sizes with --shape {image.name()}=N,C,H,W, or give arrays'
        )
    return shape[1], shape[2]
