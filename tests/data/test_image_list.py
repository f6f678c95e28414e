"""Images that a list file names."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddleslim_ng as slim
from paddleslim_ng.data.isolated import ImageDecoder
from paddleslim_ng.errors import ConfigError, DataError

pytest.importorskip('PIL')
WRITE = """
import sys, numpy as np
from PIL import Image
for name, height, width in (('a.png', 20, 30), ('b c.png', 40, 24), ('d.bmp', 16, 16)):
    pixels = np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype('u1')
    Image.fromarray(pixels).save(f'{sys.argv[1]}/{name}')
Image.fromarray(np.arange(256, dtype='u1').reshape(16, 16)).save(f'{sys.argv[1]}/grey.png')
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('images')
    # In a child: with Paddle 2.6 loaded, this process cannot write PNG.
    subprocess.run([sys.executable, '-c', WRITE, str(path)], check=True)
    (path / 'list.txt').write_text('# path label\na.png 3\n\nb c.png\t0\nd.bmp 12\n')
    return path


def pixels(height: int, width: int) -> Any:
    return np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype('u1')


@pytest.mark.parametrize('isolated', [None, True])
def test_decoder(folder: Path, isolated: bool | None) -> None:
    decoder = ImageDecoder(isolated)
    for _ in range(2):
        np.testing.assert_array_equal(decoder.decode(folder / 'a.png'), pixels(20, 30))
        np.testing.assert_array_equal(decoder.decode(folder / 'd.bmp'), pixels(16, 16))
        with pytest.raises(DataError, match='not a readable image'):
            decoder.decode(folder / 'list.txt')
    assert decoder.decode(folder / 'grey.png', channels=1)[:, :, 0].tolist() == np.arange(256).reshape(16, 16).tolist()
    copy = pickle.loads(pickle.dumps(decoder))
    np.testing.assert_array_equal(copy.decode(folder / 'a.png'), pixels(20, 30))


def test_samples_of_evaluation(folder: Path) -> None:
    data = slim.data.ImageList(folder / 'list.txt', size=16, resize=16)
    assert len(data) == 3
    assert data.labels[:, 0].tolist() == [3, 0, 12]
    image, label = data[2]
    expected = (pixels(16, 16) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-5)
    assert (image.dtype, label.dtype, label.shape) == (np.float32, np.int64, (1,))
    assert data[0][0].shape == data[1][0].shape == (3, 16, 16)


def test_centre_crop(folder: Path) -> None:
    data = slim.data.ImageList(folder / 'list.txt', size=12, resize=20, mean=[0, 0, 0], std=[1, 1, 1])
    np.testing.assert_allclose(data[0][0], pixels(20, 30)[4:16, 9:21].transpose(2, 0, 1) / 255, atol=1e-6)


def test_grey(folder: Path) -> None:
    (folder / 'grey.txt').write_text(f'{folder / "grey.png"} 1\n')
    image, _ = slim.data.ImageList(folder / 'grey.txt', root='/nowhere', size=16, resize=16, channels=1)[0]
    np.testing.assert_allclose(image[0], np.arange(256).reshape(16, 16) / 127.5 - 1, atol=1e-5)


def test_random_crops_depend_on_seed_epoch_and_index_only(folder: Path) -> None:
    def make(seed: int) -> Any:
        return slim.data.ImageList(folder / 'list.txt', size=8, augment=True, seed=seed)

    first, again, other = make(0), make(0), make(1)
    again[1], other[1]
    np.testing.assert_array_equal(first[0][0], again[0][0])
    assert not np.array_equal(first[0][0], other[0][0])
    again.epoch = 1
    assert not np.array_equal(first[0][0], again[0][0])
    assert first[0][0].shape == (3, 8, 8)


def test_loader_with_workers(folder: Path) -> None:
    data = slim.data.ImageList(folder / 'list.txt', size=8)
    loader = slim.data.data_loader(data, 2, num_workers=1)
    batches = [[np.asarray(item) for item in batch] for batch in loader]
    assert [batch[0].shape for batch in batches] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    np.testing.assert_array_equal(batches[1][0][0], data[2][0])


def test_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f'no list {tmp_path}/none.txt.*put a text file'):
        slim.data.ImageList(tmp_path / 'none.txt')
    (tmp_path / 'bad.txt').write_text('a.png 1\nb.png cat\n')
    with pytest.raises(DataError, match='line 2'):
        slim.data.ImageList(tmp_path / 'bad.txt')
    (tmp_path / 'empty.txt').write_text('\n')
    with pytest.raises(DataError, match='lists no images'):
        slim.data.ImageList(tmp_path / 'empty.txt')
    (tmp_path / 'gone.txt').write_text('gone.png 1\n')
    with pytest.raises(DataError, match=f"no image '{tmp_path}/gone.png'"):
        slim.data.ImageList(tmp_path / 'gone.txt')[0]
    with pytest.raises(ConfigError, match='channels=2'):
        slim.data.ImageList(folder / 'list.txt', channels=2)
    with pytest.raises(ConfigError, match='std must be'):
        slim.data.ImageList(folder / 'list.txt', std=[0, 1, 1])
