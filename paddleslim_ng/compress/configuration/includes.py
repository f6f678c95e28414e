"""Files that include each other, put together as one document."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleslim_ng.compress.configuration.document import Document, read_document
from paddleslim_ng.compress.configuration.problems import ConfigurationError, KeyPath, Place

__all__ = ['INCLUDE', 'read_with_includes']

INCLUDE = 'include'
_DEEPEST = 16


def read_with_includes(path: str | os.PathLike[str]) -> Document:
    """Read a file and what it includes.

    ``include`` is a path or a list of paths, relative to the file that says it. Entries of sections are put together by
    name. An entry of a file replaces that of the same name in a file which it includes; a section ``compressor`` is
    replaced key by key. Two files that one file includes may not define the same entry unless it is the same one.

    Args:
        path: the file to begin with.

    Raises:
        ConfigurationError: a file is missing or unreadable, includes itself, or two of them disagree.
    """
    return _read(os.fspath(path), [])


def _read(file: str, chain: list[tuple[str, Place]]) -> Document:
    document = read_document(file)
    wanted = _included(document)
    merged = _Merged(document)
    here = [*chain, (os.path.realpath(file), Place(file))]
    for key, name in wanted:
        place = document.place_of(key)
        target = str(Path(file).parent / name)
        _check_chain(target, place, key, here)
        if not Path(target).is_file():
            raise ConfigurationError.at(place, f'there is no file {target!r}{_told(here)}', key)
        merged.add(_read(target, here), place)
    return merged.finish()


def _included(document: Document) -> list[tuple[KeyPath, str]]:
    """Return the paths below ``include``, with the keys where they stand."""
    given = document.data.get(INCLUDE)
    names = [given] if isinstance(given, str) else given if given is not None else []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError.at(
            document.place_of((INCLUDE,)), f'must be a path or a list of paths, not {given!r}', (INCLUDE,)
        )
    single = isinstance(given, str)
    return [((INCLUDE,) if single else (INCLUDE, number), name) for number, name in enumerate(names)]


def _check_chain(target: str, place: Place, key: KeyPath, chain: list[tuple[str, Place]]) -> None:
    real = os.path.realpath(target)
    if any(real == known for known, _ in chain):
        files = ' -> '.join([*(str(step) for _, step in chain), target])
        raise ConfigurationError.at(place, f'the files include each other: {files}', key)
    if len(chain) >= _DEEPEST:
        raise ConfigurationError.at(place, f'more than {_DEEPEST} files include each other in a row{_told(chain)}', key)


def _told(chain: list[tuple[str, Place]]) -> str:
    """Say how a file was reached, where that is not plain."""
    return f' (reached through {" -> ".join(str(place) for _, place in chain)})' if len(chain) > 1 else ''


class _Merged:
    """Collects the entries of included files below those of the file itself."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._data = {name: _copied(value) for name, value in document.data.items() if name != INCLUDE}
        self._places = dict(document.places)
        self._own = {(section, *name) for section, value in self._data.items() for name in _names(value)}

    def add(self, other: Document, place: Place) -> None:
        """Take over what the file itself does not say.

        Raises:
            ConfigurationError: another included file says it, too, and differently.
        """
        for section, value in other.data.items():
            if not isinstance(value, dict) or not isinstance(self._data.get(section) or {}, dict):
                self._take((section,), value, other, place)
                continue
            if self._data.get(section) is None:
                self._data[section] = {}
            self._adopt((section,), other, deep=False)
            for name, item in value.items():
                self._take((section, name), item, other, place)

    def finish(self) -> Document:
        """Return all of it as one document."""
        return Document(self._data, self._document.file, self._places)

    def _take(self, path: KeyPath, value: Any, other: Document, place: Place) -> None:
        if path in self._own:
            return
        home = self._data if len(path) == 1 else self._data[str(path[0])]
        name = str(path[-1])
        if name in home:
            known, new = self._places[path], other.place_of(path)
            if known != new and home[name] != value:
                raise ConfigurationError.at(
                    place, f'{new} and {known} define it differently: define it here, which replaces both', path
                )
            return
        home[name] = value
        self._adopt(path, other, deep=True)

    def _adopt(self, path: KeyPath, other: Document, *, deep: bool) -> None:
        for known, place in other.places.items():
            if known == path or (deep and known[: len(path)] == path):
                self._places.setdefault(known, place)


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _names(value: Any) -> list[KeyPath]:
    return [(name,) for name in value] if isinstance(value, Mapping) else [()]
