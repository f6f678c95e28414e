"""As much of JSON Schema as this package's schema uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

TYPES: dict[str, Callable[[Any], bool]] = {
    'object': lambda value: isinstance(value, dict),
    'array': lambda value: isinstance(value, list),
    'string': lambda value: isinstance(value, str),
    'boolean': lambda value: isinstance(value, bool),
    'null': lambda value: value is None,
    'integer': lambda value: isinstance(value, int) and not isinstance(value, bool),
    'number': lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    'minimum': lambda value, bound: value >= bound,
    'maximum': lambda value, bound: value <= bound,
    'exclusiveMinimum': lambda value, bound: value > bound,
    'exclusiveMaximum': lambda value, bound: value < bound,
}
LENGTHS: dict[str, Callable[[Any, Any], bool]] = {
    'minLength': lambda value, bound: not isinstance(value, str) or len(value) >= bound,
    'minItems': lambda value, bound: not isinstance(value, list) or len(value) >= bound,
    'maxItems': lambda value, bound: not isinstance(value, list) or len(value) <= bound,
}
SILENT = {'title', 'description', 'default', 'discriminator', '$schema', '$id', '$defs', 'deprecated', 'then', 'else'}


class Schema:
    """A schema that tells whether a value fits; a keyword that it does not know is an error."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.whole = schema

    def accepts(self, value: Any, schema: Any = None) -> bool:
        schema = self.whole if schema is None else schema
        if isinstance(schema, bool):
            return schema
        return all(self._keyword(name, rule, value, schema) for name, rule in schema.items())

    def _keyword(self, name: str, rule: Any, value: Any, schema: dict[str, Any]) -> bool:
        if name in BOUNDS:
            return not TYPES['number'](value) or BOUNDS[name](value, rule)
        if name in LENGTHS:
            return LENGTHS[name](value, rule)
        if name in SILENT:
            return True
        found: bool = getattr(self, '_' + name.lstrip('$').replace('const', 'constant'))(rule, value, schema)
        return found

    def _ref(self, rule: str, value: Any, schema: Any) -> bool:
        return self.accepts(value, self.whole['$defs'][rule.removeprefix('#/$defs/')])

    def _type(self, rule: Any, value: Any, schema: Any) -> bool:
        return any(TYPES[one](value) for one in (rule if isinstance(rule, list) else [rule]))

    def _enum(self, rule: Any, value: Any, schema: Any) -> bool:
        return value in rule

    def _constant(self, rule: Any, value: Any, schema: Any) -> bool:
        return bool(value == rule)

    def _pattern(self, rule: str, value: Any, schema: Any) -> bool:
        return not isinstance(value, str) or re.search(rule, value) is not None

    def _anyOf(self, rule: Any, value: Any, schema: Any) -> bool:
        return any(self.accepts(value, one) for one in rule)

    def _oneOf(self, rule: Any, value: Any, schema: Any) -> bool:
        return sum(self.accepts(value, one) for one in rule) == 1

    def _allOf(self, rule: Any, value: Any, schema: Any) -> bool:
        return all(self.accepts(value, one) for one in rule)

    def _if(self, rule: Any, value: Any, schema: Any) -> bool:
        return self.accepts(value, schema.get('then' if self.accepts(value, rule) else 'else', True))

    def _required(self, rule: Any, value: Any, schema: Any) -> bool:
        return not isinstance(value, dict) or set(rule) <= set(value)

    def _items(self, rule: Any, value: Any, schema: Any) -> bool:
        return not isinstance(value, list) or all(self.accepts(item, rule) for item in value)

    def _propertyNames(self, rule: Any, value: Any, schema: Any) -> bool:
        return not isinstance(value, dict) or all(self.accepts(key, rule) for key in value)

    def _properties(self, rule: Any, value: Any, schema: Any) -> bool:
        return not isinstance(value, dict) or all(self.accepts(value[key], rule[key]) for key in rule if key in value)

    def _additionalProperties(self, rule: Any, value: Any, schema: Any) -> bool:
        others = set(value) - set(schema.get('properties', ())) if isinstance(value, dict) else ()
        return all(self.accepts(value[key], rule) for key in others)
