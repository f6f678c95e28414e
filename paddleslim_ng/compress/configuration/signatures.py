"""The keys of a class that a user wrote: its ``Options``, or the arguments of its constructor."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, TypeAdapter, create_model
from pydantic.errors import PydanticUndefinedAnnotation

from paddleslim_ng.errors import ConfigError

__all__ = ['accepts_text', 'options_of']

_KEYS = ConfigDict(extra='forbid', strict=True, frozen=True, arbitrary_types_allowed=True, protected_namespaces=())
_CONVERTED = (tuple, set, frozenset)


def options_of(plugin: Callable[..., Any]) -> type[BaseModel]:
    """Return the model of a class's keys.

    Args:
        plugin: a class with a pydantic model ``Options``, or with a constructor of named arguments. An argument without
            annotation takes anything.

    Raises:
        ConfigError: the constructor takes ``*args`` or ``**kwargs``, or cannot be inspected.
    """
    given = getattr(plugin, 'Options', None)
    if isinstance(given, type):
        if not issubclass(given, BaseModel):
            raise ConfigError(f'{_name(plugin)}.Options is no pydantic model')
        return given
    fields: dict[str, Any] = {}
    for parameter in _parameters(plugin):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(
                f'the constructor of {_name(plugin)} takes {str(parameter)!r}, which does not tell the keys of a '
                'configuration: name its arguments, or give the class a pydantic model Options'
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (_annotation(plugin, parameter), default)
    model: type[BaseModel] = create_model(_name(plugin), __config__=_KEYS, **fields)
    return model


def accepts_text(model: type[BaseModel], field: str) -> bool:
    """Tell whether a field asks for text, so that the name of an instance is that text and not the instance."""
    annotation = model.model_fields[field].annotation
    return annotation is not Any and not _is_class(annotation) and str in _members(annotation)


def _parameters(plugin: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(plugin).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f'the constructor of {_name(plugin)} cannot be inspected: {error}') from error


def _annotation(plugin: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return what an argument takes; anything where that cannot be told, or where it is an object of some class."""
    owner = plugin.__init__ if inspect.isclass(plugin) else plugin
    try:
        annotation = typing.get_type_hints(owner, include_extras=True).get(parameter.name, Any)
    except (NameError, TypeError, AttributeError):
        return Any
    if annotation in _CONVERTED or typing.get_origin(annotation) in _CONVERTED:
        return Annotated[annotation, Field(strict=False)]
    try:
        TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return Any
    return annotation


def _members(annotation: Any) -> set[Any]:
    found = {annotation}
    for part in typing.get_args(annotation):
        found |= _members(part)
    return found


def _is_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and annotation not in (str, list, dict)


def _name(plugin: Callable[..., Any]) -> str:
    return getattr(plugin, '__name__', type(plugin).__name__)
