"""``paddleslim-ng config``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.exit_codes import ExitCode
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration import CompressionConfig, Problem, Span

__all__ = ['run']


def run(arguments: argparse.Namespace) -> Outcome:
    """Check files, or give the schema."""
    return _schema(arguments) if arguments.action == 'schema' else _check(arguments)


def _schema(arguments: argparse.Namespace) -> Outcome:
    if arguments.files:
        raise ConfigError(f'the schema belongs to no file, but {arguments.files[0]!r} is given; name a file with -o')
    from paddleslim_ng.compress.configuration import json_schema

    schema = json_schema()
    text = json.dumps(schema, indent=2)
    if arguments.output is None:
        return Outcome(text, schema)
    from paddleslim_ng.runtime.atomic import atomic_write

    atomic_write(arguments.output, text + '\n')
    return Outcome(f'written: {arguments.output}', {'file': arguments.output})


def _check(arguments: argparse.Namespace) -> Outcome:
    if not arguments.files:
        raise ConfigError('name the files to check: paddleslim-ng config check compress.yaml')
    if arguments.output is not None:
        raise ConfigError('-o is for `config schema`')
    from paddleslim_ng.compress.configuration import ConfigurationError, load_config

    texts: list[str] = []
    found: list[dict[str, Any]] = []
    for file in arguments.files:
        try:
            config = load_config(file, import_classes=not arguments.no_import)
        except ConfigurationError as error:
            texts.append(str(error))
            found.append({'file': file, 'valid': False, 'problems': [_plain(problem) for problem in error.problems]})
        else:
            texts.append(_text(config))
            found.append({'file': file, 'valid': True, 'problems': [], **_data(config)})
    valid = all(one['valid'] for one in found)
    return Outcome('\n'.join(texts), {'files': found}, ExitCode.OK if valid else ExitCode.USAGE)


def _text(config: CompressionConfig) -> str:
    """Say what would run."""
    from paddleslim_ng.compress.configuration import spans, together

    rows = [(f'{number}.', one.name, one.class_name, _when(one)) for number, one in enumerate(spans(config), 1)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f'{config.file}: valid, {_length(config)}']
    lines += ['  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    if not rows:
        lines.append('  no strategies: the network is only trained')
    for first, second, start, end in together(config):
        lines.append(f'  together: {first} and {second}, {_epochs(start, end)}')
    lines += [f'  note: {note}' for note in config.notes]
    return '\n'.join(lines)


def _length(config: CompressionConfig) -> str:
    batches = config.saved_model.batches if config.saved_model is not None else None
    if batches is not None:
        return f'{batches} batches'
    return 'no training' if config.epochs == 0 else f'{config.epochs} epoch{"s" if config.epochs != 1 else ""}'


def _when(span: Span) -> str:
    if not span.known:
        return 'not imported, so its keys are not checked'
    if span.at_end:
        return 'after the last epoch'
    return f'{_epochs(span.start, span.end)}{", to the end" if span.open else ""}'


def _epochs(start: int, end: int) -> str:
    return f'epoch {start}' if end == start + 1 else f'epochs {start} to {end - 1}'


def _data(config: CompressionConfig) -> dict[str, Any]:
    from paddleslim_ng.compress.configuration import spans, together

    return {
        'epochs': config.epochs,
        'strategies': [
            {
                'name': one.name,
                'class': one.class_name,
                'start_epoch': one.start if one.known else None,
                'end_epoch': one.end if one.known else None,
                'after_the_last_epoch': one.at_end,
                'checked': one.known,
            }
            for one in spans(config)
        ],
        'together': [
            {'strategies': [first, second], 'start_epoch': start, 'end_epoch': end}
            for first, second, start, end in together(config)
        ],
        'compressor': config.compressor.model_dump(),
        'notes': [_plain(note) for note in config.notes],
    }


def _plain(problem: Problem) -> dict[str, Any]:
    from paddleslim_ng.compress.configuration.problems import written

    return {
        'file': problem.place.file,
        'line': problem.place.line,
        'column': problem.place.column,
        'key': written(problem.path),
        'message': problem.message,
    }
