"""Which keys there are where an unknown one stands, and what was meant by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from paddleslim_ng.compress.configuration.problems import KeyPath
from paddleslim_ng.errors import nearest_names

__all__ = ['keys_of', 'models_at', 'one_of', 'other_names', 'unknown_key']


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys that a model has in a file."""
    return [_alias(field) or name for name, field in model.model_fields.items()]


def other_names(model: type[BaseModel]) -> list[tuple[str, str]]:
    """Return the keys of a model that have another name, with that name."""
    return [
        (_alias(field) or name, str(other))
        for name, field in model.model_fields.items()
        for other in getattr(field.validation_alias, 'choices', [])[1:]
    ]


def one_of(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known ones, or all of them."""
    return nearest_names(name, known) or (f'; known: {", ".join(known)}' if known else '')


def unknown_key(name: str, models: Sequence[type[BaseModel]]) -> str:
    """Say of a key that none of the models has it, and what was meant."""
    for model in models:
        if name in getattr(model, 'former_keys', {}):
            return f'is a key of older releases: {model.former_keys[name]}'  # type: ignore[attr-defined]
        for key, other in other_names(model):
            if name == other:
                return f'is another name of {key}, which is given, too'
    return f'unknown key{one_of(name, sorted({key for model in models for key in keys_of(model)}))}'


def models_at(model: type[BaseModel], path: KeyPath, data: Mapping[str, Any]) -> list[type[BaseModel]]:
    """Return the model, or those below it, in which a key stands."""
    found: list[type[BaseModel]] = [model]
    value: Any = data
    for part in path[:-1]:
        value = value[part]
        if isinstance(part, str):
            found = [
                inner
                for one in found
                for name, field in one.model_fields.items()
                if part in (name, _alias(field))
                for inner in _models(field.annotation)
            ]
    tag = value.get('type') if isinstance(value, Mapping) else None
    tagged = [one for one in found if tag is not None and _tag(one) == tag]
    return tagged or found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, '__args__', ()) for model in _models(part)]


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get('type')
    names = getattr(field.annotation, '__args__', ()) if field is not None else ()
    return names[0] if names else None


def _alias(field: Any) -> str | None:
    choices = getattr(field.validation_alias, 'choices', None)
    return str(choices[0]) if choices else None
