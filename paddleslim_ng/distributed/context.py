"""Beginning and end of distributed work: the connection between the ranks, and Fleet's public functions on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import paddle

from paddleslim_ng.core.paddle_compat import connect_gloo, is_cpu_build
from paddleslim_ng.distributed.optimizer import DistributedOptimizer
from paddleslim_ng.distributed.ranks import Ranks, read_ranks
from paddleslim_ng.distributed.strategy import bucket_bytes_of
from paddleslim_ng.errors import DistributedError

__all__ = ['Context', 'current_ranks', 'init', 'shutdown']

_MARK = 'paddleslim_ng_context'


class Context:
    """What :func:`init` set up; as a context manager it ends with its block.

    Attributes:
        ranks: this process among the others.
        replaced: ``{name: Paddle's own function}`` of ``paddle.distributed.fleet``, until :meth:`shutdown`.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.replaced: dict[str, Any] = {}

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        """Put ``function`` in the place of one of Fleet's."""
        from paddle.distributed import fleet

        setattr(function, _MARK, self)
        self.replaced[name] = getattr(fleet, name)
        setattr(fleet, name, function)

    def shutdown(self) -> None:
        """Give Fleet its own functions back. The connection stays: Paddle cannot cut it."""
        from paddle.distributed import fleet

        while self.replaced:
            name, own = self.replaced.popitem()
            setattr(fleet, name, own)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def init() -> Context:
    """Let static programs train on all ranks of ``paddle.distributed.launch``; call it before ``fleet.init()``.

    On builds of Paddle for CPUs it connects the ranks through gloo and replaces ``fleet.distributed_optimizer`` by
    :class:`DistributedOptimizer`, which synchronizes on both IRs, and ``fleet.save_persistables``, which would write
    nothing, by an error that says what to use. On builds for GPUs nothing is touched. A process that was not launched
    as one of several is a job of its own. Calling it again changes nothing.

    Returns:
        The context; end it by :func:`shutdown`, or use it in a ``with`` statement.

    Raises:
        DistributedError: Paddle is in dynamic mode, or the launcher's variables are unusable.

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
        connect_gloo(ranks.rank, ranks.size)

    def distributed_optimizer(optimizer: Any, strategy: Any = None) -> DistributedOptimizer:
        """Stand in for Fleet's function of this name, by slim.distributed.init()."""
        return DistributedOptimizer(optimizer, ranks=ranks, bucket_bytes=bucket_bytes_of(strategy))

    def save_persistables(*_: object, **__: object) -> None:
        """Stand in for Fleet's function of this name, by slim.distributed.init()."""
        raise DistributedError(
            'fleet.save_persistables writes no file; use slim.distributed.Checkpoints, or paddle.static.save on rank 0'
        )

    context.replace('distributed_optimizer', distributed_optimizer)
    context.replace('save_persistables', save_persistables)
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
