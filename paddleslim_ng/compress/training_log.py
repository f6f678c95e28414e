"""Where an epoch's figures go: the log, a table, lines of JSON, VisualDL."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddleslim_ng.compress.trainer_options import EpochRecord, TrainerOptions
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['TrainingLog', 'format_table']

_LOG = logging.getLogger('paddleslim_ng')


class TrainingLog:
    """Writes epochs down.

    Args:
        options: say where to.

    Raises:
        ConfigError: VisualDL is asked for and not installed, or the file is a folder.
    """

    def __init__(self, options: TrainerOptions) -> None:
        self._file = _writable(options.metrics_file) if options.metrics_file is not None else None
        self._writer = _visualdl_writer(options.visualdl) if options.visualdl is not None else None
        self._head = ''

    def write(self, records: Sequence[EpochRecord]) -> None:
        """Write the newest of the records down; the file always holds all of them."""
        newest = records[-1]
        head, *rows = format_table(records).split('\n')
        if head != self._head:
            _LOG.info('%s', head)
            self._head = head
        _LOG.info('%s', rows[-1])
        if self._file is not None:
            lines = ''.join(json.dumps(record.as_dict()) + '\n' for record in records)
            atomic_write(self._file, lines.encode())
        if self._writer is not None:
            for part, values in (('train', newest.train), ('eval', newest.metrics)):
                for name, value in values.items():
                    self._writer.add_scalar(f'{part}/{name}', value, newest.epoch)
            if newest.learning_rate is not None:
                self._writer.add_scalar('learning_rate', newest.learning_rate, newest.epoch)

    def close(self) -> None:
        """Let VisualDL write what it holds."""
        if self._writer is not None:
            self._writer.close()


def _writable(file: str | Path) -> Path:
    """Return a file whose folder is there."""
    path = Path(file)
    if path.is_dir():
        raise ConfigError(f'metrics_file is a file, and {path} is a folder')
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _visualdl_writer(folder: Any) -> Any:
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise ConfigError("visualdl= needs VisualDL: pip install 'paddleslim-ng[visualdl]'") from error
    return LogWriter(logdir=str(folder))


def format_table(records: Sequence[EpochRecord]) -> str:
    """Return records as a table: a line of headings, and one for each epoch; ``*`` marks the best."""
    columns = {'epoch': [f'{record.epoch}{"*" if record.best else ""}' for record in records]}
    for part, figures in (('train', [r.train for r in records]), ('eval', [r.metrics for r in records])):
        for name in dict.fromkeys(name for found in figures for name in found):
            columns[f'{part} {name}'] = [f'{found[name]:.5g}' if name in found else '-' for found in figures]
    if any(record.learning_rate is not None for record in records):
        rates = [record.learning_rate for record in records]
        columns['learning rate'] = [f'{rate:.4g}' if rate is not None else '-' for rate in rates]
    columns['samples'] = [str(record.samples) for record in records]
    columns['seconds'] = [f'{record.seconds:.1f}' for record in records]
    widths = {head: max(len(head), *map(len, cells)) for head, cells in columns.items()}
    rows = [[head.rjust(widths[head]) for head in columns]]
    rows += [[cells[i].rjust(widths[head]) for head, cells in columns.items()] for i in range(len(records))]
    return '\n'.join('  '.join(row) for row in rows)
