"""From the command line to an exit code."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from paddleslim_ng.cli.arguments import build_parser
from paddleslim_ng.cli.exit_codes import ExitCode, exit_code_of

__all__ = ['Outcome', 'main']

_GLOG_LEVEL = 'GLOG_minloglevel'
_PADDLE_TO_ITSELF = ('No ccache found', "Tensor do not have 'place' interface")
# Loaded when called, and Paddle with them.
_COMMANDS = {
    'inspect': 'paddleslim_ng.cli.inspect_command',
    'convert': 'paddleslim_ng.cli.convert_command',
    'verify': 'paddleslim_ng.cli.verify_command',
    'measure': 'paddleslim_ng.cli.measure_command',
    'quantize': 'paddleslim_ng.cli.quantize_command',
    'sensitivity': 'paddleslim_ng.cli.sensitivity_command',
    'prune': 'paddleslim_ng.cli.prune_command',
    'compress': 'paddleslim_ng.cli.compress_command',
    'config': 'paddleslim_ng.cli.config_command',
    'launch': 'paddleslim_ng.cli.launch_command',
}


class Outcome(NamedTuple):
    """What a command has to say.

    Attributes:
        text: for people.
        data: for machines, as what JSON can hold.
        code: what the program ends with.
    """

    text: str
    data: dict[str, Any]
    code: ExitCode = ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the documentation of the codes is :class:`ExitCode`.

    Args:
        argv: the arguments; those of the process where None.
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as end:  # argparse has printed the help or what is wrong
        return int(end.code or 0)
    talkative = arguments.verbose or arguments.debug
    with _logging_to_stderr(logging.INFO if talkative else logging.WARNING), _paddle_says(everything=talkative):
        try:
            run: Callable[[argparse.Namespace], Outcome] = importlib.import_module(_COMMANDS[arguments.command]).run
            outcome = run(arguments)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the last stop: every error is one line
            return _failed(error, arguments)
    print(json.dumps(_plain(outcome.data), indent=2) if arguments.json else outcome.text)
    return int(outcome.code)


def _failed(error: BaseException, arguments: argparse.Namespace) -> int:
    """Print an error as one line, and for machines as an object, and return its exit code."""
    if arguments.debug:
        raise error
    code = exit_code_of(error)
    kind = type(error).__name__
    message = ' '.join(str(error).split()) or kind
    foreseen = type(error).__module__.startswith('paddleslim_ng') or isinstance(error, (OSError, KeyboardInterrupt))
    print(f'paddleslim-ng: error: {message if foreseen else f"{kind}: {message}"}', file=sys.stderr)
    if arguments.json:
        print(json.dumps({'error': message, 'kind': kind, 'exit_code': int(code)}, indent=2))
    return int(code)


@contextmanager
def _logging_to_stderr(level: int) -> Iterator[None]:
    """Send the package's log to stderr while a command runs."""
    logger = logging.getLogger('paddleslim_ng')
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate


@contextmanager
def _paddle_says(everything: bool) -> Iterator[None]:
    """Let Paddle keep to itself, here and in the processes started, which executor it runs and what it was built with.

    What ends a process is said all the same.
    """
    if everything or _GLOG_LEVEL in os.environ:
        yield
        return
    os.environ[_GLOG_LEVEL] = '2'
    try:
        with warnings.catch_warnings():
            for message in _PADDLE_TO_ITSELF:
                warnings.filterwarnings('ignore', message=message)
            yield
    finally:
        del os.environ[_GLOG_LEVEL]


def _plain(value: Any) -> Any:
    """Return a value with keys as text and without infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float('inf'), float('-inf'))):
        return str(value)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
