"""A configuration of this package while it is put together from the sections of a file of PaddleSlim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.problems import ConfigurationError, KeyPath, Place, Problem

__all__ = ['Draft']


class Draft:
    """A configuration that is being put together from the sections of a file.

    Attributes:
        compressor: the section of that name.
        origins: keys of the file by keys of the draft.
        notes: where the meaning differs.
    """

    def __init__(self, source: Document) -> None:
        self._source = source
        self._sections: dict[str, dict[str, Any]] = {}
        self._order: list[str] = []
        self.compressor: dict[str, Any] = {}
        self.origins: dict[KeyPath, KeyPath] = {}
        self.notes: list[Problem] = []

    def add(self, section: str, name: str, class_name: str, options: Mapping[str, Any], origin: str) -> None:
        """Add an instance of a plugin.

        Args:
            section: where it belongs.
            name: of the instance; strategies are called in the order of their addition.
            class_name: its class.
            options: its keys.
            origin: the section of the file that it comes from.
        """
        self._sections.setdefault(section, {})[name] = {'class': class_name, **options}
        self.origins[(section, name)] = (origin,)
        if section == 'strategies':
            self._order.append(name)

    def note(self, path: KeyPath, message: str) -> None:
        """Say that a key of the file means something else here."""
        self.notes.append(Problem(self._source.place_of(path), path, message))

    def refuse(self, path: KeyPath, message: str) -> ConfigurationError:
        """Return the error for a key of the file."""
        return ConfigurationError.at(self._source.place_of(path), message, path)

    def finish(self) -> Document:
        """Return the whole, with the places of the file."""
        data = {
            'version': 1.0,
            **self._sections,
            'compressor': {'epoch': 0, **self.compressor, 'strategies': self._order},
        }
        places: dict[KeyPath, Place] = {(): self._source.place_of(())}
        for path, origin in self.origins.items():
            places[path] = self._source.place_of(origin)
            for known, place in self._source.places.items():
                if known[: len(origin)] == origin:
                    places.setdefault((*path, *known[len(origin) :]), place)
        return Document(data, self._source.file, places)
