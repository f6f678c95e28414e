"""What a compression job came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from paddleslim_ng.analysis import ReportTable
from paddleslim_ng.compress.journal import JournalEntry
from paddleslim_ng.compress.trainer_options import EpochRecord
from paddleslim_ng.compress.training_log import format_table

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

    eval_program: Any = field(repr=False)
    train_program: Any = field(repr=False)
    scope: Any = field(repr=False)
    records: list[EpochRecord]
    metrics: dict[str, float]
    best: EpochRecord | None
    journal: list[JournalEntry] = field(repr=False)  # may hold all kept channels
    stopped: str | None
    exceeded: list[str]

    def table(self) -> str:
        """Return the epochs as a table, a line for each; ``*`` marks those that were the best so far."""
        return format_table(self.records)

    def report_tables(self) -> list[ReportTable]:
        """Return the epochs, and the changes to the network, as sections of a report."""
        epochs = [{**record.train, **record.metrics} for record in self.records]
        names = list(dict.fromkeys(name for values in epochs for name in values))
        rows = [
            [str(record.epoch), *(_shown(values.get(name)) for name in names), f'{record.seconds:.1f}']
            for record, values in zip(self.records, epochs)
        ]
        early = f'Training ended early: {self.stopped}.' if self.stopped else ''
        changes = [[entry.strategy, str(entry.epoch_id)] for entry in self.journal]
        tables = [
            ReportTable('Epochs', ['epoch', *names, 'seconds'], rows, early),
            ReportTable('Changes to the network', ['strategy', 'in epoch'], changes),
        ]
        return [table for table in tables if table.rows]

    def float_program(self) -> Any:
        """Return the evaluation program without fake quantizers, with which models are saved and costs counted."""
        from paddleslim_ng.compress.rebuilding import is_quantized
        from paddleslim_ng.quant import float_program

        return float_program(self.eval_program) if is_quantized(self.eval_program) else self.eval_program


def _shown(value: float | None) -> str:
    return '' if value is None else f'{value:.4g}'
