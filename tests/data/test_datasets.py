"""Digits, MNIST files and their divisions."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import paddleslim_ng as slim
from paddleslim_ng.data.digits import resize_bilinear
from paddleslim_ng.data.isolated import read_gzip
from paddleslim_ng.errors import ConfigError, DataError

WRITE_GZIP = 'import gzip, sys; gzip.open(sys.argv[1], "wb").write(sys.stdin.buffer.read())'


def write_gzip(path: Path, content: bytes) -> None:
    """Compress in a child: with Paddle 2.6 loaded, this process cannot."""
    subprocess.run([sys.executable, '-c', WRITE_GZIP, str(path)], input=content, check=True)


def idx(array: Any, code: int) -> bytes:
    return struct.pack(f'>HBB{array.ndim}I', 0, code, array.ndim, *array.shape) + array.tobytes()


def mnist_files(count: int, seed: int) -> dict[str, bytes]:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (count, 28, 28)).astype('u1')
    return {'images-idx3-ubyte': idx(images, 8), 'labels-idx1-ubyte': idx((np.arange(count) % 10).astype('u1'), 8)}


@pytest.fixture
def mnist_folder(tmp_path: Path) -> Path:
    for name, content in mnist_files(60, 0).items():
        (tmp_path / f'train-{name}').write_bytes(content)
    for name, content in mnist_files(20, 1).items():
        write_gzip(tmp_path / f't10k-{name}.gz', content)
    return tmp_path


def test_digits_shapes_scale_and_classes() -> None:
    splits = slim.data.digits(size=8)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [1197, 300, 300]
    for part in parts:
        assert part.images.dtype == np.float32
        assert part.images.shape[1:] == (1, 8, 8)
        assert part.labels.shape == (len(part), 1)
        counts = np.bincount(part.labels[:, 0], minlength=10)
        assert np.abs(counts - len(part) / 10).max() <= 0.04 * len(part)
    pixels = np.concatenate([part.images for part in parts])
    assert (pixels.min(), pixels.max()) == (-1, 1)


def test_digits_are_those_of_scikit_learn() -> None:
    script = (
        'import sys, numpy as np; from sklearn.datasets import load_digits; d = load_digits(); '
        'sys.stdout.buffer.write(np.c_[d.data, d.target].astype("f4").tobytes())'
    )
    raw = subprocess.run([sys.executable, '-c', script], capture_output=True, check=True).stdout
    table = np.frombuffer(raw, 'f4').reshape(1797, 65)
    splits = slim.data.digits(size=8)
    parts = (splits.train, splits.validation, splits.test)
    ours = np.concatenate([np.c_[(p.images.reshape(len(p), 64) + 1) * 8, p.labels] for p in parts])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], table[np.lexsort(table.T)])


def test_digits_division_is_the_same_everywhere() -> None:
    labels = [slim.data.digits(size=8).test.labels, slim.data.digits(size=8).test.labels]
    assert hashlib.sha256(labels[0].tobytes()).hexdigest() == hashlib.sha256(labels[1].tobytes()).hexdigest()
    train, test = slim.data.stratified_split(np.arange(12) % 3, (6, 3), seed=7)
    assert (train.tolist(), test.tolist()) == EXPECTED_DIVISION
    other = slim.data.digits(size=8, seed=1).test.labels
    assert not np.array_equal(labels[0], other)


EXPECTED_DIVISION: tuple[list[int], list[int]] = ([2, 5, 3, 10, 7, 0], [6, 11, 1])


def test_digits_are_enlarged() -> None:
    large, small = slim.data.digits().train.images, slim.data.digits(size=8).train.images
    assert large.shape == (1197, 1, 28, 28)
    np.testing.assert_allclose(large.mean(), small.mean(), atol=0.02)
    np.testing.assert_allclose(large[:, :, 0, 0], small[:, :, 0, 0], atol=1e-6)


def test_bilinear_against_pillow() -> None:
    image_module = pytest.importorskip('PIL.Image')
    picture = np.random.RandomState(0).rand(8, 6).astype('float32')
    for height, width in ((28, 28), (13, 9), (8, 6)):
        expected = image_module.fromarray(picture).resize((width, height), resample=image_module.BILINEAR)
        np.testing.assert_allclose(resize_bilinear(picture, height, width), np.asarray(expected), atol=1e-5)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_division_is_disjoint_and_stratified(labels: list[int], first: float, second: float, seed: int) -> None:
    total = len(labels)
    sizes = [int(total * first), 0]
    sizes[1] = int((total - sizes[0]) * second)
    parts = slim.data.stratified_split(labels, sizes, seed)
    assert [len(part) for part in parts] == sizes
    taken = np.concatenate(parts)
    assert len(set(taken.tolist())) == len(taken)
    for part in parts:
        counts = np.bincount(np.asarray(labels)[part], minlength=5)
        shares = np.bincount(labels, minlength=5) * len(part) / total
        assert np.abs(counts - shares).max() <= 5


def test_division_refuses_too_much() -> None:
    with pytest.raises(ConfigError, match='cannot take'):
        slim.data.stratified_split([0, 1], (2, 1))
    with pytest.raises(ConfigError, match='cannot take'):
        slim.data.digits(size=8, sizes=(1797, 1, 0))


def test_array_dataset_checks_shapes() -> None:
    data = slim.data.ArrayDataset(np.zeros((3, 1, 2, 2)), [0, 1, 2])
    assert data.labels.tolist() == [[0], [1], [2]]
    assert data.subset([2, 0]).labels.tolist() == [[2], [0]]
    with pytest.raises(DataError, match=r'\[N, C, H, W\]'):
        slim.data.ArrayDataset(np.zeros((3, 4)), [0, 1, 2])
    with pytest.raises(DataError, match='2 labels'):
        slim.data.ArrayDataset(np.zeros((3, 1, 2, 2)), [0, 1])


def test_mnist_plain_and_gzipped(mnist_folder: Path) -> None:
    splits = slim.data.mnist(mnist_folder, validation=20)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [40, 20, 20]
    assert np.bincount(splits.validation.labels[:, 0]).tolist() == [2] * 10
    raw = np.frombuffer(mnist_files(20, 1)['images-idx3-ubyte'][16:], 'u1').reshape(20, 1, 28, 28)
    np.testing.assert_allclose(splits.test.images, raw / 127.5 - 1, atol=1e-6)
    assert splits.test.labels[:, 0].tolist() == [i % 10 for i in range(20)]


def test_mnist_says_where_to_put_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f'no train-images-idx3-ubyte .* in {tmp_path}.*put the four MNIST files there'):
        slim.data.mnist(tmp_path)


def test_mnist_errors(mnist_folder: Path) -> None:
    with pytest.raises(ConfigError, match='from 0 to 59'):
        slim.data.mnist(mnist_folder, validation=60)
    (mnist_folder / 'train-labels-idx1-ubyte').write_bytes(idx(np.zeros(59, 'u1'), 8))
    with pytest.raises(DataError, match='do not fit'):
        slim.data.mnist(mnist_folder)


@pytest.mark.parametrize(('code', 'dtype'), [(0x08, 'u1'), (0x0B, '>i2'), (0x0C, '>i4'), (0x0D, '>f4'), (0x0E, '>f8')])
def test_idx_types(code: int, dtype: str, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    (tmp_path / 'a').write_bytes(idx(array, code))
    found = slim.data.read_idx(tmp_path / 'a')
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


@pytest.mark.parametrize('content', [b'', b'\x89PNG1234', idx(np.zeros(5, 'u1'), 8)[:-1], b'\0\0\x08\x03\0\0'])
def test_damaged_idx(content: bytes, tmp_path: Path) -> None:
    (tmp_path / 'a').write_bytes(content)
    with pytest.raises(DataError, match='not an idx file|damaged'):
        slim.data.read_idx(tmp_path / 'a')


def test_gzip_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no file'):
        slim.data.read_idx(tmp_path / 'missing.gz')
    (tmp_path / 'bad.gz').write_bytes(b'no gzip at all')
    with pytest.raises(DataError, match='cannot be decompressed'):
        read_gzip(tmp_path / 'bad.gz')
    assert gzip.BadGzipFile.__name__ in str(pytest.raises(DataError, read_gzip, tmp_path / 'bad.gz').value)
