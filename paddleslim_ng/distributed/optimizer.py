"""An optimizer that minimizes over all ranks."""

from __future__ import annotations

from typing import Any

import paddle

from paddleslim_ng.distributed.ranks import Ranks
from paddleslim_ng.distributed.synchronize import BUCKET_BYTES, distribute

__all__ = ['DistributedOptimizer']


class DistributedOptimizer:
    """Any of Paddle's optimizers, with gradients averaged over the ranks, on both IRs.

    Everything else (``get_lr``, ``state_dict``, ...) is the inner optimizer's.

    Args:
        inner: a Paddle optimizer, or something that wraps one.
        ranks: the job; what the launcher says where None.
        bucket_bytes: gradients are packed into vectors of up to this size; 0 sends each by itself.

    Example:
        >>> optimizer = slim.distributed.DistributedOptimizer(paddle.optimizer.Momentum(0.1))
        >>> optimizer.minimize(loss)
    """

    def __init__(self, inner: Any, *, ranks: Ranks | None = None, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.inner = inner
        self._ranks = ranks
        self._bucket_bytes = bucket_bytes

    def minimize(
        self, loss: Any, startup_program: Any = None, parameters: Any = None, no_grad_set: Any = None
    ) -> tuple[list[Any], list[tuple[Any, Any]]]:
        """Add the backward pass, the collectives and the updates to the program of ``loss``.

        Args:
            loss: of a program of either IR.
            startup_program: initializes the parameters; the default startup program where None.
            parameters: what to update; all trainable parameters where None.
            no_grad_set: what gets no gradient.

        Returns:
            What the inner optimizer returns.

        Raises:
            UnsupportedOpError: see :func:`~paddleslim_ng.distributed.distribute`.
        """
        result = self.inner.minimize(loss, startup_program, parameters, no_grad_set)
        self._distribute(loss.block.program, startup_program)
        return result  # type: ignore[no-any-return]

    def apply_gradients(self, params_grads: list[tuple[Any, Any]]) -> Any:
        """Add the collectives and the updates after ``backward``, within ``program_guard`` of both programs."""
        result = self.inner.apply_gradients(params_grads)
        self._distribute(paddle.static.default_main_program(), None)
        return result

    def apply_optimize(self, loss: Any, startup_program: Any, params_grads: list[tuple[Any, Any]]) -> Any:
        """Add the collectives and the updates to the program of ``loss``, after ``backward``."""
        startup = startup_program if startup_program is not None else paddle.static.default_startup_program()
        with paddle.static.program_guard(loss.block.program, startup):
            return self.apply_gradients(params_grads)

    def _distribute(self, program: Any, startup_program: Any) -> None:
        startup = startup_program if startup_program is not None else paddle.static.default_startup_program()
        distribute(program, startup, ranks=self._ranks, bucket_bytes=self._bucket_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
