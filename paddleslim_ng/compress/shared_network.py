"""One network on all ranks: what each of them gathers from its own batches is brought together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paddleslim_ng.core import GraphWrapper, has_array
from paddleslim_ng.distributed import Ranks, shared_statistics
from paddleslim_ng.quant.aware_records import recorded

__all__ = ['shared_network']


@contextmanager
def shared_network(program: Any, scope: Any, ranks: Ranks, *, keep: bool = False) -> Iterator[None]:
    """Let all ranks evaluate, save or copy one and the same network; a collective call.

    Batch norms have the mean of the moving statistics, and activations the largest of the scales that training has
    found on any rank, which is what one process would come nearest to. Afterwards every rank has its own again.

    Args:
        program: an evaluation program.
        scope: its tensors.
        ranks: the job; one rank has nothing to share.
        keep: leave it so, for the network that a job ends with.
    """
    if ranks.size == 1:
        yield
        return
    scales = {item.record.scale for item in recorded(GraphWrapper(program)) if item.record.scale is not None}
    present = sorted(name for name in scales if has_array(scope, name))
    with shared_statistics(program, scope, ranks=ranks, keep=keep, largest=present):
        yield
