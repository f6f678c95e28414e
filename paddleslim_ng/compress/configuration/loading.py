"""From a file, or a mapping, to a configuration that is valid as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional, Union

from paddleslim_ng.compress.configuration.act import ACT_SECTIONS, translate_act
from paddleslim_ng.compress.configuration.clashes import check_quantizers, check_strategies
from paddleslim_ng.compress.configuration.compressor_settings import CompressorSettings
from paddleslim_ng.compress.configuration.configuration import CompressionConfig
from paddleslim_ng.compress.configuration.document import Document, read_mapping
from paddleslim_ng.compress.configuration.includes import INCLUDE, read_with_includes
from paddleslim_ng.compress.configuration.instances import Instances
from paddleslim_ng.compress.configuration.known_keys import one_of
from paddleslim_ng.compress.configuration.problems import ConfigurationError, Place, Problems
from paddleslim_ng.compress.configuration.registry import SECTIONS, Registry
from paddleslim_ng.compress.configuration.timing import check_times
from paddleslim_ng.compress.configuration.validation import check_model, shown, without_none
from paddleslim_ng.errors import nearest_names

__all__ = ['VERSION', 'load_config']

VERSION = '1.0'
_COMPRESSOR = 'compressor'
_STRATEGIES = 'strategies'
_TOP = ('version', INCLUDE, *SECTIONS, _COMPRESSOR)
_Source = Union[str, 'os.PathLike[str]', Mapping[str, Any]]
_MaybeRegistry = Optional[Registry]


def load_config(
    source: _Source, registry: _MaybeRegistry = None, *, import_classes: bool = True, epochs: int = 0
) -> CompressionConfig:
    """Read and check a configuration, this package's or one of PaddleSlim's AutoCompression.

    Nothing is written, and nothing of the user's is imported before everything else is known to be valid.

    Args:
        source: a YAML file, or a mapping of the same structure (without ``include``).
        registry: the plugin classes; those of this package where None.
        import_classes: import classes that are named by a path, and check their keys.
        epochs: length of the job where ``compressor`` does not say ``epoch``.

    Raises:
        ConfigurationError: with ``file:line: key: what is wrong`` for each problem.

    Example:
        >>> config = load_config('compress.yaml')
        >>> for strategy in config.create_strategies():
        ...     compressor.add_strategy(strategy)
    """
    if isinstance(source, Mapping):
        document = read_mapping(source)
        if INCLUDE in document.data:
            raise ConfigurationError.at(Place(document.file), 'is for files alone', (INCLUDE,))
    else:
        document = read_with_includes(source)
    found = registry if registry is not None else Registry()
    if any(name in ACT_SECTIONS for name in document.data):
        translated = translate_act(document)
        try:
            config = _checked(translated.document, found, import_classes, epochs)
        except ConfigurationError as error:
            raise translated.told_by_file(error) from error
        return replace(
            config,
            settings=translated.settings,
            saved_model=translated.saved_model,
            notes=(*translated.notes, *config.notes),
        )
    return _checked(document, found, import_classes, epochs)


def _checked(document: Document, registry: Registry, import_classes: bool, epochs: int) -> CompressionConfig:
    problems = Problems()
    _check_top(document, problems)
    instances = Instances(document, registry, problems)
    check_quantizers(instances.found, registry, document, problems)
    settings = _compressor(document, instances, problems, epochs)
    problems.raise_if_any()
    config = CompressionConfig(document.file, VERSION, settings or CompressorSettings(), instances.found)
    check_times(config, document, problems)
    check_strategies(config, document, problems)
    problems.raise_if_any()
    if import_classes:
        instances.import_classes()
        problems.raise_if_any()
        check_times(config, document, problems)
        problems.raise_if_any()
    return replace(config, notes=tuple(instances.unused(config.compressor.strategies)))


def _check_top(document: Document, problems: Problems) -> None:
    for name, value in document.data.items():
        if name not in _TOP:
            problems.add(
                document.place_of((name,)),
                (name,),
                f'unknown section{nearest_names(name, (*_TOP, *ACT_SECTIONS)) or one_of(name, _TOP)}',
            )
        elif name in (*SECTIONS, _COMPRESSOR) and value is not None and not isinstance(value, dict):
            problems.add(document.place_of((name,)), (name,), _no_mapping(name, value))
    version = document.data.get('version')
    if version is None:
        problems.add(document.place_of(()), (), f'version is missing: write version: {VERSION}')
    elif isinstance(version, bool) or str(version) not in (VERSION, '1'):
        problems.add(
            document.place_of(('version',)), ('version',), f'is {shown(version)}, and this release reads {VERSION}'
        )


def _no_mapping(section: str, value: Any) -> str:
    wanted = 'settings' if section == _COMPRESSOR else 'instances, name: {class: ...}'
    listed = section == _STRATEGIES and isinstance(value, list)
    hint = f'; those that run are listed in {_COMPRESSOR}.{_STRATEGIES}' if listed else ''
    return f'must be a mapping of {wanted}, not {shown(value)}{hint}'


def _compressor(document: Document, instances: Instances, problems: Problems, epochs: int) -> CompressorSettings | None:
    given = document.data.get(_COMPRESSOR)
    if given is None:
        problems.add(document.place_of((_COMPRESSOR,)), (), f'the section {_COMPRESSOR} is missing')
    if not isinstance(given, dict):
        return None
    stated = {**({'epoch': epochs} if epochs else {}), **without_none(given)}
    settings = check_model(CompressorSettings, stated, document, (_COMPRESSOR,), problems)
    if not isinstance(settings, CompressorSettings):
        return None
    known = instances.names(_STRATEGIES)
    readable = isinstance(document.data.get(_STRATEGIES) or {}, dict)
    for number, name in enumerate(settings.strategies if readable else ()):
        if name not in known:
            path = (_COMPRESSOR, _STRATEGIES, number)
            problems.add(document.place_of(path), path, instances.unknown(name, _STRATEGIES))
    if known and _STRATEGIES not in given:
        problems.add(
            document.place_of((_COMPRESSOR,)),
            (_COMPRESSOR, _STRATEGIES),
            f'is missing, and nothing would run: list some of {", ".join(known)}',
        )
    return settings
