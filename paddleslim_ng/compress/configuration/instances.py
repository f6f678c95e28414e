"""The entries of the plugin sections: their classes, their options, and how they refer to each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from paddleslim_ng.compress.configuration.configuration import Instance, InstanceName, reference_of
from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.known_keys import one_of
from paddleslim_ng.compress.configuration.plugin_kinds import require_kind
from paddleslim_ng.compress.configuration.problems import KeyPath, Problem, Problems
from paddleslim_ng.compress.configuration.registry import (
    SECTIONS,
    PluginClass,
    Registry,
    import_target,
    split_target,
)
from paddleslim_ng.compress.configuration.signatures import accepts_text, options_of
from paddleslim_ng.compress.configuration.validation import check_model, shown, without_none
from paddleslim_ng.errors import ConfigError

__all__ = ['Instances']

_CLASS = 'class'


class Instances:
    """Checks the plugin sections of a document.

    Args:
        document: what the file says.
        registry: the classes.
        problems: gets what is wrong.

    Attributes:
        found: the instances that were understood, by name.
    """

    def __init__(self, document: Document, registry: Registry, problems: Problems) -> None:
        self._document, self._registry, self._problems = document, registry, problems
        self._homes: dict[str, list[str]] = {}
        self.found: dict[str, Instance] = {}
        entries = sorted(self._entries(), key=lambda entry: document.place_of(entry[:2]).line or 0)
        for section, name, _ in entries:
            self._homes.setdefault(name, []).append(section)
        for section, name, value in entries:
            self._check(section, name, value)
        self._check_cycles()

    def names(self, section: str) -> list[str]:
        """Return the names of a section, understood or not."""
        return [name for name, homes in self._homes.items() if section in homes]

    def unknown(self, name: Any, section: str) -> str:
        """Say that a section has no such instance."""
        if isinstance(name, dict):
            return f'must be the name of an instance of {section}, where its mapping stands'
        known = self.names(section)
        homes = self._homes.get(name, []) if isinstance(name, str) else []
        if homes:
            return f'{name!r} is an instance of {homes[0]}, where one of {section} is wanted'
        listed = one_of(str(name), known) or f': the section {section} is empty'
        return f'there is no instance {shown(name)} in {section}{listed}'

    def unused(self, strategies: Iterable[str]) -> list[Problem]:
        """Return notes on the instances that no strategy of a list needs."""
        used: set[str] = set()
        waiting = [name for name in strategies if name in self.found]
        while waiting:
            name = waiting.pop()
            if name not in used:
                used.add(name)
                waiting += self.found[name].refers_to
        return [
            Problem(one.place, (one.section, one.name), 'nothing uses it')
            for one in self.found.values()
            if one.name not in used and not self._may_be_named(one.name)
        ]

    def import_classes(self) -> None:
        """Import the classes that are named by a path, and check the keys of their instances."""
        for one in list(self.found.values()):
            if one.plugin is None:
                self._import(one)
        self._check_cycles()

    def _entries(self) -> Iterator[tuple[str, str, Any]]:
        for section in SECTIONS:
            value = self._document.data.get(section)
            if isinstance(value, dict):
                yield from ((section, name, item) for name, item in value.items())

    def _note(self, path: KeyPath, message: str) -> None:
        self._problems.add(self._document.place_of(path), path, message)

    def _check(self, section: str, name: str, value: Any) -> None:
        path = (section, name)
        if len(self._homes[name]) > 1 and section != self._homes[name][0]:
            self._note(path, f'the name {name!r} is taken by an instance of {self._homes[name][0]}')
            return
        if not isinstance(value, dict):
            example = f', such as {{{_CLASS}: {value}}}' if isinstance(value, str) else ''
            self._note(path, f'must be a mapping with a {_CLASS}{example}, not {shown(value)}')
            return
        class_name = value.get(_CLASS)
        if not isinstance(class_name, str) or not class_name:
            here = (*path, _CLASS)
            said = f'must be the name of a class, not {shown(class_name)}' if _CLASS in value else 'is missing'
            self._note(here if _CLASS in value else path, said if _CLASS in value else f'{_CLASS} is missing')
            return
        place = self._document.place_of(path)
        try:
            if _is_path(class_name):
                split_target(class_name)
                self.found[name] = Instance(section, name, class_name, place, None, None)
                return
            plugin = self._registry.find(section, class_name)
        except ConfigError as error:
            self._note((*path, _CLASS), str(error))
            return
        self._check_options(Instance(section, name, class_name, place, plugin, None), plugin, value)

    def _check_options(self, instance: Instance, plugin: PluginClass, value: Mapping[str, Any]) -> None:
        path = (instance.section, instance.name)
        given = without_none({key: item for key, item in value.items() if key != _CLASS})
        names: list[str] = []
        for key in [key for key in given if key in plugin.options.model_fields]:
            mark = reference_of(plugin.options, key)
            if mark is not None:
                names += self._references(given[key], mark.section, mark.many, (*path, key))
            elif not accepts_text(plugin.options, key) and not _is_builtin(plugin):
                given[key] = self._marked(given[key], names)
        before = len(self._problems.found)
        options = check_model(plugin.options, given, self._document, path, self._problems)
        if options is not None and len(self._problems.found) == before:
            self.found[instance.name] = replace(
                instance, plugin=plugin, options=options, refers_to=tuple(dict.fromkeys(names))
            )

    def _references(self, value: Any, section: str, many: bool, path: KeyPath) -> list[str]:
        """Return the names that a field refers to, and note those that do not exist."""
        if value is None or (many and not isinstance(value, list)):
            return []
        known = self.names(section)
        places = [((*path, number), item) for number, item in enumerate(value)] if many else [(path, value)]
        for number, (here, item) in enumerate(places):
            if item not in known:
                self._note(here, self.unknown(item, section))
            elif item in [other for _, other in places[:number]]:
                self._note(here, f'names {item!r} twice')
        return [item for _, item in places if item in known]

    def _marked(self, value: Any, names: list[str]) -> Any:
        """Return a value with marks where it names instances, for a class that does not tell what it takes."""
        if isinstance(value, str) and value in self._homes:
            names.append(value)
            return InstanceName(value)
        return [self._marked(item, names) for item in value] if isinstance(value, list) else value

    def _import(self, instance: Instance) -> None:
        path = (instance.section, instance.name)
        try:
            target = import_target(instance.class_name)
            require_kind(target, instance.section, instance.class_name)
            plugin = PluginClass(instance.section, instance.class_name, options_of(target), target)
        except ConfigError as error:
            self._note((*path, _CLASS), str(error))
            return
        self._check_options(instance, plugin, self._document.data[instance.section][instance.name])

    def _may_be_named(self, name: str) -> bool:
        """Tell whether a class that is not imported yet may refer to an instance."""
        return any(
            _mentions(self._document.data[one.section][one.name], name)
            for one in self.found.values()
            if one.plugin is None
        )

    def _check_cycles(self) -> None:
        done: set[str] = set()

        def visit(name: str, chain: list[str]) -> None:
            if name in chain:
                one = self.found[name]
                files = ' -> '.join([*chain[chain.index(name) :], name])
                self._note((one.section, name), f'the instances refer to each other: {files}')
                done.update(chain)
            elif name not in done and name in self.found:
                for other in self.found[name].refers_to:
                    visit(other, [*chain, name])
                done.add(name)

        for name in self.found:
            visit(name, [])


def _is_path(class_name: str) -> bool:
    return '.' in class_name or ':' in class_name


def _is_builtin(plugin: PluginClass) -> bool:
    return isinstance(plugin.target, str) and plugin.target.startswith('paddleslim_ng.')


def _mentions(value: Any, name: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(item, name) for item in value.values())
    return any(_mentions(item, name) for item in value) if isinstance(value, list) else value == name
