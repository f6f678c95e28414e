"""Images on disk that a text file lists with their classes, as ImageNet is usually kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.data.isolated import ImageDecoder, import_pillow
from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['ImageList']

IMAGENET_MEAN: Final[tuple[float, float, float]] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[tuple[float, float, float]] = (0.229, 0.224, 0.225)
_AREA: Final[tuple[float, float]] = (0.08, 1.0)
_ASPECT: Final[tuple[float, float]] = (3 / 4, 4 / 3)
_TRIES: Final[int] = 10
_SUFFIXES: Final[frozenset[str]] = frozenset({'.bmp', '.jpeg', '.jpg', '.png'})


class ImageList(paddle.io.Dataset):  # type: ignore[misc]
    """Samples from a list file of ``path label`` lines.

    For evaluation the shorter side is resized to ``resize`` and the centre cropped. With ``augment`` a random part of
    random aspect is resized and perhaps mirrored (Szegedy et al., 2014), as a function of (seed, epoch, index) alone.

    Args:
        list_file: the list; empty lines and lines that start with ``#`` are skipped.
        root: folder that relative paths start from; default the list's own folder.
        size: side of the square that comes out, in pixels.
        resize: length of the shorter side before the centre crop; default size * 256 / 224.
        channels: 3 for RGB, 1 for grey.
        mean: of each channel, for values in [0, 1]; default ImageNet's, or 0.5 for grey.
        std: standard deviation of each channel; default ImageNet's, or 0.5 for grey.
        augment: random crops for training.
        seed: of the random crops.

    Attributes:
        paths: of all images.
        labels: int64 [N, 1].
        epoch: counts passes, to vary the random crops; set it before each.

    Raises:
        DataError: the list is missing, empty or malformed. Images are read, and missing ones reported, when used.
        ConfigError: sizes, channels or statistics that do not fit together.

    Example:
        >>> data = slim.data.ImageList('/data/imagenet/val_list.txt')
        >>> image, label = data[0]
        >>> image.shape, label.shape
        ((3, 224, 224), (1,))
    """

    def __init__(
        self,
        list_file: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        *,
        size: int = 224,
        resize: int | None = None,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.resize, self.channels = size, resize or round(size * 256 / 224), channels
        if channels not in (1, 3) or not 0 < self.size <= self.resize:
            raise ConfigError(
                f'ImageList: channels={channels}, size={size}, resize={self.resize}: need 1 or 3, 0 < size <= resize'
            )
        self._mean = _statistics('mean', mean, IMAGENET_MEAN, channels)
        self._std = _statistics('std', std, IMAGENET_STD, channels)
        file = Path(list_file)
        self.paths, labels = _parse(file, Path(root) if root is not None else file.parent)
        self.labels: npt.NDArray[np.int64] = np.array(labels, np.int64).reshape(-1, 1)
        self.augment, self.seed, self.epoch = augment, seed, 0
        self._decoder = ImageDecoder()

    @classmethod
    def of_folder(cls, folder: str | os.PathLike[str], **options: Any) -> ImageList:
        """Return the images of a folder, in the order of their names, all with the label 0: for calibration.

        Args:
            folder: searched for ``.bmp``, ``.jpeg``, ``.jpg`` and ``.png``, subfolders included.
            options: keyword arguments of the class.

        Raises:
            DataError: the folder is missing or has no images.
        """
        root = Path(folder)
        found = sorted(path.relative_to(root) for path in root.rglob('*') if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise DataError(f'the folder {os.fspath(folder)!r} {"has no images" if root.is_dir() else "is missing"}')
        with tempfile.TemporaryDirectory() as scratch:
            listed = Path(scratch, 'images.txt')
            listed.write_text(''.join(f'{path.as_posix()} 0\n' for path in found), encoding='utf-8')
            return cls(listed, root, **options)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        pixels = self._decoder.decode(self.paths[index], self.channels)
        square = self._random_square(pixels, index) if self.augment else self._centre_square(pixels)
        values = square.reshape(self.size, self.size, self.channels).astype(np.float32) / np.float32(255)
        image = ((values - self._mean) / self._std).transpose(2, 0, 1)
        return np.ascontiguousarray(image), self.labels[index]

    def _centre_square(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = pixels.shape[:2]
        # In the original's pixels: the square that becomes size x size when the shorter side becomes resize.
        side = min(height, width) * self.size / self.resize
        left, top = (width - side) / 2, (height - side) / 2
        return self._resized(pixels, (left, top, left + side, top + side))

    def _random_square(self, pixels: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
        random = np.random.default_rng([self.seed, self.epoch, index])
        height, width = pixels.shape[:2]
        box = (0.0, 0.0, float(width), float(height))
        for _ in range(_TRIES):
            area = height * width * random.uniform(*_AREA)
            aspect = float(np.exp(random.uniform(*np.log(_ASPECT))))
            wide, high = (area * aspect) ** 0.5, (area / aspect) ** 0.5
            if wide <= width and high <= height:
                left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
                box = (left, top, left + wide, top + high)
                break
        square = self._resized(pixels, box)
        return square[:, ::-1] if random.random() < 0.5 else square

    def _resized(self, pixels: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> npt.NDArray[np.uint8]:
        pillow = import_pillow()
        image = pillow.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels)
        resized = image.resize((self.size, self.size), resample=pillow.BILINEAR, box=box)
        return np.asarray(resized, np.uint8)


def _statistics(name: str, given: Sequence[float] | None, default: Sequence[float], channels: int) -> npt.NDArray[Any]:
    values = given if given is not None else (default if channels == len(default) else [0.5] * channels)
    if len(values) != channels or (name == 'std' and min(values) <= 0):
        raise ConfigError(f'ImageList: {name} must be {channels} positive numbers, not {values!r}')
    return np.array(values, np.float32)


def _parse(file: Path, root: Path) -> tuple[list[Path], list[int]]:
    if not file.is_file():
        raise DataError(
            f'there is no list {file.absolute()}; nothing is downloaded: put a text file of "path label" lines there, '
            f'and the images under {root.absolute()}'
        )
    paths, labels = [], []
    for number, line in enumerate(file.read_text(encoding='utf-8').splitlines(), start=1):
        if not line.strip() or line.startswith('#'):
            continue
        path, _, label = line.strip().replace('\t', ' ').rpartition(' ')
        if not path or not label.isdecimal():
            raise DataError(f'{file}, line {number}: expected "path label" with a label of 0 or more, found {line!r}')
        paths.append(root / path.strip())
        labels.append(int(label))
    if not paths:
        raise DataError(f'{file} lists no images')
    return paths, labels
