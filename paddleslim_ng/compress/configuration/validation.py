"""Checking values against a model, and saying in plain words, with the place, what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.known_keys import models_at, one_of, unknown_key
from paddleslim_ng.compress.configuration.problems import KeyPath, Problems
from paddleslim_ng.compress.configuration.values import FieldError

__all__ = ['check_model', 'shown', 'without_none']

_NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?')
# What a value had to be, by the kind of pydantic's error.
_TYPES: Final[Mapping[str, str]] = {
    'bool_type': 'true or false',
    'int_type': 'a whole number',
    'int_from_float': 'a whole number',
    'float_type': 'a number',
    'string_type': 'text',
    'list_type': 'a list',
    'dict_type': 'a mapping',
    'mapping_type': 'a mapping',
    'model_type': 'a mapping',
    'model_attributes_type': 'a mapping',
    'none_required': 'none',
    'finite_number': 'a finite number',
    'tuple_type': 'a list',
    'set_type': 'a list',
}
_RANGES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    'greater_than': lambda ctx: f'above {_plain(ctx["gt"])}',
    'greater_than_equal': lambda ctx: f'at least {_plain(ctx["ge"])}',
    'less_than': lambda ctx: f'below {_plain(ctx["lt"])}',
    'less_than_equal': lambda ctx: f'at most {_plain(ctx["le"])}',
    'string_too_short': lambda ctx: 'text that is not empty',
    'too_short': lambda ctx: f'a list of at least {_entries(ctx["min_length"])}',
    'too_long': lambda ctx: f'a list of at most {_entries(ctx["max_length"])}',
    'literal_error': lambda ctx: _choice(ctx['expected'].replace(' or ', ', ')),
}


def check_model(
    model: type[BaseModel], data: Mapping[str, Any], document: Document, path: KeyPath, problems: Problems
) -> BaseModel | None:
    """Return an instance of a model, or note what is wrong with its data.

    Args:
        model: what is wanted.
        data: the values at ``path``.
        document: knows where they stand.
        path: of the mapping.
        problems: gets what is wrong.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        told = [_Told(details, data) for details in error.errors(include_url=False)]
        for group in _by_place(told):
            _note(group, model, data, document, path, problems)
        return None


def shown(value: Any) -> str:
    """Return a value for a message as YAML has it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return 'nothing' if value is None else str(value).lower()
    text = repr(value) if not isinstance(value, dict) else 'a mapping'
    return text if len(text) <= 60 else text[:57] + '...'


def without_none(value: Any) -> Any:
    """Return a value with None for the words ``none`` and ``None``, as older files write it."""
    if isinstance(value, str):
        return None if value in ('none', 'None') else value
    if isinstance(value, list):
        return [without_none(item) for item in value]
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items()}
    return value


class _Told:
    """One error of pydantic with the path that is really there: tags of unions are left out."""

    def __init__(self, details: ErrorDetails, data: Mapping[str, Any]) -> None:
        self.kind = details['type']
        self.input = details.get('input')
        self.context: Mapping[str, Any] = details.get('ctx') or {}
        self.message = details['msg']
        self.path = _real_path(details['loc'], data, missing=self.kind == 'missing')
        if self.kind in ('union_tag_invalid', 'union_tag_not_found'):
            self.path = (*self.path, 'type')
        error = self.context.get('error')
        if isinstance(error, FieldError) and error.field:
            self.path = (*self.path, error.field)

    @property
    def about_type(self) -> bool:
        """Whether another branch of a union may want this value."""
        return self.kind in _TYPES or self.kind == 'literal_error'


def _real_path(location: Sequence[str | int], data: Any, *, missing: bool) -> KeyPath:
    path: list[str | int] = []
    for number, part in enumerate(location):
        last = number == len(location) - 1
        inside_map = isinstance(data, Mapping) and part in data
        inside_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside_map or inside_list:
            path.append(part)
            data = data[part]
        elif last and missing:
            path.append(part)
    return tuple(path)


def _by_place(told: Sequence[_Told]) -> list[list[_Told]]:
    """Group errors about one value; where a branch of a union got further into it, the others do not count."""
    groups: dict[KeyPath, list[_Told]] = {}
    for item in told:
        groups.setdefault(item.path, []).append(item)
    return [
        group
        for path, group in groups.items()
        if not (
            all(item.about_type for item in group)
            and any(len(other) > len(path) and other[: len(path)] == path for other in groups)
        )
    ]


def _note(
    group: Sequence[_Told],
    model: type[BaseModel],
    data: Mapping[str, Any],
    document: Document,
    path: KeyPath,
    problems: Problems,
) -> None:
    first = group[0]
    whole = (*path, *first.path)
    if first.kind == 'extra_forbidden':
        problems.add(document.place_of(whole), whole, unknown_key(str(whole[-1]), models_at(model, first.path, data)))
    elif first.kind in ('missing', 'union_tag_not_found'):
        problems.add(document.place_of(whole[:-1]), whole, 'is missing')
    elif first.kind == 'union_tag_invalid':
        known = [name.strip("' ") for name in first.context['expected_tags'].split(',')]
        message = f'unknown type {shown(first.context["tag"])}{one_of(str(first.context["tag"]), known)}'
        problems.add(document.place_of(whole), whole, message)
    else:
        problems.add(document.place_of(whole), whole, _message(group))


def _message(group: Sequence[_Told]) -> str:
    value = group[0].input
    for item in group:
        if item.kind in ('value_error', 'assertion_error'):
            return str(item.context['error'])
    # A range or length is told rather than the types of a union's other branches.
    ranged = [item for item in group if item.kind in _RANGES and item.kind != 'literal_error']
    wanted = list(dict.fromkeys(_wanted(item) for item in ranged or group))
    if any(item is None for item in wanted):
        return group[0].message[:1].lower() + group[0].message[1:]
    words = [word for word in wanted if word is not None]
    tagged = isinstance(value, str) and group[0].kind == 'model_attributes_type'
    hint = f': write {{type: {value}}}' if tagged else _hint(words, value)
    return f'must be {" or ".join(words)}, not {shown(value)}{hint}'


def _wanted(item: _Told) -> str | None:
    return _TYPES.get(item.kind) or (_RANGES[item.kind](item.context) if item.kind in _RANGES else None)


def _hint(words: Sequence[str], value: Any) -> str:
    if isinstance(value, str) and any('number' in word for word in words):
        if _NUMBER.fullmatch(value):
            return ': write it without quotes'
        if value.endswith('%') and _NUMBER.fullmatch(value[:-1]):
            return f': write {float(value[:-1]) / 100:g}'
    if 'text' in words and not isinstance(value, (str, list, dict)) and value is not None:
        return ': write it in quotes'
    if all(word.startswith('a list') for word in words) and isinstance(value, str):
        return f': write [{value}]'
    if 'true or false' in words and isinstance(value, str) and value.lower() in ('true', 'false'):
        return ': write it without quotes'
    return ''


def _choice(listed: str) -> str:
    return f'one of {listed}' if ',' in listed else listed


def _entries(count: int) -> str:
    return f'{count} {"entry" if count == 1 else "entries"}'


def _plain(number: Any) -> str:
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)
