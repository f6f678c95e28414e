"""What a compression job came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paddleslim_ng.compress.journal import JournalEntry
from paddleslim_ng.compress.trainer_options import EpochRecord

__all__ = ['CompressionResult']


@dataclass(frozen=True)
class CompressionResult:
    """What a job came to.

    Attributes:
        eval_program: the compressed network for evaluation; its parameters are in ``scope``.
        train_program: the same, in training.
        scope: parameters.
        records: figures of each epoch.
        metrics: those of the last evaluation.
        best: the best epoch since the network last changed, or None.
        journal: what strategies did to the programs.
        stopped: why training ended early, or None.
        exceeded: limits of the budget that do not hold.
    """

    eval_program: Any
    train_program: Any
    scope: Any
    records: list[EpochRecord]
    metrics: dict[str, float]
    best: EpochRecord | None
    journal: list[JournalEntry]
    stopped: str | None
    exceeded: list[str]
