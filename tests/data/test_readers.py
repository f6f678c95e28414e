"""Batches, loaders and feeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import paddleslim_ng as slim
from paddleslim_ng.errors import ConfigError, DataError


def dataset(count: int) -> slim.data.ArrayDataset:
    return slim.data.ArrayDataset(np.arange(count * 4).reshape(count, 1, 2, 2), np.arange(count))


@given(st.integers(0, 40), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_an_epoch_holds_every_sample_once(count: int, size: int, shuffle: bool, drop_last: bool, seed: int) -> None:
    reader = slim.data.BatchReader(dataset(count), size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    batches = list(reader())
    assert len(batches) == len(reader)
    seen = [int(label) for _, labels in batches for label in labels[:, 0]]
    assert len(seen) == len(set(seen)) == (count // size * size if drop_last else count)
    assert all(np.array_equal(images[:, 0, 0, 0], labels[:, 0] * 4) for images, labels in batches)
    if not shuffle:
        assert seen == list(range(len(seen)))


def order(reader: slim.data.BatchReader) -> list[int]:
    return [int(label) for _, labels in reader() for label in labels[:, 0]]


def test_epochs_differ_and_can_be_resumed() -> None:
    reader = slim.data.BatchReader(dataset(30), 7, shuffle=True, seed=5)
    epochs = [order(reader) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = slim.data.BatchReader(dataset(30), 7, shuffle=True, seed=5)
    resumed.epoch = 2
    assert order(resumed) == epochs[2]
    assert resumed.epoch == 3


def test_global_generator_is_left_alone() -> None:
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    reader = slim.data.BatchReader(dataset(30), 7, shuffle=True)
    order(reader)
    list(slim.data.data_loader(dataset(8), 4, shuffle=True))
    slim.data.digits(size=8)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_reader_of_any_dataset() -> None:
    samples = [(np.full((1, 2, 2), i, 'float32'), np.array([i])) for i in range(5)]
    batches = list(slim.data.BatchReader(samples, 2)())
    assert [images.shape for images, _ in batches] == [(2, 1, 2, 2), (2, 1, 2, 2), (1, 1, 2, 2)]
    assert batches[2][1].tolist() == [[4]]


def test_loader_as_lists_and_as_feeds(fresh: Any) -> None:
    as_lists = [[np.asarray(item) for item in batch] for batch in slim.data.data_loader(dataset(5), 2)]
    assert [batch[0].shape for batch in as_lists] == [(2, 1, 2, 2), (2, 1, 2, 2), (1, 1, 2, 2)]
    image = paddle.static.data('image', [None, 1, 2, 2], 'float32')
    label = paddle.static.data('label', [None, 1], 'int64')
    total = paddle.mean(image)
    loader = slim.data.data_loader(dataset(4), 2, feed_list=[image, label])
    means = []
    for batch in loader:
        feed = batch[0] if isinstance(batch, list) else batch
        means.append(float(fresh.exe.run(fresh.main, feed=feed, fetch_list=[total])[0]))
    assert means == [3.5, 11.5]


def test_loader_repeats_the_readers_order() -> None:
    loader = slim.data.data_loader(dataset(20), 6, shuffle=True, seed=3, drop_last=True)
    reader = slim.data.BatchReader(dataset(20), 6, shuffle=True, seed=3, drop_last=True)
    for _ in range(2):
        seen = [int(label) for batch in loader for label in np.asarray(batch[1])[:, 0]]
        assert seen == order(reader)
        assert len(seen) == 18


@pytest.mark.parametrize('size', [0, -1, 1.5])
def test_bad_batch_size(size: Any) -> None:
    with pytest.raises(ConfigError, match='batch_size'):
        slim.data.BatchReader(dataset(4), size)
    with pytest.raises(ConfigError, match='batch_size'):
        slim.data.data_loader(dataset(4), size)


def test_bad_seed() -> None:
    with pytest.raises(ConfigError, match='seed'):
        slim.data.BatchReader(dataset(4), 1, seed=-1)


@pytest.fixture
def inputs(fresh: Any) -> list[Any]:
    image = paddle.static.data('image', [None, 1, 2, 2], 'float32')
    return [image, paddle.static.data('label', [None, 1], 'int64')]


BATCHES: list[Any] = [
    (np.arange(8).reshape(2, 1, 2, 2), np.array([[1], [0]])),
    [np.arange(8).reshape(2, 4), np.array([1, 0], 'int32')],
    [(np.arange(4.0), 1), (np.arange(4.0, 8.0), 0)],
    [[[0, 1, 2, 3], 1], [[4, 5, 6, 7], 0]],
    {'image': np.arange(8.0).reshape(2, 1, 2, 2), 'label': [1, 0], 'other': 3},
]


@pytest.mark.parametrize('batch', BATCHES)
def test_feed_from_any_batch(batch: Any, inputs: list[Any]) -> None:
    feed = slim.data.make_feed(batch, inputs)
    assert list(feed) == ['image', 'label']
    assert (feed['image'].dtype, feed['label'].dtype) == (np.float32, np.int64)
    assert feed['image'].shape == (2, 1, 2, 2)
    assert feed['image'].ravel().tolist() == list(range(8))
    assert feed['label'].tolist() == [[1], [0]]


def test_feed_by_names() -> None:
    feed = slim.data.make_feed([(np.ones((1, 2, 2)), 3), (np.ones((1, 2, 2)), 4)])
    assert (feed['image'].shape, feed['image'].dtype) == ((2, 1, 2, 2), np.float32)
    assert feed['label'].tolist() == [[3], [4]]


def test_feed_reads_tensors_of_a_loader(inputs: list[Any]) -> None:
    batch = next(iter(slim.data.data_loader(dataset(2), 2)))
    assert slim.data.make_feed(batch, inputs)['image'].shape == (2, 1, 2, 2)


def test_feed_errors(inputs: list[Any]) -> None:
    with pytest.raises(DataError, match='empty'):
        slim.data.make_feed([])
    with pytest.raises(DataError, match='columns for 2 inputs'):
        slim.data.make_feed([np.zeros((2, 1))])
    with pytest.raises(DataError, match="lacks \\['label'\\]"):
        slim.data.make_feed({'image': np.zeros(1)})
    with pytest.raises(DataError, match="'image' wants shape"):
        slim.data.make_feed([np.zeros((2, 3)), [0, 1]], inputs)


def test_tutorial_reader_of_samples(inputs: list[Any]) -> None:
    def samples() -> Any:
        return ((np.full(4, i, 'float32'), i % 2) for i in range(5))

    reader = paddle.batch(samples, batch_size=2, drop_last=True)
    feeds = [slim.data.make_feed(data, inputs) for data in reader()]
    assert [feed['image'].shape for feed in feeds] == [(2, 1, 2, 2)] * 2
