"""How one ratio for the whole network becomes a number of weights for each layer; the total is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.sparse.selection import count_of

__all__ = ['PROTOCOLS', 'layer_counts']

Ratios = npt.NDArray[np.float64]
_LARGEST = 1.0


def _uniform(sizes: Ratios, ratio: float) -> Ratios:
    return np.full(len(sizes), ratio)


def _heuristic(sizes: Ratios, ratio: float) -> Ratios:
    """Return ratios proportional to the logarithm of the layer's size, none above one.

    What a layer cannot take is given to the others, in the same proportion.
    """
    logs = np.log(sizes)
    result = np.zeros(len(sizes))
    full = np.zeros(len(sizes), bool)
    while True:
        left = ratio * sizes.sum() - sizes[full].sum()
        weight = float((sizes * logs)[~full].sum())
        if left <= 0 or weight <= 0:
            break
        result[~full] = left / weight * logs[~full]
        over = ~full & (result > _LARGEST)
        if not over.any():
            break
        full |= over
        result[full] = _LARGEST
    return result


PROTOCOLS: Mapping[str, Callable[[Ratios, float], Ratios]] = {'uniform': _uniform, 'heuristic': _heuristic}


def layer_counts(sizes: Mapping[str, int], ratio: float, protocol: str = 'uniform') -> dict[str, int]:
    """Share the weights to drop among layers.

    Args:
        sizes: ``{parameter: number of weights}``.
        ratio: share of all weights to drop, from 0 to 1.
        protocol: ``'uniform'``, the same ratio everywhere; or ``'heuristic'``, ratios proportional to the logarithm of
            the layer's size, clipped at 1 and redistributed (PocketFlow's WeightSparse).

    Returns:
        ``{parameter: number to drop}``; the sum is the nearest whole number to ``ratio`` of all weights, and each
        number differs from the protocol's by less than one where no layer is full.

    Raises:
        ConfigError: an unknown protocol, or a ratio outside 0 to 1.

    Example:
        >>> layer_counts({'a': 10, 'b': 1000}, 0.5, 'heuristic')
        {'a': 2, 'b': 503}
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f'unknown protocol {protocol!r}; known: {", ".join(PROTOCOLS)}{nearest_names(protocol, PROTOCOLS)}'
        )
    if not 0 <= ratio <= 1:
        raise ConfigError(f'a ratio lies between 0 and 1, not {ratio!r}')
    if not sizes:
        return {}
    amounts = np.array(list(sizes.values()), np.float64)
    wanted = PROTOCOLS[protocol](amounts, ratio) * amounts
    counts = np.floor(wanted + 1e-9).astype(np.int64)
    missing = count_of(ratio, int(amounts.sum())) - int(counts.sum())
    order = np.argsort(-(wanted - counts), kind='stable')
    while missing > 0:
        for index in order[counts[order] < amounts[order]][:missing]:
            counts[index] += 1
            missing -= 1
    for index in order[::-1]:
        if missing >= 0:
            break
        taken = min(-missing, int(counts[index] > 0))
        counts[index] -= taken
        missing += taken
    return {name: int(count) for name, count in zip(sizes, counts)}
