"""Statistics -> thresholds: which magnitude the largest integer stands for, one row for each of PaddleSlim's names.

All are functions of one :class:`TensorStatistics`; a calibration serves them all. Bins of its histogram stand for their
centres, save that the first one on either side holds zeros: what they compute is exact to half a bin, less than 1/4096
of the largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.spec import largest_integer
from paddleslim_ng.quant.statistics import BINS, SMALLEST_RANGE, TensorStatistics

__all__ = ['OBSERVERS', 'check_observer', 'threshold']

Array = npt.NDArray[np.float64]
# Fractions of the largest magnitude that mse and emd try, and those of ptf.
_FRACTIONS: Final[Array] = np.array([0.3 + 0.02 * step for step in range(36)])
_POWERS: Final[Array] = np.array([0.125, 0.25, 0.5, 1.0])


class _Options(NamedTuple):
    bits: int
    percentile: float


def threshold(statistics: TensorStatistics, algo: str = 'hist', *, bits: int = 8, percentile: float = 0.9999) -> float:
    """Return the magnitude that the largest integer should stand for; larger ones are cut off.

    Args:
        statistics: of one tensor, by :func:`paddleslim_ng.quant.calibrate`.
        algo: one of :data:`OBSERVERS`.
        bits: width of the integers, which ``KL``, ``mse``, ``emd`` and ``ptf`` weigh against what is cut off.
        percentile: fraction of the elements that ``hist`` leaves uncut.

    Returns:
        A positive number; 1.0 for a tensor that was always zero (nothing above 2**-100 counts as zero), so that its
        integers are exact zeros.

    Raises:
        ConfigError: an unknown ``algo``, or ``bits`` or ``percentile`` out of range.

    Example:
        >>> import numpy as np
        >>> seen = TensorStatistics.of_array('x', np.array([[-2.0, 1.0], [0.5, 1.0]]))
        >>> threshold(seen, 'abs_max'), threshold(seen, 'avg')
        (2.0, 1.5)
    """
    observer = OBSERVERS[check_observer(algo)]
    if not 0.0 < percentile <= 1.0:
        raise ConfigError(f'percentile must be above 0 and at most 1, not {percentile}')
    options = _Options(largest_integer(bits), float(percentile))
    if statistics.abs_max < SMALLEST_RANGE:
        return 1.0
    return min(max(float(observer(statistics, options)), SMALLEST_RANGE), statistics.abs_max)


def check_observer(algo: str) -> str:
    """Return the name of an observer.

    Raises:
        ConfigError: there is none of that name; the known ones are listed.
    """
    if algo not in OBSERVERS:
        raise ConfigError(f'unknown algo {algo!r}; known: {", ".join(OBSERVERS)}{nearest_names(algo, OBSERVERS)}')
    return algo


def _abs_max(seen: TensorStatistics, _: _Options) -> float:
    """Take the largest magnitude of all: nothing is cut off."""
    return seen.abs_max


def _average(seen: TensorStatistics, _: _Options) -> float:
    """Take the mean over the images of the largest magnitude of each; ragged batches weigh by their images."""
    return seen.mean_abs_max


def _percentile(seen: TensorStatistics, options: _Options) -> float:
    """Take the magnitude below which a fraction of the elements lies, linear within a bin, at least one bin."""
    counts = seen.magnitudes()
    total = np.cumsum(counts)
    wanted = options.percentile * float(total[-1])
    index = int(np.searchsorted(total, wanted))
    below = float(total[index - 1]) if index else 0.0
    inside = (wanted - below) / float(counts[index]) if counts[index] else 0.0
    return max(index + inside, 1.0) * seen.bin_width


def _kl(seen: TensorStatistics, options: _Options) -> float:
    """Take the cut whose distribution loses least when merged into as many bins as there are integers.

    The Kullback-Leibler divergence of Migacz (8-bit Inference with TensorRT, 2017) as Paddle's calibration has it:
    cuts from the middle of the histogram up; what lies beyond joins the last bin of the reference.
    """
    counts = seen.magnitudes().astype(np.float64)
    cut = _kl_cut(counts, options.bits)
    return seen.abs_max if cut is None else (cut + 0.5) * seen.bin_width


def _kl_cut(counts: Array, groups: int) -> int | None:
    """Return how many bins to keep, or None where there are too few bins, or too few in use, to choose.

    Cuts with equally wide groups differ in the last group alone, which the sums over all others are shared for: linear
    in the number of bins, where trying each cut anew is quadratic.
    """
    size = len(counts)
    cuts = np.arange(max((size - 1) // 2, groups, 1), size)
    cuts = cuts[counts[cuts - 1] > 0] if cuts.size else cuts
    if not cuts.size:
        return None
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    used = np.concatenate([[0], np.cumsum(counts > 0)])
    own = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    widths, place = np.unique(cuts // groups, return_inverse=True)
    edges = widths[:, None] * np.arange(groups)
    shares = np.diff(mass[edges], axis=1)
    shared = _log_of_means(shares, np.diff(used[edges], axis=1), shares).sum(axis=1)[place]
    last = (groups - 1) * widths[place]
    outside = mass[-1] - mass[cuts]
    merged = mass[cuts] - mass[last]
    cross = shared + _log_of_means(merged, used[cuts] - used[last], merged + outside)
    final = counts[cuts - 1]
    entropy = own[cuts] - _x_log_x(final) + _x_log_x(final + outside)
    total = mass[-1]
    divergence = (entropy - cross) / total + np.log(mass[cuts]) - np.log(total)
    return int(cuts[int(np.argmin(divergence))])


def _log_of_means(merged: Array, bins: npt.NDArray[np.int64], weight: Array) -> Array:
    """Return, for each group, its weight times the logarithm of the mean count of its bins in use."""
    safe = np.where(merged > 0, merged / np.maximum(bins, 1), 1.0)
    return np.asarray(weight * np.log(safe))


def _x_log_x(x: Array) -> Array:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))


def _squared_error(seen: TensorStatistics, options: _Options) -> float:
    """Take the fraction of the largest magnitude, 0.30 to 1 in steps of 0.02, with the least mean squared error."""
    return _least(seen, _FRACTIONS, _mean_squared_errors(seen, _FRACTIONS, options))


def _power_of_two(seen: TensorStatistics, options: _Options) -> float:
    """Take the largest magnitude, its half, quarter or eighth: the least mean squared error.

    The layer-wise form of the power-of-two factor of FQ-ViT (Lin et al., 2022).
    """
    return _least(seen, _POWERS, _mean_squared_errors(seen, _POWERS, options))


def _moments(seen: TensorStatistics, options: _Options) -> float:
    """Take the fraction, as ``mse`` tries them, that moves mean and standard deviation least (their sum).

    Paddle's calibration calls this the earth mover's distance.
    """
    centres, positive, negative = _bins(seen)
    both, difference = positive + negative, positive - negative
    total = both.sum()
    mean, deviation = _mean_and_deviation(centres, both, difference, total)
    losses = []
    for fraction in _FRACTIONS:
        quantized = _quantized(centres, fraction * seen.abs_max, options.bits)
        other_mean, other_deviation = _mean_and_deviation(quantized, both, difference, total)
        losses.append(abs(mean - other_mean) + abs(deviation - other_deviation))
    return _least(seen, _FRACTIONS, np.array(losses))


def _mean_and_deviation(values: Array, both: Array, difference: Array, total: float) -> tuple[float, float]:
    mean = float(difference @ values / total)
    return mean, float(np.sqrt(max(both @ np.square(values) / total - mean * mean, 0.0)))


def _mean_squared_errors(seen: TensorStatistics, fractions: Array, options: _Options) -> Array:
    centres, positive, negative = _bins(seen)
    both = positive + negative
    errors = [np.square(centres - _quantized(centres, f * seen.abs_max, options.bits)) @ both for f in fractions]
    return np.asarray(np.array(errors, np.float64) / both.sum())


def _bins(seen: TensorStatistics) -> tuple[Array, Array, Array]:
    """Return magnitudes of the bins in use, and how many positive and negative elements have them."""
    positive = seen.counts[BINS:].astype(np.float64)
    negative = seen.counts[BINS - 1 :: -1].astype(np.float64)
    places = np.flatnonzero(positive + negative)
    centres = (places + 0.5) * seen.bin_width
    # Most elements of the first bin are the zeros of a rectifier; half a bin is what calling them so costs others.
    centres[places == 0] = 0.0
    return np.minimum(centres, seen.abs_max), positive[places], negative[places]


def _quantized(magnitudes: Array, limit: float, largest: int) -> Array:
    step = limit / largest
    return np.asarray(np.minimum(np.floor(magnitudes / step + 0.5), largest) * step)


def _least(seen: TensorStatistics, fractions: Array, losses: Array) -> float:
    """Return the magnitude of the least loss, the largest one among equals."""
    return float(fractions[len(losses) - 1 - int(np.argmin(losses[::-1]))]) * seen.abs_max


OBSERVERS: Mapping[str, Callable[[TensorStatistics, _Options], float]] = {
    'abs_max': _abs_max,
    'avg': _average,
    'hist': _percentile,
    'KL': _kl,
    'mse': _squared_error,
    'emd': _moments,
    'min_max': _abs_max,
    'ptf': _power_of_two,
}
