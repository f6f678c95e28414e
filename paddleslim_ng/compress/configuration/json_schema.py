"""The JSON schema of configurations, by which editors complete and check them while they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from paddleslim_ng.compress.configuration.act_sections import ACT_MODELS, FORMER_SECTIONS
from paddleslim_ng.compress.configuration.compressor_settings import CompressorSettings
from paddleslim_ng.compress.configuration.known_keys import other_names
from paddleslim_ng.compress.configuration.registry import SECTIONS, PluginClass, Registry

__all__ = ['json_schema']

_REFERENCE = '#/$defs/{model}'
_ID = 'urn:paddleslim-ng:compress:1.0'
_MaybeRegistry = Optional[Registry]


def json_schema(registry: _MaybeRegistry = None) -> dict[str, Any]:
    """Return the schema of files, this package's and PaddleSlim's, in JSON Schema 2020-12.

    Classes that are named by a path may have any keys.

    Args:
        registry: the plugin classes; those of this package where None.
    """
    classes = registry if registry is not None else Registry()
    found = {section: classes.classes(section) for section in SECTIONS}
    models: list[type[BaseModel]] = [plugin.options for rows in found.values() for plugin in rows.values()]
    models += [CompressorSettings, *ACT_MODELS.values()]
    keys, definitions = models_json_schema(
        [(model, 'validation') for model in dict.fromkeys(models)], ref_template=_REFERENCE
    )
    names: dict[Any, str] = {model: reference['$ref'] for (model, _), reference in keys.items()}
    rows_of = {section: _rows(rows, names, definitions['$defs']) for section, rows in found.items()}
    native = {
        'version': {'const': 1.0, 'description': 'Version of the schema.'},
        'include': _include(),
        **{section: _section(rows) for section, rows in rows_of.items()},
        'compressor': {'$ref': names[CompressorSettings]},
    }
    translated = {
        'version': native['version'],
        'include': native['include'],
        'Global': {'type': ['object', 'null'], 'description': 'Settings of your own script, and where the model is.'},
        **{name: _or_nothing(names[model]) for name, model in ACT_MODELS.items()},
        **{old: {**_or_nothing(names[ACT_MODELS[new]]), 'deprecated': True} for old, new in FORMER_SECTIONS.items()},
    }
    return {
        '$schema': 'https://json-schema.org/draft/2020-12/schema',
        '$id': _ID,
        'title': 'Configuration of the Compressor',
        'description': "Sections of this package, or those of PaddleSlim's AutoCompression.",
        # Told apart by a section, so that an editor speaks of the keys of one kind of file alone.
        'if': {'anyOf': [{'required': [name]} for name in translated if name not in native]},
        'then': {'type': 'object', 'properties': translated, 'additionalProperties': False},
        'else': {'type': 'object', 'properties': native, 'additionalProperties': False, 'required': ['version']},
        '$defs': definitions['$defs'],
    }


def _or_nothing(reference: str) -> dict[str, Any]:
    return {'anyOf': [{'$ref': reference}, {'type': 'null'}]}


def _include() -> dict[str, Any]:
    return {
        'description': 'Files, relative to this one, whose entries are added.',
        'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}],
    }


def _rows(
    plugins: Mapping[str, PluginClass], names: Mapping[Any, str], definitions: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the schema of each class: that of its options, with the key ``class`` and other names of keys."""
    found = {}
    for name, plugin in plugins.items():
        options = definitions[names[plugin.options].rpartition('/')[2]]
        own = {'class': {'const': name, 'description': options.get('description', '')}}
        keys = options.get('properties', {})
        for field, alias in other_names(plugin.options):
            own[alias] = keys[field]
        found[name] = {**options, 'properties': {**own, **keys}}
    return found


def _section(classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a plugin section: each entry has the keys of its class."""
    return {
        'type': ['object', 'null'],
        'additionalProperties': {
            'type': 'object',
            'required': ['class'],
            'properties': {'class': {'anyOf': [{'enum': list(classes)}, {'type': 'string', 'pattern': '[.:]'}]}},
            'allOf': [
                {
                    'if': {'properties': {'class': {'const': name}}},
                    'then': schema,
                }
                for name, schema in classes.items()
            ],
        },
    }
