"""What a user's evaluation returned, turned into a number or into a clear error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paddleslim_ng.errors import ConfigError, DataError

__all__ = ['as_metric', 'usable_baseline']


def as_metric(value: Any, source: str) -> float:
    """Return ``value`` as a float.

    Args:
        value: a number, or an array or tensor of one element.
        source: what returned it, for messages, such as ``'eval_func'``.

    Raises:
        ConfigError: it is None, not a number, or has several elements.
        DataError: it is NaN or infinite.
    """
    if value is None:
        raise ConfigError(f'{source} returned None; it must return a number, the larger the better')
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f'{source} returned {type(value).__name__} {value!r:.80}; it must return a number') from None
    if array.size != 1:
        raise ConfigError(
            f'{source} returned {array.size} values of shape {list(array.shape)}; it must return one number, so choose '
            "one or average them (an empty result can mean that Paddle's executor was asked for a value of another "
            'program: slim.Executor finds it)'
        )
    number = float(array.reshape(-1)[0])
    if not math.isfinite(number):
        raise DataError(f'{source} returned {number}; a loss cannot be computed from it')
    return number


def usable_baseline(metric: float, source: str) -> float:
    """Return the metric of the unpruned network, by which losses are divided.

    Raises:
        DataError: it is zero.
    """
    if metric == 0:
        raise DataError(
            f'{source} gave 0 for the unpruned network, so relative losses are undefined. Is the network trained, '
            'are its parameters in the scope that the evaluation uses, and do the labels fit?'
        )
    return metric
