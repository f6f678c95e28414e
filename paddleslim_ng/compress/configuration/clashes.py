"""Instances that do not go together: what one of them says is passed over, or the job would end in an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from paddleslim_ng.compress.configuration.configuration import CompressionConfig, Instance
from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.options import (
    AlternationOptions,
    DistillationOptions,
    GreedyPruneOptions,
    PostTrainingQuantOptions,
    PruneOptions,
    QuantizationOptions,
)
from paddleslim_ng.compress.configuration.problems import KeyPath, Problems
from paddleslim_ng.compress.configuration.registry import Registry
from paddleslim_ng.compress.configuration.timing import Span, spans

__all__ = ['check_quantizers', 'check_strategies']

# How scales come about.
_SCALES: Final = ('weight_quantize_type', 'activation_quantize_type', 'moving_rate', 'window_size', 'use_pact')


def check_quantizers(
    instances: Mapping[str, Instance], registry: Registry, document: Document, problems: Problems
) -> None:
    """Note where a strategy says what its quantizer says; what a class of the user's says is not known.

    Args:
        instances: by name.
        registry: the classes.
        document: knows where they stand.
        problems: gets what is wrong.
    """
    known = registry.classes('quantizers')
    for one in instances.values():
        if not isinstance(one.options, QuantizationOptions) or one.options.quantizer not in instances:
            continue
        quantizer = instances[one.options.quantizer]
        if quantizer.class_name not in known:
            continue
        for key in _SCALES:
            if key in one.options.model_fields_set:
                path = (one.section, one.name, key)
                problems.add(
                    document.place_of(path), path, f'is what the quantizer {quantizer.name!r} is for: leave it out'
                )


def check_strategies(config: CompressionConfig, document: Document, problems: Problems) -> None:
    """Note strategies of a job that cannot act in one network.

    Args:
        config: the whole.
        document: knows where its entries stand.
        problems: gets what is wrong.
    """
    found = (*_listed_twice(config), *_quantized_twice(config), *_taught_twice(config), *_cut_too_late(config))
    for path, message in found:
        problems.add(document.place_of(path), path, message)


def _listed(config: CompressionConfig, name: str) -> KeyPath:
    return ('compressor', 'strategies', config.compressor.strategies.index(name))


def _listed_twice(config: CompressionConfig) -> Iterator[tuple[KeyPath, str]]:
    for rounds in _of_kind(config, AlternationOptions):
        options: Any = rounds.options
        for name in options.strategies:
            if name in config.compressor.strategies:
                yield (
                    _listed(config, name),
                    f'{name!r} acts in the rounds of {rounds.name!r}: leave it out here',
                )
            elif isinstance(config.instances[name].options, QuantizationOptions) and options.rounds > 1:
                message = f'{name!r} brings integers, which stay until the end: list it beside the rounds'
                yield (rounds.section, rounds.name, 'strategies'), message


def _quantized_twice(config: CompressionConfig) -> Iterator[tuple[KeyPath, str]]:
    trained = _of_kind(config, QuantizationOptions)
    for other in [*trained[1:], *_of_kind(config, PostTrainingQuantOptions)] if trained else ():
        yield _listed(config, other.name), f'{trained[0].name!r} brings integers into the network: keep one of the two'


def _taught_twice(config: CompressionConfig) -> Iterator[tuple[KeyPath, str]]:
    taught = [one.name for one in _of_kind(config, DistillationOptions)]
    found: list[Span] = []
    for span in spans(config):
        if span.name not in taught:
            continue
        for other in found:
            if max(span.start, other.start) < min(span.end, other.end):
                message = (
                    f'{other.name!r} distills in the same epochs: let one follow the other, or join their distillers'
                )
                yield _listed(config, span.name), message
        found.append(span)


def _cut_too_late(config: CompressionConfig) -> Iterator[tuple[KeyPath, str]]:
    """Channels leave before integers come into the network, in the order in which strategies are called."""
    epochs = {span.name: span for span in spans(config)}
    names = config.compressor.strategies
    for quantizing in _of_kind(config, QuantizationOptions):
        start = (epochs[quantizing.name].start, names.index(quantizing.name))
        for one in _of_kind(config, PruneOptions):
            span = epochs[one.name]
            if (span.start, names.index(one.name)) > start:
                message = f'removes channels after {quantizing.name!r} has brought integers: let it act before'
                yield _listed(config, one.name), f'{one.name!r} {message}'
            elif _in_steps(one.options) and (span.end - 1, names.index(one.name)) > start:
                message = f'may remove channels after {quantizing.name!r} has brought integers: give it end_epoch: '
                yield _listed(config, one.name), f'{one.name!r} {message}{start[0]}'


def _in_steps(options: Any) -> bool:
    return isinstance(options, GreedyPruneOptions) or getattr(options, 'num_steps', 1) > 1


def _of_kind(config: CompressionConfig, kind: Any) -> list[Instance]:
    return [one for one in config.strategies if isinstance(one.options, kind)]
