"""What a compression strategy is: callbacks that see a context, and a state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from paddleslim_ng.compress.context import Context

__all__ = ['Strategy']


class Strategy:
    """Base of everything that the :class:`~paddleslim_ng.compress.Compressor` runs; override what you need.

    The order of a job, the same in every run::

        on_compression_begin
        for each epoch:
            on_epoch_begin
            for each batch:
                on_batch_begin, the training step, on_batch_end
            evaluation, every ``eval_epoch`` epochs and after the last
            on_epoch_end, which sees the new metrics
            checkpoint, which holds what on_epoch_end did
        on_compression_end

    Strategies are called in the order in which they were added. All of them get every callback and look at
    ``context.epoch_id`` themselves, see :meth:`is_active`. Whatever a callback raises ends the job, and its checkpoints
    stay.

    A strategy changes programs through the context alone, which keeps a journal of it. A job that goes on from a
    checkpoint calls, before anything else, :meth:`load_state_dict` of each strategy and then
    :meth:`restore_from_checkpoint`, for every entry of the journal in its order, which makes the same change to the
    programs again; every tensor of the scope is then put back as it was, and :meth:`on_restored` is called.
    ``on_compression_begin`` is not called again, nor is ``on_epoch_begin`` in the midst of an epoch.

    Args:
        start_epoch: first epoch, counted from 0, in which the strategy acts.
        end_epoch: the epoch in which it no longer acts; 0 leaves the end open. A job has at least as many epochs as any
            ``end_epoch`` says.

    Attributes:
        name: unique within a job; the compressor gives one where the strategy has none.

    Raises:
        ConfigError: an epoch is no whole number from 0, or the end does not lie behind the start.
    """

    # For classes whose constructor does not call this one.
    name = ''
    start_epoch = 0
    end_epoch = 0
    has_run = False

    def __init__(self, start_epoch: int = 0, end_epoch: int = 0) -> None:
        for key, value in (('start_epoch', start_epoch), ('end_epoch', end_epoch)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f'{key} is a number of epochs, not {value!r}')
        if end_epoch and end_epoch <= start_epoch:
            raise ConfigError(
                f'end_epoch={end_epoch} does not lie behind start_epoch={start_epoch}: it is the first epoch in which '
                'the strategy no longer acts; 0 leaves the end open'
            )
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.name = ''

    def is_active(self, epoch_id: int) -> bool:
        """Tell whether an epoch lies within ``start_epoch`` and ``end_epoch``, which is exclusive."""
        return self.start_epoch <= epoch_id and (self.end_epoch == 0 or epoch_id < self.end_epoch)

    def on_compression_begin(self, context: Context) -> None:
        """Run once for a job, before the first epoch."""

    def on_epoch_begin(self, context: Context) -> None:
        """Run before the first batch of each epoch."""

    def on_batch_begin(self, context: Context) -> None:
        """Run before each training step."""

    def on_batch_end(self, context: Context) -> None:
        """Run after each training step."""

    def on_epoch_end(self, context: Context) -> None:
        """Run after each epoch's training and evaluation."""

    def on_compression_end(self, context: Context) -> None:
        """Run after the last epoch; again where a finished job is run once more."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a resumed job needs beside programs and tensors: plain values, and arrays among them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state over, before :meth:`restore_from_checkpoint`; programs are still those that the user gave."""

    def restore_from_checkpoint(self, context: Context) -> None:
        """Make a change to the programs again that the journal holds: ``context.replayed`` is its entry.

        Called for each entry of this strategy, in the order of the journal. The scope already holds the tensors of the
        checkpoint, in their final shapes, and gets them once more after the last entry.
        """

    def on_restored(self, context: Context) -> None:
        """Run when programs, scope and generators are those of the checkpoint, before the job goes on.

        What lives in this process, such as a pruner that works on the programs, takes its state here.
        """

    def __repr__(self) -> str:
        return f'{type(self).__name__}(name={self.name!r}, epochs {self.start_epoch} to {self.end_epoch or "the last"})'
