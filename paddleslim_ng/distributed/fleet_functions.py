"""Stand-ins for public functions of Fleet that fail, or silently do nothing, in static programs on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.distributed.optimizer import DistributedOptimizer
from paddleslim_ng.distributed.ranks import Ranks
from paddleslim_ng.distributed.strategy import bucket_bytes_of
from paddleslim_ng.errors import ConfigError, DistributedError

__all__ = ['fleet_functions', 'utility_functions']

_REDUCTIONS: Mapping[str, Callable[..., Any]] = {'sum': np.sum, 'max': np.max, 'min': np.min}
_WORLDS = ('worker', 'all')


def fleet_functions(ranks: Ranks) -> dict[str, Callable[..., Any]]:
    """Return what takes the place of functions of ``paddle.distributed.fleet``, by name."""

    def distributed_optimizer(optimizer: Any, strategy: Any = None) -> DistributedOptimizer:
        """Wrap an optimizer so that it minimizes over all ranks."""
        from paddle.distributed import fleet

        given = strategy if strategy is not None else getattr(fleet.fleet, '_user_defined_strategy', None)
        return DistributedOptimizer(optimizer, ranks=ranks, bucket_bytes=bucket_bytes_of(given))

    def save_persistables(*_: object, **__: object) -> None:
        """Refuse, for Fleet's own function would write nothing."""
        raise DistributedError(
            'fleet.save_persistables writes no file; use slim.distributed.Checkpoints, or paddle.static.save on rank 0'
        )

    def barrier_worker() -> None:
        """Wait for all ranks."""
        ranks.barrier()

    return {
        'distributed_optimizer': distributed_optimizer,
        'save_persistables': save_persistables,
        'barrier_worker': barrier_worker,
    }


def utility_functions(ranks: Ranks) -> dict[str, Callable[..., Any]]:
    """Return what takes the place of methods of ``paddle.distributed.fleet.util``, by name."""

    def all_reduce(input: Any, mode: str = 'sum', comm_world: str = 'worker') -> npt.NDArray[Any]:
        """Reduce an array or a list of numbers over the ranks."""
        _check_world(comm_world)
        if mode not in _REDUCTIONS:
            raise ConfigError(f'mode is one of {", ".join(_REDUCTIONS)}, not {mode!r}')
        return np.asarray(_REDUCTIONS[mode](ranks.stack(input), axis=0))

    def all_gather(input: Any, comm_world: str = 'worker') -> list[Any]:
        """Return the numbers of all ranks."""
        _check_world(comm_world)
        found: list[Any] = ranks.stack(input).tolist()
        return found

    def barrier(comm_world: str = 'worker') -> None:
        """Wait for all ranks."""
        _check_world(comm_world)
        ranks.barrier()

    return {'all_reduce': all_reduce, 'all_gather': all_gather, 'barrier': barrier}


def _check_world(comm_world: str) -> None:
    if comm_world not in _WORLDS:
        raise ConfigError(f'comm_world is one of {_WORLDS} where there are no parameter servers, not {comm_world!r}')
