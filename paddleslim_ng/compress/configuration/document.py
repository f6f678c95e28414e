"""A YAML file as plain values that remember their file, line and column."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paddleslim_ng.compress.configuration.problems import ConfigurationError, KeyPath, Place

__all__ = ['Document', 'read_document', 'read_mapping']

_NO_FILE = '<configuration>'
_PREFIX = 'tag:yaml.org,2002:'
_SCALARS = frozenset(_PREFIX + name for name in ('null', 'bool', 'int', 'float', 'str', 'timestamp'))
_COLLECTIONS = frozenset({_PREFIX + 'seq', _PREFIX + 'map'})
_MERGE = _PREFIX + 'merge'
_ENDLESS = 'unexpected end of stream'
# More values than any configuration has: aliases of aliases can make billions out of a few lines.
_MOST_VALUES = 100_000


@dataclass(frozen=True)
class Document:
    """What one file says, or several that include each other.

    Attributes:
        data: its mapping, of plain values.
        file: the file, as it was given.
        places: where the entry at a path begins: its key in a mapping, the item in a list; the top at ``()``.
    """

    data: dict[str, Any]
    file: str
    places: Mapping[KeyPath, Place]

    def place_of(self, path: KeyPath) -> Place:
        """Return where the entry at a path stands, or the nearest one around it that is written."""
        for length in range(len(path), -1, -1):
            found = self.places.get(path[:length])
            if found is not None:
                return found
        return Place(self.file)


def read_mapping(data: Mapping[str, Any]) -> Document:
    """Take settings that come from a program; problems are then told by key alone."""
    return Document(dict(data), _NO_FILE, {})


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read one file as YAML's safe loader does, and refuse what it passes over.

    Beyond the safe loader, a key that is given twice, one that is no text, tags other than those of plain values and
    more than one document are errors, and ``1e-3`` is a number as in YAML 1.2.

    Args:
        path: the file, in UTF-8.

    Raises:
        ConfigurationError: it cannot be read, is no such YAML, or its top is no mapping.
    """
    file = os.fspath(path)
    node = _compose(file, _read_text(file))
    if node is None:
        raise ConfigurationError.at(Place(file, 1, 1), 'the file is empty')
    reader = _Construction(file)
    try:
        data = reader.value(node, ())
    except RecursionError as error:
        raise ConfigurationError.at(Place(file, 1, 1), 'is nested too deeply to be read') from error
    if not isinstance(data, dict):
        raise ConfigurationError.at(
            reader.places[()], f'the top of the file must be a mapping of sections, not {_kind(data)}'
        )
    return Document(data, file, reader.places)


def _read_text(file: str) -> str:
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError.at(Place(file), f'cannot be read: {error.strerror or error}') from error
    try:
        return raw.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = raw.count(b'\n', 0, error.start) + 1
        raise ConfigurationError.at(Place(file, line, 1), 'is not UTF-8 text') from error


class _Loader(yaml.SafeLoader):
    """The safe loader, for which ``1e-3`` is a number, as it is in YAML 1.2 and JSON."""


_Loader.add_implicit_resolver(
    _PREFIX + 'float', re.compile(r'^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)


def _compose(file: str, text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
            return node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = _mark_of(error)
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise ConfigurationError.at(place, _explained(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count('\n', 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ConfigurationError.at(Place(file, line, 1), f'the character {code:#x} is not allowed in YAML') from error
    except RecursionError as error:
        raise ConfigurationError.at(Place(file, 1, 1), 'is nested too deeply to be read') from error


def _mark_of(error: yaml.MarkedYAMLError) -> Any:
    """Return where an error is: of what does not end, where it begins."""
    if _ENDLESS in str(error.problem) and error.context_mark is not None:
        return error.context_mark
    return error.problem_mark or error.context_mark


def _explained(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return 'a tab: YAML is indented with spaces'
    if 'expected a single document' in str(error.context):
        return 'a second document begins: a configuration is one document'
    if _ENDLESS in problem and 'quoted' in str(error.context):
        return 'no YAML: the quote that begins here does not end'
    if 'mapping values are not allowed' in problem:
        return (
            f'no YAML: {problem}; a value with a colon and a space is written in quotes, and a key in a line of its own'
        )
    context = f' {error.context}' if error.context and error.context != problem else ''
    if context and error.context_mark is not None and error.problem_mark is not None:
        began = error.context_mark.line
        context += f', which begins in line {began + 1}' if began != error.problem_mark.line else ''
    return f'no YAML: {problem}{context}'


class _Construction:
    """Turns nodes into values, and notes their places."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[KeyPath, Place] = {}
        self._scalars = _Loader('')
        self._open: list[yaml.Node] = []
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return what a node means.

        Raises:
            ConfigurationError: it is not allowed here.
        """
        self.places.setdefault(path, self._place(node))
        self._count += 1
        if self._count > _MOST_VALUES:
            raise self._wrong(path[:1], f'aliases make more than {_MOST_VALUES} values of this file')
        if any(node is above for above in self._open):
            raise self._wrong(path, 'an alias contains itself')
        allowed = _SCALARS if isinstance(node, yaml.ScalarNode) else _COLLECTIONS
        if node.tag not in allowed:
            tag = node.tag.replace(_PREFIX, '!!')
            raise self._wrong(path, f'the tag {tag} is not allowed: only plain values are read')
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self._item(item, (*path, place)) for place, item in enumerate(node.value)]
            return self._mapping(node, path) if isinstance(node, yaml.MappingNode) else None
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError, AttributeError, yaml.YAMLError) as error:
            tag = node.tag.replace(_PREFIX, '!!')
            raise self._wrong(path, f'{node.value!r} is no {tag} of YAML') from error

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.places[path] = self._place(node)
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                merged = {**self._merged(value, path), **merged}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            name = self._key(key, path)
            here = (*path, name)
            if name in own:
                raise self._error(key, here, f'is given twice, first in line {self.places[here].line}')
            self.places[here] = self._place(key)
            own[name] = self.value(value, here)
        return {**merged, **own}

    def _key(self, key: yaml.Node, path: KeyPath) -> str:
        if not isinstance(key, yaml.ScalarNode):
            raise self._error(key, path, 'a key must be text, not a list or a mapping')
        if key.tag != _PREFIX + 'str':
            raise self._error(
                key, path, f'the key {key.value!r} is {_kind(self.value(key, path))} in YAML: write it in quotes'
            )
        return str(key.value)

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """Return what ``<<`` brings in; of several mappings the first one counts."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise self._error(part, path, '<< merges a mapping, or a list of mappings')
            values = self.value(part, path)
            for name, item in values.items():
                found.setdefault(name, item)
        return found

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _wrong(self, path: KeyPath, message: str) -> ConfigurationError:
        return ConfigurationError.at(self.places[path], message, path)

    def _error(self, node: yaml.Node, path: KeyPath, message: str) -> ConfigurationError:
        return ConfigurationError.at(self._place(node), message, path)


def _kind(value: Any) -> str:
    names = {dict: 'a mapping', list: 'a list', str: 'text', bool: 'true or false', type(None): 'nothing'}
    return names.get(type(value), 'a number' if isinstance(value, (int, float)) else 'a date')
