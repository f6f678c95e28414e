"""Batch norm's moving statistics, one set for all ranks while a network is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.distributed.consistency import statistics_names
from paddleslim_ng.distributed.context import current_ranks
from paddleslim_ng.distributed.ranks import Ranks

__all__ = ['shared_statistics']

Arrays = dict[str, npt.NDArray[Any]]


@contextmanager
def shared_statistics(
    program: Any,
    scope: Any = None,
    *,
    ranks: Ranks | None = None,
    keep: bool = False,
    largest: Iterable[str] = (),
) -> Iterator[list[str]]:
    """Let all ranks evaluate with the mean of their moving means and variances; a collective call.

    Ranks gather these statistics from their own batches, so that a network that is the same everywhere scores a little
    differently on each. Afterwards every rank has its own again, and training goes on as if nothing had been.

    Args:
        program: whose batch norms are meant.
        scope: its parameters; Paddle's global scope where None.
        ranks: the job; that of :func:`init` where None.
        keep: leave the means in the scope, as for the network that is saved in the end.
        largest: other tensors, the same on all ranks, of which each rank gets the largest values that any has, such as
            scales of activations.

    Yields:
        The names of the statistics and of the other tensors.

    Example:
        >>> with slim.distributed.shared_statistics(test_program):
        ...     accuracy = evaluate(test_program)
    """
    who = current_ranks() if ranks is None else ranks
    where = global_scope() if scope is None else scope
    averaged = {name: load_array(where, name) for name in statistics_names(GraphWrapper(program))}
    compared = {name: load_array(where, name) for name in largest}
    own = {**averaged, **compared}
    if who.size > 1:
        _store(where, averaged, who.mean(_flat(averaged)))
        _store(where, compared, who.stack(_flat(compared)).max(axis=0))
    try:
        yield list(own)
    finally:
        if not keep:
            for name, array in own.items():
                store_array(where, name, array)


def _flat(arrays: Arrays) -> npt.NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(array.reshape(-1) for array in arrays.values())])


def _store(scope: Any, arrays: Arrays, values: npt.NDArray[np.float64]) -> None:
    """Put values, one after the other, in the place of arrays."""
    start = 0
    for name, array in arrays.items():
        store_array(scope, name, values[start : start + array.size].reshape(array.shape).astype(array.dtype))
        start += array.size
