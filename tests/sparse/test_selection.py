"""Exactly k weights leave, ties included; N:M and blocks as plain numpy says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse import layer_counts, selection
from paddleslim_ng.sparse.n_of_m import Pattern, keep_n_of_m
from paddleslim_ng.sparse.options import Options
from paddleslim_ng.sparse.ranking import WHOLE, Weights, find_cuts, keep
from paddleslim_ng.sparse.selection import Cut, Part, select

Array = npt.NDArray[Any]
PLAIN = Options.of('ratio', False, (1, 1), None, None, False)


@pytest.fixture(scope='module', autouse=True)
def small_chunks() -> Iterator[None]:
    """Pieces and samples so small that every path is taken on small arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('paddleslim_ng.sparse.scores.CHUNK', 7)
        patch.setattr(selection, '_SAMPLES', 16)
        yield


def arrays(draw: Any, count: int) -> dict[str, Array]:
    """Arrays with many equal magnitudes, of both signs, some zero."""
    levels = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = [draw(st.tuples(st.integers(1, 9), st.integers(1, 9))) for _ in range(count)]
    return {f'p{i}': rng.integers(-levels, levels + 1, shape).astype('float32') for i, shape in enumerate(shapes)}


def kept_by(weights: Weights, options: Options, ratio: float) -> dict[str, Array]:
    cuts = find_cuts(weights, options, ratio)
    left = cuts[WHOLE].ties if WHOLE in cuts else 0
    result = {}
    for name in weights.values:
        cut = cuts[name] if name in cuts else Cut(cuts[WHOLE].value, left)
        result[name], used = keep(weights, name, cut, options)
        left -= used
    return result


def reference(values: dict[str, Array], count: int) -> dict[str, Array]:
    """Sort everything, stably."""
    flat = np.concatenate([np.abs(array).reshape(-1) for array in values.values()])
    keep_flat = np.ones(len(flat), bool)
    keep_flat[np.argsort(flat, kind='stable')[:count]] = False
    ends = np.cumsum([array.size for array in values.values()])[:-1]
    return {
        name: part.reshape(array.shape)
        for (name, array), part in zip(values.items(), np.split(keep_flat, ends), strict=False)
    }


@given(st.data())
def test_global_selection_equals_sorting(data: Any) -> None:
    values = arrays(data.draw, data.draw(st.integers(1, 4)))
    ratio = data.draw(st.floats(0, 1))
    count = round(ratio * sum(array.size for array in values.values()))
    found, expected = kept_by(Weights(values, {}), PLAIN, ratio), reference(values, count)
    for name in values:
        np.testing.assert_array_equal(found[name], expected[name])


@given(st.data())
def test_layers_by_themselves_equal_sorting(data: Any) -> None:
    values = arrays(data.draw, 3)
    ratio = data.draw(st.floats(0, 1))
    found = kept_by(Weights(values, {}), Options.of('ratio', True, (1, 1), None, None, False), ratio)
    for name, array in values.items():
        np.testing.assert_array_equal(found[name], reference({name: array}, round(ratio * array.size))[name])


@given(st.data())
def test_what_has_left_counts_and_stays_away(data: Any) -> None:
    values = arrays(data.draw, 2)
    first, second = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    total = sum(array.size for array in values.values())
    masks = {name: kept.astype('uint8') for name, kept in kept_by(Weights(values, {}), PLAIN, first).items()}
    moved = {
        name: np.roll(array, 1) * (masks[name] if data.draw(st.booleans()) else 1) for name, array in values.items()
    }
    kept = kept_by(Weights(moved, masks), PLAIN, second)
    assert all(not (kept[name] & (masks[name] == 0)).any() for name in values)
    assert sum(int((~array).sum()) for array in kept.values()) == round(second * total)


@given(st.data())
def test_blocks_equal_plain_loops(data: Any) -> None:
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    height, width = data.draw(st.integers(1, 4)) * rows, data.draw(st.integers(1, 4)) * columns
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    array = rng.standard_normal((height, width, 1, 2)).astype('float32')
    ratio = data.draw(st.floats(0, 1))
    options = Options.of('ratio', False, (rows, columns), None, None, False)
    kept = kept_by(Weights({'w': array}, {}), options, ratio)['w']
    means = {
        (i, j): float(np.abs(array[i : i + rows, j : j + columns]).mean())
        for i in range(0, height, rows)
        for j in range(0, width, columns)
    }
    left = sorted(means, key=lambda at: means[at])[: round(round(ratio * array.size) / (rows * columns * 2))]
    expected = np.ones(array.shape, bool)
    for i, j in left if (rows, columns) != (1, 1) else ():
        expected[i : i + rows, j : j + columns] = False
    if (rows, columns) == (1, 1):
        expected = reference({'w': array}, round(ratio * array.size))['w']
    np.testing.assert_array_equal(kept, expected)


def test_blocks_of_unequal_size_come_as_near_as_they_can() -> None:
    rng = np.random.default_rng(0)
    values = {
        'a': rng.standard_normal((7, 5)).astype('float32'),
        'b': rng.standard_normal((6, 4, 3, 3)).astype('float32'),
    }
    options = Options.of('ratio', False, (4, 2), None, None, False)
    for ratio in np.linspace(0, 1, 21):
        kept = kept_by(Weights(values, {}), options, float(ratio))
        dropped = sum(int((~array).sum()) for array in kept.values())
        assert abs(dropped - ratio * (35 + 216)) <= 4 * 2 * 9 / 2 + 1
        for i, j in ((0, 0), (4, 0), (0, 4), (4, 4)):
            block = kept['a'][i : i + 4, j : j + 2]
            assert block.all() or not block.any()


@given(st.data())
def test_n_of_m_equals_sorting_each_group(data: Any) -> None:
    of = data.draw(st.integers(2, 5))
    pattern = Pattern(data.draw(st.integers(1, of - 1)), of)
    shape = data.draw(st.tuples(*(st.integers(1, 7) for _ in range(3))))
    axis = data.draw(st.integers(0, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    array = rng.integers(-2, 3, shape).astype('float32')
    lines = np.moveaxis(array, axis, -1)
    expected = np.zeros(lines.shape, bool)
    for line in np.ndindex(lines.shape[:-1]):
        for start in range(0, lines.shape[-1], of):
            group = np.abs(lines[line][start : start + of])
            best = np.argsort(-group, kind='stable')[: pattern.kept]
            expected[line][start + best] = True
    np.testing.assert_array_equal(keep_n_of_m(array, None, pattern, axis), np.moveaxis(expected, -1, axis))


def test_a_misleading_sample_costs_time_only() -> None:
    """Every score that the sample sees is large; all others are small."""
    scores = np.tile(np.array([9, 1, 2, 3], 'float32'), 64)
    part = Part(_Sampled(scores, 4))
    for count in (1, 50, 100, 200, 256):
        cut = select([part], count)
        dropped = np.flatnonzero(scores < cut.value).size + cut.ties
        assert dropped == count


class _Sampled:
    """Scores of which a sample at the given stride is all that is seen."""

    def __init__(self, scores: Array, stride: int) -> None:
        self._scores, self._stride = scores, stride

    def __len__(self) -> int:
        return len(self._scores)

    def chunks(self) -> Iterator[Array]:
        yield self._scores

    def sample(self, stride: int) -> Array:
        return np.resize(self._scores[:: self._stride], -(-len(self._scores) // stride))


@given(
    st.lists(st.integers(2, 3000), min_size=1, max_size=8),
    st.floats(0, 1),
    st.sampled_from(['uniform', 'heuristic']),
)
def test_layer_counts_are_exact_in_total(sizes: list[int], ratio: float, protocol: str) -> None:
    named = {str(index): size for index, size in enumerate(sizes)}
    counts = layer_counts(named, ratio, protocol)
    assert sum(counts.values()) == round(ratio * sum(sizes))
    assert all(0 <= counts[name] <= size for name, size in named.items())
    if protocol == 'uniform':
        assert all(abs(counts[name] - ratio * size) <= 1 for name, size in named.items())


def test_heuristic_counts_follow_the_logarithm_and_are_clipped() -> None:
    sizes = {'a': 100, 'b': 10_000}
    scale = 0.5 * 10_100 / (100 * np.log(100) + 10_000 * np.log(10_000))
    assert layer_counts(sizes, 0.5, 'heuristic') == {
        'a': round(scale * np.log(100) * 100),
        'b': round(scale * np.log(10_000) * 10_000),
    }
    assert layer_counts(sizes, 0.995, 'heuristic') == {'a': 50, 'b': 10_000}  # b full, the rest from a
    with pytest.raises(ConfigError, match='uniform'):
        layer_counts(sizes, 0.5, 'unifrom')
    with pytest.raises(ConfigError, match='between 0 and 1'):
        layer_counts(sizes, 50)
