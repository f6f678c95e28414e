"""``paddleslim-ng measure``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paddleslim_ng.cli.model_argument import feeds_for, find_files, load_model, read_arrays, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.errors import ConfigError

__all__ = ['run']


def run(arguments: argparse.Namespace) -> Outcome:
    """Time models on every engine of this machine."""
    shapes, arrays = read_shapes(arguments.shape), read_arrays(arguments.feeds)
    labels = _labels(arguments.models)
    from paddleslim_ng.deploy import measure

    paths = [*arguments.models, *([arguments.original] if arguments.original else [])]
    feeds = feeds_for([load_model(path, arguments) for path in paths], arrays, arguments.batch, shapes)
    files = [find_files(path, arguments) for path in paths]
    found = measure(
        dict(zip(labels, files)),
        feeds,
        arguments.threads,
        original=files[-1] if arguments.original else None,
        engines=arguments.engines.split(',') if arguments.engines else None,
        repeats=arguments.repeats,
        warmup=arguments.warmup,
        interpreter=arguments.interpreter,
    )
    return Outcome(str(found), found.as_dict())


def _labels(paths: Sequence[str]) -> list[str]:
    """Name models by their files, or by whole paths where two files have one name.

    Raises:
        ConfigError: a model is given twice.
    """
    if len(set(paths)) < len(paths):
        raise ConfigError('a model is given twice; to compare a model with itself, give it as --original, too')
    from paddleslim_ng.runtime.model_files import prefix_of

    names = [prefix_of(path).name for path in paths]
    return names if len(set(names)) == len(names) and 'original' not in names else list(paths)
