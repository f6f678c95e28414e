"""The metrics that a configuration decides by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from paddleslim_ng.errors import ConfigError, nearest_names

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration import CompressionConfig

__all__ = ['metrics_asked_for', 'with_metric']

_OPTION: Final = 'metric_name'


def metrics_asked_for(config: CompressionConfig) -> list[str]:
    """Return the metrics that a configuration names: to watch, or for strategies to decide by; each once."""
    named = [
        getattr(one.options, _OPTION)
        for one in config.instances.values()
        if one.options is not None and _OPTION in one.options.model_fields_set
    ]
    watched = config.compressor.monitor
    return list(dict.fromkeys([*([watched] if watched is not None else []), *named]))


def with_metric(config: CompressionConfig, known: Sequence[str]) -> CompressionConfig:
    """Return a configuration in which strategies that leave ``metric_name`` open decide by the first known metric.

    Args:
        config: as it was read.
        known: what an evaluation finds.

    Raises:
        ConfigError: it names a metric that no evaluation finds.
    """
    for name in metrics_asked_for(config):
        if name not in known:
            raise ConfigError(
                f'{config.file} decides by the metric {name!r}, and evaluated are {list(known)}'
                f'{nearest_names(name, known)}'
            )
    instances = {}
    for name, one in config.instances.items():
        options = one.options
        if options is not None and _OPTION in type(options).model_fields and _OPTION not in options.model_fields_set:
            options = options.model_copy(update={_OPTION: known[0]})
        instances[name] = replace(one, options=options)
    return replace(config, instances=instances)
