"""Batch norm's moving statistics, one set for all ranks while a network is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.distributed.consistency import statistics_names
from paddleslim_ng.distributed.context import current_ranks
from paddleslim_ng.distributed.ranks import Ranks

__all__ = ['shared_statistics']


@contextmanager
def shared_statistics(
    program: Any, scope: Any = None, *, ranks: Ranks | None = None, keep: bool = False
) -> Iterator[list[str]]:
    """Let all ranks evaluate with the mean of their moving means and variances; a collective call.

    Ranks gather these statistics from their own batches, so that a network that is the same everywhere scores a little
    differently on each. Afterwards every rank has its own again, and training goes on as if nothing had been.

    Args:
        program: whose batch norms are meant.
        scope: its parameters; Paddle's global scope where None.
        ranks: the job; that of :func:`init` where None.
        keep: leave the means in the scope, as for the network that is saved in the end.

    Yields:
        The names of the statistics.

    Example:
        >>> with slim.distributed.shared_statistics(test_program):
        ...     accuracy = evaluate(test_program)
    """
    who = current_ranks() if ranks is None else ranks
    where = global_scope() if scope is None else scope
    names = statistics_names(GraphWrapper(program))
    own = {name: load_array(where, name) for name in names}
    if who.size > 1 and names:
        flat = np.concatenate([own[name].reshape(-1) for name in names]).astype(np.float64)
        start, mean = 0, who.mean(flat)
        for name in names:
            array = own[name]
            store_array(where, name, mean[start : start + array.size].reshape(array.shape).astype(array.dtype))
            start += array.size
    try:
        yield names
    finally:
        if not keep:
            for name, array in own.items():
                store_array(where, name, array)
