"""What a class of the user's must be to stand in a section, so that a file cannot have just anything called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from paddleslim_ng.errors import ConfigError

__all__ = ['require_kind']

# Module and class that it derives from. Controllers serve strategies of the user's alone, which know what they want.
_BASES: Final[Mapping[str, tuple[str, str]]] = {
    'strategies': ('strategy', 'Strategy'),
    'distillers': ('plugins', 'Distiller'),
}
# Method that it has, how it is called, and what that returns.
_METHODS: Final[Mapping[str, tuple[str, str, str]]] = {
    'pruners': ('make', 'make(round_to)', 'a slim.prune.Pruner'),
    'quantizers': ('arguments', 'arguments()', 'arguments of slim.quant.quant_aware'),
}


def require_kind(target: Any, section: str, name: str) -> None:
    """Refuse what is no class, or none for this section.

    Args:
        target: what was imported.
        section: where it is to stand.
        name: what the file calls it.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(target, type):
        raise ConfigError(f'{name!r} is no class but {type(target).__name__}')
    if section in _BASES:
        module, base = _BASES[section]
        if not issubclass(target, getattr(importlib.import_module(f'paddleslim_ng.compress.{module}'), base)):
            raise ConfigError(f'{name!r} is no subclass of slim.compress.{base}')
    if section in _METHODS:
        method, call, result = _METHODS[section]
        if not callable(getattr(target, method, None)):
            raise ConfigError(f'{name!r} has no method {call}, which returns {result}')
