"""The classes that a configuration may name, section by section."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, Union

from pydantic import BaseModel

from paddleslim_ng.compress.configuration.builtin_classes import BUILTIN, PLANNED, SECTIONS
from paddleslim_ng.compress.configuration.known_keys import one_of
from paddleslim_ng.compress.configuration.signatures import options_of
from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['SECTIONS', 'PluginClass', 'Registry', 'import_target', 'split_target']

_Target = Union[str, Callable[..., Any]]
_MaybeModel = Optional[type[BaseModel]]


@dataclass(frozen=True)
class PluginClass:
    """A class that a configuration may name.

    Attributes:
        section: where it may stand, such as ``'strategies'``.
        name: what files call it.
        options: model of its keys.
        target: the class, or ``'module:Class'``, which is imported when an instance is made.
    """

    section: str
    name: str
    options: type[BaseModel]
    target: _Target

    def load(self) -> Callable[..., Any]:
        """Return the class itself.

        Raises:
            ConfigError: it cannot be imported.
        """
        return import_target(self.target) if isinstance(self.target, str) else self.target

    def create(self, options: BaseModel) -> Any:
        """Make an instance: of its options as one object where the class has ``Options``, else of keyword arguments."""
        made = self.load()
        if isinstance(getattr(made, 'Options', None), type):
            return made(options)
        return made(**{name: getattr(options, name) for name in type(options).model_fields})


class Registry:
    """Plugin classes by section and name, to begin with those of this package.

    Example:
        >>> registry = Registry()
        >>> registry.register('strategies', 'FreezeLayers', FreezeLayers)
        >>> config = load_config('compress.yaml', registry=registry)
    """

    def __init__(self) -> None:
        self._classes: dict[str, dict[str, PluginClass]] = {section: {} for section in SECTIONS}
        for section, name, options, target in BUILTIN:
            self._classes[section][name] = PluginClass(section, name, options, target)

    def register(self, section: str, name: str, plugin: _Target, options: _MaybeModel = None) -> PluginClass:
        """Add a class.

        Args:
            section: ``'pruners'``, ``'distillers'``, ``'quantizers'``, ``'strategies'`` or ``'controllers'``.
            name: what files call it.
            plugin: the class, or ``'module:Class'`` together with ``options``.
            options: pydantic model of its keys; by default its attribute ``Options``, or else made of the arguments of
                its constructor.

        Raises:
            ConfigError: an unknown section, a name that is taken or looks like a path, or a constructor whose arguments
                cannot be told.
        """
        if section not in self._classes:
            raise ConfigError(
                f'there is no section {section!r}{nearest_names(section, SECTIONS)}; known: {", ".join(SECTIONS)}'
            )
        if not name.isidentifier():
            raise ConfigError(f'the name of a plugin class is an identifier, not {name!r}')
        if name in self._classes[section]:
            raise ConfigError(f'{section} has a class {name!r} already')
        if options is None:
            if isinstance(plugin, str):
                raise ConfigError(f'{name!r} is given by its path {plugin!r}: give the model of its options, too')
            options = options_of(plugin)
        made = PluginClass(section, name, options, plugin)
        self._classes[section][name] = made
        return made

    def classes(self, section: str) -> dict[str, PluginClass]:
        """Return the classes of a section, by name."""
        return dict(self._classes[section])

    def find(self, section: str, name: str) -> PluginClass:
        """Return a class.

        Raises:
            ConfigError: there is none of this name.
        """
        found = self._classes[section].get(name)
        if found is not None:
            return found
        elsewhere = [other for other, classes in self._classes.items() if name in classes]
        if elsewhere:
            raise ConfigError(f'{name!r} belongs to the section {elsewhere[0]}, not to {section}')
        if name in PLANNED:
            raise ConfigError(f'{name!r} is not available: {PLANNED[name]}')
        known = sorted(self._classes[section])
        listed = one_of(name, known) or f'; {section} has no classes of its own'
        own = '' if listed.endswith('?') else '; a class of your own is named by its path, such as my_module.MyClass'
        raise ConfigError(f'unknown class {name!r}{listed}{own}')


def split_target(path: str) -> tuple[str, str]:
    """Return the module and the name that a path of a class consists of.

    Raises:
        ConfigError: it is no such path.
    """
    module, mark, name = path.partition(':') if ':' in path else path.rpartition('.')
    if not (mark and name.isidentifier() and all(part.isidentifier() for part in module.split('.'))):
        raise ConfigError(f'{path!r} is no path of a class, such as my_package.my_module.MyClass')
    return module, name


def import_target(path: str) -> Callable[..., Any]:
    """Import a class by its path, ``package.module.Class`` or ``package.module:Class``.

    Raises:
        ConfigError: the module or the name does not exist, or the module raises an error.
    """
    module, name = split_target(path)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f'there is no module {error.name!r}' if error.name else str(error)
        raise ConfigError(f'{path!r} cannot be imported: {missing}; is its folder on PYTHONPATH?') from error
    except Exception as error:  # whatever a user's module raises is told with its place in the file
        raise ConfigError(f'{path!r} cannot be imported: {type(error).__name__}: {error}') from error
    found = getattr(loaded, name, None)
    if found is None:
        raise ConfigError(f'{path!r} cannot be imported: the module has no {name!r}{nearest_names(name, dir(loaded))}')
    made: Callable[..., Any] = found
    return made
