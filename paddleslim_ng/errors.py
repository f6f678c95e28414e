"""The exception family of paddleslim_ng.

Every error that the library raises on purpose derives from :class:`SlimError`, so ``except slim.SlimError`` catches
all of them and nothing else. Messages say what was wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    'CheckpointError',
    'ConfigError',
    'DataError',
    'DeployError',
    'DistributedError',
    'EquivalenceError',
    'GraphError',
    'NotPrunableError',
    'SlimError',
    'UnsupportedOpError',
    'nearest_names',
]


class SlimError(Exception):
    """Base of all errors raised by paddleslim_ng."""


class GraphError(SlimError):
    """A program, operator or variable is not what the call needs (unknown name, wrong IR, impossible edit)."""


class UnsupportedOpError(GraphError):
    """An operator that no rule covers.

    Attributes:
        op: canonical operator type.
        variable: name of the tensor where the analysis stopped, or None.
        axis: axis of that tensor, or None.
        path: operator types from the parameter to the obstacle.
    """

    def __init__(
        self,
        message: str,
        *,
        op: str = '',
        variable: str | None = None,
        axis: int | None = None,
        path: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.op = op
        self.variable = variable
        self.axis = axis
        self.path = tuple(path)


class NotPrunableError(SlimError):
    """No channel of the requested parameter can be removed; the message lists the obstacles."""


class EquivalenceError(SlimError):
    """A transformed program does not compute what the original does."""


class ConfigError(SlimError, ValueError):
    """An argument or a configuration entry has an unusable value."""


class DataError(SlimError):
    """Data that a call reads is missing, malformed or of the wrong shape."""


class CheckpointError(SlimError):
    """A file written by an earlier run is damaged, stale or belongs to something else."""


class DeployError(SlimError):
    """A model could not be converted, verified or measured on the runtime."""


class DistributedError(SlimError):
    """Ranks of a distributed job disagree or do not answer."""


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a ``'; did you mean ...?'`` suffix for an error message, or ``''`` where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f'; did you mean {", ".join(map(repr, close))}?' if close else ''
