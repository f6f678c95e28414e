"""Exit codes, and which error gives which."""

from __future__ import annotations

from enum import IntEnum

from paddleslim_ng.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeployError,
    EquivalenceError,
    GraphError,
    SlimError,
    UnsupportedOpError,
)

__all__ = ['ExitCode', 'exit_code_of']


class ExitCode(IntEnum):
    """What the program ends with."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    BAD_INPUT = 3
    FAILED = 4
    INTERRUPTED = 130


# The first row that fits counts: UnsupportedOpError is a GraphError, too.
_ROWS: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (EquivalenceError, ExitCode.CHECK_FAILED),
    (ConfigError, ExitCode.USAGE),
    (UnsupportedOpError, ExitCode.FAILED),
    (DeployError, ExitCode.FAILED),
    (DataError, ExitCode.BAD_INPUT),
    (CheckpointError, ExitCode.BAD_INPUT),
    (GraphError, ExitCode.BAD_INPUT),
    (SlimError, ExitCode.FAILED),
    (OSError, ExitCode.FAILED),
    (ImportError, ExitCode.FAILED),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an error; failures that nobody foresaw count as failed."""
    return next((code for kind, code in _ROWS if isinstance(error, kind)), ExitCode.FAILED)
