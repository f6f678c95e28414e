"""Parameters chosen by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['NamePattern']


class NamePattern:
    """Chooses names that one regular expression matches and another does not; each has to match the whole name.

    Args:
        included: names to choose.
        excluded: names to leave out all the same; none where None.

    Raises:
        ConfigError: an expression is malformed.
    """

    def __init__(self, included: str, excluded: str | None = None) -> None:
        self.text = included if excluded is None else f'{included}, without {excluded}'
        self._included, self._excluded = _compiled(included), _compiled(excluded) if excluded is not None else None

    def matches(self, name: str) -> bool:
        """Tell whether a name is chosen."""
        return bool(self._included.fullmatch(name)) and not (self._excluded and self._excluded.fullmatch(name))

    def choose(self, names: Iterable[str], what: str) -> list[str]:
        """Return the names that are chosen, in their order.

        Raises:
            ConfigError: there is none.
        """
        known = list(names)
        found = [name for name in known if self.matches(name)]
        if not found:
            raise ConfigError(
                f'no {what} is called as {self.text} says; there are {known[:8]}{nearest_names(self.text, known)}'
            )
        return found


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f'{text!r} is no regular expression: {error}') from error
