"""Beginning and end of distributed work: the connection between the ranks, and Fleet's public functions on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import paddle

from paddleslim_ng.core.paddle_compat import connect_gloo, is_cpu_build
from paddleslim_ng.distributed.fleet_functions import fleet_functions, utility_functions
from paddleslim_ng.distributed.ranks import Ranks, read_ranks
from paddleslim_ng.errors import DistributedError

__all__ = ['Context', 'current_ranks', 'init', 'shutdown']

_MARK = 'paddleslim_ng_context'
_ABSENT = object()


class Context:
    """What :func:`init` set up; as a context manager it ends with its block.

    Attributes:
        ranks: this process among the others.
        replaced: places and names of Fleet's functions, with Paddle's own, until :meth:`shutdown`.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.replaced: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Put ``function`` in the place of an attribute."""
        setattr(function, _MARK, self)
        self.replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, function)

    def shutdown(self) -> None:
        """Give Fleet its own functions back. The connection stays: Paddle cannot cut it."""
        while self.replaced:
            owner, name, own = self.replaced.pop()
            if own is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def init() -> Context:
    """Let static programs train on all ranks of ``paddle.distributed.launch``; call it before ``fleet.init()``.

    On builds of Paddle for CPUs it connects the ranks through gloo and replaces ``fleet.distributed_optimizer`` by
    :class:`DistributedOptimizer`, which synchronizes on both IRs. ``fleet.barrier_worker`` and ``all_reduce``,
    ``all_gather`` and ``barrier`` of ``fleet.util``, which do nothing there, get to work, and
    ``fleet.save_persistables``, which would write nothing, becomes an error that says what to use. On builds for GPUs
    nothing is touched. A process that was not launched as one of several is a job of its own. Calling it again changes
    nothing.

    Returns:
        The context; end it by :func:`shutdown`, or use it in a ``with`` statement.

    Raises:
        DistributedError: Paddle is in dynamic mode, the launcher's variables are unusable, or the ranks do not connect.

    Example:
        >>> slim.distributed.init()
        >>> fleet.init(is_collective=True)
        >>> optimizer = fleet.distributed_optimizer(paddle.optimizer.Momentum(0.1))
        >>> optimizer.minimize(loss)
    """
    present = _present()
    if present is not None:
        return present
    ranks = read_ranks()
    if paddle.in_dynamic_mode():
        raise DistributedError('call paddle.enable_static() before slim.distributed.init(): it serves static programs')
    context = Context(ranks)
    if not is_cpu_build():
        return context
    if ranks.size > 1:
        try:
            connect_gloo(ranks.rank, ranks.size)
        except RuntimeError as error:
            raise DistributedError(
                f'rank {ranks.rank} cannot connect with the other {ranks.size - 1}: {error}'
            ) from error
    from paddle.distributed import fleet

    for name, function in fleet_functions(ranks).items():
        context.replace(fleet, name, function)
    for name, function in utility_functions(ranks).items():
        context.replace(fleet.util, name, function)
    return context


def shutdown() -> None:
    """Undo what :func:`init` replaced; without effect where it replaced nothing."""
    present = _present()
    if present is not None:
        present.shutdown()


def current_ranks() -> Ranks:
    """Return the ranks of the running context, or what the launcher says where there is none."""
    present = _present()
    return present.ranks if present is not None else read_ranks()


def _present() -> Context | None:
    """Find the running context at the function of Fleet that it replaced."""
    from paddle.distributed import fleet

    found = getattr(fleet.distributed_optimizer, _MARK, None)
    return found if isinstance(found, Context) else None
