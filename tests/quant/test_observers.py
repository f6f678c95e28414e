"""Observers: each against numpy on the raw data, within what the histogram can tell; merging is exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.observers import OBSERVERS, threshold
from paddleslim_ng.quant.statistics import BINS, CalibrationStatistics, TensorStatistics, range_for

NAMES = ('abs_max', 'avg', 'hist', 'KL', 'mse', 'emd', 'min_max', 'ptf')
FRACTIONS = [0.3 + 0.02 * step for step in range(36)]


def samples(kind: str, rows: int = 12, size: int = 1500) -> Any:
    """Activations as networks have them, with a few large ones."""
    random = np.random.default_rng(len(kind))
    data = {
        'normal': lambda: random.standard_normal((rows, size)),
        'rectified': lambda: np.maximum(random.standard_normal((rows, size)), 0),
        'heavy': lambda: random.standard_t(3, (rows, size)),
        'shifted': lambda: random.standard_normal((rows, size)) * 0.1 - 3.3,
        'bounded': lambda: np.clip(random.standard_normal((rows, size)) * 4 + 1, 0, 6),
        'sparse': lambda: random.standard_normal((rows, size)) * (random.random((rows, size)) < 0.02),
    }[kind]()
    return (data * np.linspace(0.5, 1.5, rows)[:, None]).astype('float32')


KINDS = ('normal', 'rectified', 'heavy', 'shifted', 'bounded', 'sparse')


def quantized(x: Any, limit: float, bits: int) -> Any:
    largest = 2 ** (bits - 1) - 1
    step = limit / largest
    return np.clip(np.sign(x) * np.floor(np.abs(x) / step + 0.5), -largest, largest) * step


def squared(x: Any, limit: float, bits: int) -> float:
    return float(np.mean((x - quantized(x, limit, bits)) ** 2))


def moved(x: Any, limit: float, bits: int) -> float:
    q = quantized(x, limit, bits)
    return float(abs(x.mean() - q.mean()) + abs(x.std() - q.std()))


def kl_by_loops(counts: list[int], groups: int) -> int:
    """The search as Migacz describes it, every cut anew."""
    total, best, found = sum(counts), math.inf, 0
    for cut in range((len(counts) - 1) // 2, len(counts)):
        if counts[cut - 1] == 0:
            continue
        reference = [*counts[: cut - 1], counts[cut - 1] + sum(counts[cut:])]
        width = cut // groups
        divergence = 0.0
        for group in range(groups):
            start = group * width
            stop = cut if group == groups - 1 else start + width
            used = sum(1 for place in range(start, stop) if reference[place])
            for place in range(start, stop):
                if reference[place]:
                    mean = sum(counts[start:stop]) / used
                    p, q = reference[place] / total, mean / sum(counts[:cut])
                    divergence += p * math.log(p / q)
        if divergence < best - 1e-12:
            best, found = divergence, cut
    return found


def test_the_table_has_the_names_of_paddleslim() -> None:
    assert tuple(OBSERVERS) == NAMES


@pytest.mark.parametrize('kind', KINDS)
def test_exact_observers(kind: str) -> None:
    x = samples(kind)
    seen = TensorStatistics.of_array('x', x)
    assert threshold(seen, 'abs_max') == threshold(seen, 'min_max') == float(np.abs(x).max())
    assert threshold(seen, 'avg') == pytest.approx(float(np.abs(x).max(1).mean()), rel=1e-6)
    assert seen.minimum == pytest.approx(float(x.min()), abs=seen.bin_width) and seen.minimum <= x.min()
    assert seen.maximum == pytest.approx(float(x.max()), abs=seen.bin_width) and seen.maximum >= x.max()


@pytest.mark.parametrize('percentile', [0.5, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize('kind', KINDS)
def test_hist_is_the_quantile_within_a_bin(kind: str, percentile: float) -> None:
    x = np.abs(samples(kind))
    seen = TensorStatistics.of_array('x', x)
    ordered = np.sort(x.ravel())
    wanted = float(ordered[math.ceil(percentile * x.size) - 1])
    assert threshold(seen, 'hist', percentile=percentile) == pytest.approx(
        max(wanted, seen.bin_width), abs=seen.bin_width
    )


@pytest.mark.parametrize('bits', [4, 8])
@pytest.mark.parametrize(('algo', 'loss'), [('mse', squared), ('emd', moved), ('ptf', squared)])
@pytest.mark.parametrize('kind', KINDS)
def test_searches_find_what_is_best_on_the_raw_data(kind: str, algo: str, loss: Any, bits: int) -> None:
    """The loss at what was found is the least one, up to what rounding every number by half a bin can do to it."""
    x = samples(kind).astype('float64')
    seen = TensorStatistics.of_array('x', x)
    largest = seen.abs_max
    candidates = [0.125, 0.25, 0.5, 1.0] if algo == 'ptf' else FRACTIONS
    losses = [loss(x, fraction * largest, bits) for fraction in candidates]
    found = threshold(seen, algo, bits=bits)
    assert min(abs(found / largest - fraction) for fraction in candidates) < 1e-9
    resolution = seen.bin_width if algo == 'emd' else seen.bin_width * math.sqrt(min(losses))
    assert loss(x, found, bits) <= min(losses) + resolution


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('kind', ['normal', 'rectified', 'sparse'])
def test_kl_finds_the_cut_that_loops_find(kind: str, bits: int) -> None:
    seen = TensorStatistics.of_array('x', samples(kind, rows=4))
    counts = seen.magnitudes()[: BINS // 4 * 4]
    counts = counts[: len(counts) // 8 * 8].reshape(-1, 8).sum(1)  # fewer bins, for the sake of the loops
    small = np.zeros(2 * BINS, np.int64)
    small[BINS : BINS + len(counts)] = counts
    width = seen.range / BINS
    coarse = TensorStatistics('x', small, seen.range, len(counts) * width, 1, len(counts) * width)
    cut = kl_by_loops([int(count) for count in counts], 2 ** (bits - 1) - 1)
    assert threshold(coarse, 'KL', bits=bits) == pytest.approx(min((cut + 0.5) * width, coarse.abs_max), rel=1e-12)


def test_kl_with_more_integers_than_bins_cuts_nothing_off() -> None:
    seen = TensorStatistics.of_array('x', samples('normal'))
    assert threshold(seen, 'KL', bits=16) == seen.abs_max


@pytest.mark.parametrize('algo', NAMES)
@pytest.mark.parametrize('bits', [2, 8, 16])
def test_thresholds_are_positive_finite_and_at_most_the_largest(algo: str, bits: int) -> None:
    arrays = [
        samples('heavy'),
        np.array([[5.0]]),
        np.array([[-(2.0**80)], [2.0**-80]]),
        np.full((3, 4), 2.0**-90),
        np.eye(200) * 7,
    ]
    for array in arrays:
        seen = TensorStatistics.of_array('x', array)
        assert 0 < threshold(seen, algo, bits=bits) <= seen.abs_max


@pytest.mark.parametrize('algo', NAMES)
def test_a_tensor_of_zeros_has_the_threshold_one(algo: str) -> None:
    assert threshold(TensorStatistics.of_array('x', np.zeros((3, 5))), algo) == 1.0
    assert threshold(TensorStatistics.of_array('x', np.full((3, 5), 1e-35)), algo) == 1.0


def test_refusals() -> None:
    seen = TensorStatistics.of_array('x', samples('normal'))
    with pytest.raises(ConfigError, match='unknown algo .absmax.; known: abs_max, avg, hist.*did you mean .abs_max'):
        threshold(seen, 'absmax')
    with pytest.raises(ConfigError, match='bits must be'):
        threshold(seen, 'KL', bits=1)
    for percentile in (0.0, 1.5, float('nan')):
        with pytest.raises(ConfigError, match='percentile'):
            threshold(seen, 'hist', percentile=percentile)
    with pytest.raises(ConfigError, match='NaN or infinity'):
        TensorStatistics.of_array('x', np.array([[1.0, np.nan]]))
    with pytest.raises(ConfigError, match='cannot be merged'):
        seen.merge(TensorStatistics.of_array('y', samples('normal')))
    with pytest.raises(GraphError, match=r"'relu_0.tmp' was not observed.*did you mean 'relu_0.tmp_0'"):
        CalibrationStatistics({'relu_0.tmp_0': seen}, 1, 1)['relu_0.tmp']


scales = st.lists(st.floats(2.0**-90, 2.0**90), min_size=1, max_size=5)


@settings(max_examples=60)
@given(scales, st.integers(0, 2**31))
def test_merging_is_exact_whatever_the_ranges(factors: list[float], seed: int) -> None:
    """Merged counts are those of all data over the final range, up to numbers on the very edge of a bin."""
    random = np.random.default_rng(seed)
    parts = [(random.integers(-4000, 4000, (3, 50)) / 4096 * factor).astype('float32') for factor in factors]
    merged = TensorStatistics.of_array('x', parts[0])
    for part in parts[1:]:
        merged = merged.merge(TensorStatistics.of_array('x', part))
    whole = np.concatenate(parts)
    limit = range_for(float(np.abs(whole).max()))
    assert merged.range == limit and merged.elements == whole.size and merged.rows == len(whole)
    places = np.floor(whole.astype('float64') / limit * BINS).astype(int) + BINS
    counts = np.bincount(np.minimum(places, 2 * BINS - 1).ravel(), minlength=2 * BINS)
    moved_between = np.abs(np.cumsum(merged.counts - counts))
    assert np.all(moved_between <= np.sum(np.abs(whole / limit * BINS - np.rint(whole / limit * BINS)) < 1e-3))
    assert merged.abs_max == float(np.abs(whole).max())
    assert merged.row_abs_max == pytest.approx(float(np.abs(whole).max(1).astype('float64').sum()), rel=1e-9)


@given(st.floats(1e-29, 1e29))
def test_ranges_are_the_smallest_powers_of_two(magnitude: float) -> None:
    limit = range_for(magnitude)
    assert math.frexp(limit)[0] == 0.5 and limit / 2 < magnitude <= limit
