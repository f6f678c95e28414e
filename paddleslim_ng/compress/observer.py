"""What may be told of a training loop's moments."""

from __future__ import annotations

__all__ = ['Observer']


class Observer:
    """Is told what a trainer does; each method runs at its place in the order of a job."""

    def epoch_begin(self) -> None:
        """Before the first batch of an epoch."""

    def batch_begin(self) -> None:
        """Before a training step."""

    def batch_end(self) -> None:
        """After a training step."""

    def batch_done(self) -> None:
        """After all that belongs to a batch: a moment to save."""

    def epoch_end(self) -> None:
        """After an epoch's training and evaluation."""

    def epoch_done(self) -> None:
        """After all that belongs to an epoch: a moment to save."""
