"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Optional, Union

from paddleslim_ng.errors import ConfigError

__all__ = ['ConfigurationError', 'KeyPath', 'Place', 'Problem', 'Problems', 'written']

KeyPath = tuple[Union[str, int], ...]
_MaybeInt = Optional[int]


@dataclass(frozen=True)
class Place:
    """Where something stands.

    Attributes:
        file: path as it was given, or ``'<configuration>'`` for one that comes from no file.
        line: counted from 1; None without a file.
        column: counted from 1; None without a file.
    """

    file: str
    line: _MaybeInt = None
    column: _MaybeInt = None

    def __str__(self) -> str:
        return self.file if self.line is None else f'{self.file}:{self.line}'


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        place: where.
        path: keys that lead there; empty for the whole file.
        message: what it is and what to do.
    """

    place: Place
    path: KeyPath
    message: str

    def __str__(self) -> str:
        """Write file and line first, as compilers do, so that editors can jump there."""
        return f'{self.place}: {written(self.path)}: {self.message}' if self.path else f'{self.place}: {self.message}'


class ConfigurationError(ConfigError):
    """A configuration is unusable; the message has one line ``file:line: key: what is wrong`` for each problem.

    Attributes:
        problems: all of them, in the order of each file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = list(dict.fromkeys(problems))
        files = list(dict.fromkeys(problem.place.file for problem in found))
        found.sort(key=lambda problem: (files.index(problem.place.file), problem.place.line or 0))
        self.problems: tuple[Problem, ...] = tuple(found)
        super().__init__('\n'.join(map(str, self.problems)))

    @classmethod
    def at(cls, place: Place, message: str, path: KeyPath = ()) -> ConfigurationError:
        """Return the error for a single problem."""
        return cls([Problem(place, path, message)])


@dataclass
class Problems:
    """Collects problems, so that one run reports all of them."""

    found: list[Problem] = field(default_factory=list)

    def add(self, place: Place, path: KeyPath, message: str) -> None:
        """Note one."""
        self.found.append(Problem(place, path, message))

    def raise_if_any(self) -> None:
        """Stop here if something is wrong.

        Raises:
            ConfigurationError: with all that was noted.
        """
        if self.found:
            raise ConfigurationError(self.found)


def written(path: KeyPath) -> str:
    """Return a path as people write it: ``strategies.prune.distillers[0]``."""
    text = ''
    for part in path:
        text += f'[{part}]' if isinstance(part, int) else f'.{part}' if text else part
    return text
