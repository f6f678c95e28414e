"""Sources of calibration data: every form gives the same feeds, and what is wrong with one is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, VarWrapper
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant.data_sources import read_feeds
from paddleslim_ng.runtime import data_inputs

IMAGES = np.random.default_rng(0).standard_normal((7, 3, 4, 4)).astype('float32')
SIZES = np.random.default_rng(1).integers(1, 9, (7, 2)).astype('int32')


def program(both: bool) -> Any:
    main = paddle.static.Program()
    with paddle.static.program_guard(main):
        image = paddle.static.data('image', [-1, 3, 4, 4], 'float32')
        total = paddle.mean(image)
        if both:
            total = total + paddle.mean(paddle.cast(paddle.static.data('size', [-1, 2], 'int32'), 'float32'))
    return main


def one() -> list[VarWrapper]:
    return data_inputs(program(False))


def two() -> list[VarWrapper]:
    graph = GraphWrapper(program(True))
    return [graph.var('image'), graph.var('size')]


class Pairs(paddle.io.Dataset):
    """Samples of both inputs."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> Any:
        return IMAGES[index], SIZES[index]


class Images(Pairs):
    """Samples of one input, as a tuple of one field."""

    def __getitem__(self, index: int) -> Any:
        return (IMAGES[index],)


def cut(*arrays: Any) -> list[Any]:
    return [[array[start : start + 3] for array in arrays] for start in range(0, 7, 3)]


def loader(dataset: Any, **options: Any) -> Any:
    return paddle.io.DataLoader(dataset, batch_size=3, places=[paddle.CPUPlace()], **options)


def static_loader(dataset: Any) -> Any:
    """A DataLoader that yields one mapping of tensors for each device."""
    main = program(isinstance(dataset, Pairs) and not isinstance(dataset, Images))
    feeds = [main.global_block().var(name) for name in ('image', 'size')[: len(dataset[0])]]
    return loader(dataset, feed_list=feeds, return_list=False)


def yielding(items: Any) -> Callable[[], Iterator[Any]]:
    def generate() -> Iterator[Any]:
        yield from items

    return generate


ONE: dict[str, Callable[[], tuple[Any, bool]]] = {
    'array': lambda: (IMAGES, False),
    'tensor of the dynamic mode': lambda: (eager(IMAGES), False),
    'mapping of an array': lambda: ({'image': IMAGES}, False),
    'list of batches': lambda: ([fields[0] for fields in cut(IMAGES)], False),
    'tuple of samples': lambda: (tuple(IMAGES), False),
    'list of lists': lambda: (cut(IMAGES), False),
    'generator': lambda: (yielding(cut(IMAGES))(), False),
    'batch generator': lambda: (yielding(cut(IMAGES)), False),
    'batch generator of arrays': lambda: (yielding(fields[0] for fields in cut(IMAGES)), False),
    'batch generator of mappings': lambda: (yielding({'image': f[0]} for f in cut(IMAGES)), False),
    'batch generator of plain numbers': lambda: (yielding([f[0].tolist()] for f in cut(IMAGES)), False),
    'reader of lists of samples': lambda: (yielding([(x,) for x in f[0]] for f in cut(IMAGES)), False),
    'reader of lists of arrays': lambda: (yielding(list(f[0]) for f in cut(IMAGES)), False),
    'paddle.batch': lambda: (paddle.batch(yielding((x,) for x in IMAGES), 3), False),
    'sample generator': lambda: (yielding((x,) for x in IMAGES), True),
    'sample generator of arrays': lambda: (yielding(IMAGES), True),
    'sample generator of mappings': lambda: (yielding({'image': x} for x in IMAGES), True),
    'Dataset': lambda: (Images(), True),
    'DataLoader': lambda: (loader(Images()), False),
    'DataLoader with workers': lambda: (loader(Images(), num_workers=1), False),
}
TWO: dict[str, Callable[[], tuple[Any, bool]]] = {
    'list of arrays': lambda: ([IMAGES, SIZES], False),
    'mapping of arrays': lambda: ({'size': SIZES, 'image': IMAGES}, False),
    'list of lists': lambda: (cut(IMAGES, SIZES), False),
    'list of mappings': lambda: ([{'size': s, 'image': x} for x, s in cut(IMAGES, SIZES)], False),
    'reader of lists of samples': lambda: (yielding(list(zip(*fields)) for fields in cut(IMAGES, SIZES)), False),
    'sample generator': lambda: (yielding(zip(IMAGES, SIZES)), True),
    'sample generator of mappings': lambda: (yielding({'size': s, 'image': x} for x, s in zip(IMAGES, SIZES)), True),
    'DataLoader': lambda: (loader(Pairs()), False),
}


def eager(array: Any) -> Any:
    paddle.disable_static()
    try:
        return paddle.to_tensor(array)
    finally:
        paddle.enable_static()


def check(feeds: Any, *arrays: Any) -> None:
    found = list(feeds)
    assert [len(feed['image']) for feed in found] == [3, 3, 1]
    for name, array in zip(('image', 'size'), arrays):
        whole = np.concatenate([feed[name] for feed in found])
        assert whole.dtype == array.dtype and np.array_equal(whole, array)
    assert all(set(feed) == {'image', 'size'} if len(arrays) > 1 else set(feed) == {'image'} for feed in found)


@pytest.mark.parametrize('form', ONE)
def test_forms_for_one_input(form: str) -> None:
    inputs = one()
    source, samples = ONE[form]()
    check(read_feeds(inputs, source, samples=samples, batch_size=3), IMAGES)


@pytest.mark.parametrize('form', TWO)
def test_forms_for_two_inputs(form: str) -> None:
    inputs = two()
    source, samples = TWO[form]()
    check(read_feeds(inputs, source, samples=samples, batch_size=3), IMAGES, SIZES)


@pytest.mark.parametrize('static', [False, True])
@pytest.mark.parametrize('both', [False, True])
def test_dataloaders_of_both_modes(static: bool, both: bool, ir: str) -> None:
    """Those of the dynamic mode are iterated there; those of the static mode yield mappings, where Paddle has them."""
    inputs = two() if both else one()
    dataset = Pairs() if both else Images()
    if static and ir == 'pir':
        check(read_feeds(inputs, loader(dataset)), *((IMAGES, SIZES) if both else (IMAGES,)))
        return
    if static:
        source = static_loader(dataset)
    else:
        paddle.disable_static()
        source = loader(dataset)
    check(read_feeds(inputs, source), *((IMAGES, SIZES) if both else (IMAGES,)))


def test_batch_nums_limits_and_reads_no_further() -> None:
    taken: list[int] = []

    def generate() -> Iterator[Any]:
        for index in range(100):
            taken.append(index)
            yield (IMAGES[index % 7],)

    feeds = list(read_feeds(one(), generate, samples=True, batch_size=2, batch_nums=3))
    assert [len(feed['image']) for feed in feeds] == [2, 2, 2] and taken == list(range(6))
    with pytest.raises(DataError, match='ended after 3 of 4 batches'):
        list(read_feeds(one(), IMAGES, batch_size=3, batch_nums=4))


def test_element_types_are_converted_where_nothing_is_lost() -> None:
    feed = next(read_feeds(two(), [IMAGES.astype('float64'), SIZES.astype('int64')], batch_size=7))
    assert feed['image'].dtype == np.float32 and feed['size'].dtype == np.int32
    assert np.array_equal(feed['image'], IMAGES) and np.array_equal(feed['size'], SIZES)
    strided = next(read_feeds(one(), IMAGES[:, :, ::-1], batch_size=7))['image']
    assert strided.flags.c_contiguous and np.array_equal(strided, IMAGES[:, :, ::-1])


@pytest.mark.parametrize('source', [[], np.zeros((0, 3, 4, 4), 'float32'), yielding([])])
def test_an_empty_source(source: Any) -> None:
    with pytest.raises(DataError, match='the source of data is empty'):
        list(read_feeds(one(), source))


@pytest.mark.parametrize('samples', [False, True])
def test_failures_of_the_source_come_through(samples: bool) -> None:
    def generate() -> Iterator[Any]:
        yield (IMAGES[0] if samples else IMAGES[:1],)
        raise OSError('no space left for images')

    with pytest.raises(DataError, match='failed at batch 2: OSError: no space left for images') as caught:
        list(read_feeds(one(), generate, samples=samples))
    assert isinstance(caught.value.__cause__, OSError)

    def broken() -> Any:
        raise KeyError('image')

    with pytest.raises(DataError, match="failed at batch 1: KeyError: 'image'") as caught:
        list(read_feeds(one(), broken))
    assert isinstance(caught.value.__cause__, KeyError)


BAD = IMAGES.copy()
BAD[4, 0, 0, 0] = np.nan
HUGE = np.full((1, 3, 4, 4), 1e300)
WRONG: dict[str, tuple[Any, str]] = {
    'shape': ([IMAGES[:2], IMAGES[:2, :, :3]], r"batch 2 for the input 'image' .* \[2, 3, 3, 4\].* \[-1, 3, 4, 4\]"),
    'too many fields': ([[IMAGES, SIZES]], r"batch 1 has 2 fields, but the program has 1 input: \['image'\]"),
    'no field': ([[]], r'batch 1 has 0 fields'),
    'type': (IMAGES.astype('uint8'), r"batch 1 for the input 'image' holds uint8, and the program takes float32"),
    'text': ([[np.full((1, 3, 4, 4), 'a')]], r'holds <U1, and the program takes float32'),
    'NaN': (BAD, r"batch 2 for the input 'image' holds NaN"),
    'infinity': (HUGE, r"batch 1 for the input 'image' holds infinity"),
    'unknown name': ([{'imag': IMAGES}], r"batch 1 holds \['imag'\], .* are \['image'\]; did you mean 'image'"),
    'no rows': ([IMAGES[:0]], r"batch 1 for the input 'image' has the shape \[0, 3, 4, 4\]"),
    'text for arrays': (['x'], r"batch 1 for the input 'image' has the shape \[\], and"),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_what_is_wrong_is_said(wrong: str) -> None:
    source, message = WRONG[wrong]
    with pytest.raises(DataError, match=message):
        list(read_feeds(one(), source, batch_size=3))


def test_what_is_wrong_with_several_inputs_is_said() -> None:
    with pytest.raises(DataError, match='differ in length along axis 0'):
        list(read_feeds(two(), [IMAGES, SIZES[:3]]))
    with pytest.raises(DataError, match=r"the array has 1 field, but the program has 2 inputs: \['image', 'size'\]"):
        list(read_feeds(two(), IMAGES))
    with pytest.raises(DataError, match='the list of arrays has 3 fields'):
        list(read_feeds(two(), [IMAGES, SIZES, SIZES]))
    with pytest.raises(DataError, match=r"the mapping of arrays holds \['image'\]"):
        list(read_feeds(two(), {'image': IMAGES}))
    with pytest.raises(DataError, match=r"batch 1 for the input 'size' holds int64 beyond the range of int32"):
        list(read_feeds(two(), [[IMAGES[:1], np.array([[1, 2**40]])]]))


def test_samples_of_different_shapes_are_named() -> None:
    mixed = [IMAGES[0], IMAGES[1, :, :2]]
    with pytest.raises(DataError, match=r"batch 1 for the input 'image' have the shapes \[\[3, 2, 4\], \[3, 4, 4\]\]"):
        list(read_feeds(one(), yielding(mixed), samples=True, batch_size=2))
    with pytest.raises(DataError, match=r'shapes \[\[1, 3, 4, 4\]\], where one of \[3, 4, 4\] belongs'):
        list(read_feeds(one(), yielding([IMAGES[:1]]), samples=True))


def test_arguments_are_checked_at_once() -> None:
    for wrong in ({'batch_size': 0}, {'batch_size': 1.5}, {'batch_nums': 0}, {'batch_nums': True}):
        with pytest.raises(ConfigError, match='must be a positive whole number'):
            read_feeds(one(), IMAGES, **wrong)
    with pytest.raises(ConfigError, match='cannot calibrate with str'):
        read_feeds(one(), 'images')
    with pytest.raises(ConfigError, match='no input to feed'):
        read_feeds([], IMAGES)
