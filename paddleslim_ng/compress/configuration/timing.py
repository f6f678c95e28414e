"""When strategies act: whether that fits the length of the job, and how they meet."""

from __future__ import annotations

from dataclasses import dataclass

from paddleslim_ng.compress.configuration.configuration import CompressionConfig, Instance
from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.problems import Problems

__all__ = ['Span', 'check_times', 'spans', 'together']

# Acts once, after the last epoch, and needs no training.
_AT_THE_END = 'PostTrainingQuantStrategy'


@dataclass(frozen=True)
class Span:
    """The epochs of one strategy.

    Attributes:
        name: of the instance.
        class_name: of its class.
        start: first epoch, counted from 0.
        end: the epoch in which it no longer acts.
        open: whether it has no end of its own.
        at_end: it acts once, after the last epoch.
        known: False for a class that was not imported, whose epochs nobody knows.
    """

    name: str
    class_name: str
    start: int
    end: int
    open: bool
    at_end: bool
    known: bool = True


def spans(config: CompressionConfig) -> list[Span]:
    """Return the epochs of the strategies that run, in the order in which they are called."""
    return [_span(one, config.epochs) for one in config.strategies]


def together(config: CompressionConfig) -> list[tuple[str, str, int, int]]:
    """Return the pairs of strategies that act in the same epochs, from the first to the one after the last."""
    found = []
    acting = [span for span in spans(config) if span.known and not span.at_end]
    for number, first in enumerate(acting):
        for second in acting[number + 1 :]:
            start, end = max(first.start, second.start), min(first.end, second.end)
            if start < end:
                found.append((first.name, second.name, start, end))
    return found


def check_times(config: CompressionConfig, document: Document, problems: Problems) -> None:
    """Note strategies that never act because the job is over before they start."""
    for span in spans(config):
        if not span.known or span.at_end or span.start < config.epochs:
            continue
        path = ('strategies', span.name, 'start_epoch')
        listed = config.compressor.strategies.index(span.name)
        written = path if path in document.places else ('compressor', 'strategies', listed)
        problems.add(
            document.place_of(written),
            written,
            f'{span.name!r} starts in epoch {span.start}, and the job has {config.epochs} epochs (counted from 0): '
            'raise epoch in the section compressor',
        )


def _span(instance: Instance, epochs: int) -> Span:
    start = getattr(instance.options, 'start_epoch', 0)
    end = getattr(instance.options, 'end_epoch', 0)
    known = instance.options is not None and isinstance(start, int) and isinstance(end, int)
    return Span(
        instance.name,
        instance.class_name,
        start if known else 0,
        (end or epochs) if known else epochs,
        not end if known else True,
        instance.class_name == _AT_THE_END,
        known,
    )
