"""What happens at each moment of a compression job beside training."""

from __future__ import annotations

from collections.abc import Callable

from paddleslim_ng.compress.checkpointing import JobCheckpoints, Position
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.observer import Observer
from paddleslim_ng.compress.shared_network import shared_network
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.distributed import check_ranks

__all__ = ['JobCallbacks']


class JobCallbacks(Observer):
    """Calls the strategies in their order, and saves.

    Args:
        context: the job.
        strategies: in the order of their calls.
        checkpoints: where to save; nowhere where None.
        every: batches between two checkpoints within an epoch.
        started: called when a batch is there to train with, or training is over without one.
    """

    def __init__(
        self,
        context: Context,
        strategies: list[Strategy],
        checkpoints: JobCheckpoints | None,
        every: int | None,
        started: Callable[[], None],
    ) -> None:
        self._context, self._strategies = context, strategies
        self._checkpoints, self._every = checkpoints, every
        self._started = started

    def compression_begin(self) -> None:
        """Before the first epoch of a job."""
        for strategy in self._strategies:
            strategy.on_compression_begin(self._context)
        self._save(Position(0, 0))

    def epoch_begin(self) -> None:
        """Before the first batch of an epoch."""
        for strategy in self._strategies:
            strategy.on_epoch_begin(self._context)

    def batch_begin(self) -> None:
        """Before a training step."""
        self._started()
        for strategy in self._strategies:
            strategy.on_batch_begin(self._context)

    def batch_end(self) -> None:
        """After a training step."""
        for strategy in self._strategies:
            strategy.on_batch_end(self._context)

    def batch_done(self) -> None:
        """Save, where it is time."""
        done = self._context.batch_id + 1
        if self._every is not None and done % self._every == 0:
            self._save(Position(self._context.epoch_id, done))

    def epoch_end(self) -> None:
        """After an epoch's training and evaluation."""
        self._started()
        for strategy in self._strategies:
            strategy.on_epoch_end(self._context)

    def epoch_done(self) -> None:
        """Compare ranks, and save."""
        context = self._context
        if context.ranks.size > 1:
            check_ranks(context.train_program, context.scope, ranks=context.ranks, when=f'epoch {context.epoch_id}')
        self._save(Position(context.epoch_id + 1, 0))

    def compression_end(self) -> None:
        """After the last epoch; all ranks hold the same network from here on."""
        self._share()
        for strategy in self._strategies:
            strategy.on_compression_end(self._context)
        self._share()

    def _share(self) -> None:
        with shared_network(self._context.eval_program, self._context.scope, self._context.ranks, keep=True):
            pass

    def _save(self, position: Position) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(position)
