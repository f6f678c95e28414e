"""Batches that all ranks have: a rank without one would leave the others waiting for its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.compress.readers import Feed
from paddleslim_ng.distributed import Ranks
from paddleslim_ng.errors import DistributedError, SlimError

__all__ = ['common_batches']

# What a rank says of its reader before each step.
_BATCH: Final = 0
_END: Final = 1
_FAILED: Final = 2


def common_batches(feeds: Iterator[Feed], ranks: Ranks, role: str, done: int = 0) -> Iterator[Feed]:
    """Yield a rank's batches as long as all ranks have one; a collective call for each of them.

    Args:
        feeds: of this rank.
        ranks: the job; one rank has nothing to agree on.
        role: how errors name the reader.
        done: number of the epoch's batches before these.

    Raises:
        DistributedError: the reader of another rank has failed, or ranks have different numbers of batches; every rank
            raises it, but for those whose reader fails, which raise what that says.
    """
    if ranks.size == 1:
        yield from feeds
        return
    for number in count(done + 1):
        failure: SlimError | None = None
        feed = None
        try:
            feed = next(feeds, None)
        except SlimError as error:
            failure = error
        said = ranks.gather([_FAILED if failure is not None else _END if feed is None else _BATCH])[:, 0]
        if failure is not None:
            raise failure
        _check(said, number, role)
        if feed is None:
            return
        yield feed


def _check(said: npt.NDArray[Any], number: int, role: str) -> None:
    failed, ended = np.flatnonzero(said == _FAILED).tolist(), np.flatnonzero(said == _END).tolist()
    if failed:
        raise DistributedError(f'{role} failed at batch {number} on the ranks {failed}, whose logs say why')
    if 0 < len(ended) < len(said):
        raise DistributedError(
            f'{role} has {number - 1} batches on the ranks {ended}, and more on the others: every rank needs as many, '
            'as paddle.io.DistributedBatchSampler gives them'
        )
