"""Do all ranks hold the same parameters and masks?"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, view_array
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.core.teachers import teacher_of
from paddleslim_ng.distributed.context import current_ranks
from paddleslim_ng.distributed.ranks import Ranks
from paddleslim_ng.distributed.synchronize import require_all_reduce
from paddleslim_ng.errors import DistributedError

__all__ = ['RankChecks', 'check_ranks', 'shared_names']

_STATISTICS = {'batch_norm': ('Mean', 'Variance'), 'sync_batch_norm': ('Mean', 'Variance')}
_MASK = '_mask'


def statistics_names(graph: GraphWrapper) -> list[str]:
    """Return the moving means and variances of batch norm, which every rank gathers from its own batches.

    Those of a merged teacher stay as they are, the same on all ranks.
    """
    found: dict[str, None] = {}
    for op in graph.ops():
        slots = _STATISTICS.get(op.type(), ())
        if slots and teacher_of(op) is None:
            found.update((var.name(), None) for slot in slots for var in op.inputs(slot))
    return list(found)


def shared_names(program: Any) -> list[str]:
    """Return what has to be the same on all ranks: parameters without batch norm's statistics, and their masks."""
    graph = GraphWrapper(program)
    own = set(statistics_names(graph))
    names = [var.name() for var in graph.all_parameters() if var.name() not in own]
    masks = {name + _MASK for name in names}
    names += [var.name() for var in graph.vars() if var.name() in masks and var.persistable()]
    return names


def check_ranks(
    program: Any, scope: Any = None, *, names: Iterable[str] | None = None, ranks: Ranks | None = None, when: str = ''
) -> None:
    """Compare checksums over all ranks; a collective call.

    Args:
        program: whose parameters and masks are compared.
        scope: holds them; Paddle's global scope where None.
        names: what to compare instead of :func:`shared_names`.
        ranks: the job; that of :func:`init` where None. One rank has nothing to compare.
        when: named in the error, such as ``'step 1'``.

    Raises:
        DistributedError: naming the first tensor that differs, and the ranks that hold the rarer content; or ranks
            hold different sets of tensors. All ranks raise it.
    """
    who = current_ranks() if ranks is None else ranks
    where = global_scope() if scope is None else scope
    compared = list(shared_names(program) if names is None else names)
    if who.size == 1:
        return
    at = f' at {when}' if when else ''
    lists = who.gather([len(compared), _digest('\n'.join(compared).encode())])
    if (lists != lists[0]).any():
        raise DistributedError(f'the ranks train different programs{at}: they have {lists[:, 0].tolist()} tensors')
    sums = who.gather([_checksum(where, name) for name in compared])
    different = np.flatnonzero((sums != sums[0]).any(axis=0))
    if different.size:
        name = compared[int(different[0])]
        raise DistributedError(
            f'{name!r} is not the same on all ranks{at}: {_sides(sums[:, different[0]].tolist())}. '
            f'{different.size} of {len(compared)} tensors differ. Are the gradients reduced '
            '(slim.distributed.require_all_reduce), and did all ranks start from the same parameters?'
        )


def _sides(sums: Sequence[int]) -> str:
    """Say which ranks agree with each other."""
    groups: dict[int, list[int]] = {}
    for rank, value in enumerate(sums):
        groups.setdefault(value, []).append(rank)
    return ' against '.join(
        f'{"ranks" if len(found) > 1 else "rank"} {", ".join(map(str, found))}' for found in groups.values()
    )


def _checksum(scope: Any, name: str) -> int:
    array = view_array(scope, name)
    return _digest(_content(array), f'{array.dtype}{array.shape}'.encode())


def _content(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(*parts: bytes | memoryview) -> int:
    made = hashlib.blake2b(digest_size=8)
    for part in parts:
        made.update(part)
    return int.from_bytes(made.digest(), 'little', signed=True)


class RankChecks:
    """Watches over a distributed training: reduced gradients to begin with, equal parameters and masks on the way.

    Parameters are compared after the first step, and whenever masks have changed; masks at every step, by one number.

    Args:
        program: the training program.
        scope: its parameters; Paddle's global scope where None.
        ranks: the job; that of :func:`init` where None.

    Raises:
        DistributedError: several ranks, and gradients that are not reduced.

    Example:
        >>> checks = slim.distributed.RankChecks(program)
        >>> for batch in batches:
        ...     exe.run(program, feed=batch)
        ...     pruner.step()
        ...     checks.after_step()
    """

    def __init__(self, program: Any, scope: Any = None, *, ranks: Ranks | None = None) -> None:
        self._ranks = current_ranks() if ranks is None else ranks
        require_all_reduce(program, ranks=self._ranks)
        self._program = program
        self._scope = global_scope() if scope is None else scope
        self._steps = 0
        self._names: list[str] = []
        self._masks = 0

    def after_step(self) -> None:
        """Count a step and compare what is due; a collective call.

        Raises:
            DistributedError: the ranks differ; the message names the first tensor that does.
        """
        self._steps += 1
        if self._ranks.size == 1:
            return
        if self._steps == 1:
            self._names = shared_names(self._program)
        masks = self._sum_of_masks()
        if self._steps == 1 or self._changed(masks):
            check_ranks(self._program, self._scope, names=self._names, ranks=self._ranks, when=f'step {self._steps}')
        self._masks = masks

    def _changed(self, masks: int) -> bool:
        """Tell whether masks have changed on any rank; all ranks get the same answer."""
        if not any(name.endswith(_MASK) for name in self._names):
            return False
        found = self._ranks.gather([masks, self._masks])
        return bool((found != found[0, 0]).any())

    def _sum_of_masks(self) -> int:
        total = 0
        for name in self._names:
            if name.endswith(_MASK):
                total = zlib.crc32(_content(view_array(self._scope, name)), total)
        return total
