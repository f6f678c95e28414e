"""``paddleslim-ng compress``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.model_argument import find_files, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.cli.sample_source import LearningData, learning_data, read_given_arrays
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from paddleslim_ng.compress import AutoCompressed, CompressionConfig
    from paddleslim_ng.runtime.model_files import ModelFiles

__all__ = ['run']

_LOG = logging.getLogger('paddleslim_ng')
_REPEATS = 50
_TOP1, _AGREEMENT = 'top1', 'agreement'
# No variable of a model has such a name.
_LABEL = '#label'


def run(arguments: argparse.Namespace) -> Outcome:
    """Compress a model by a configuration, and say what it came to."""
    _check(arguments)
    shapes = read_shapes(arguments.shape)
    from paddleslim_ng.compress.configuration import load_config

    config = load_config(arguments.config)
    path = _model_path(arguments, config)
    name = _metric_name(arguments, config)
    given = read_given_arrays(arguments)
    from paddleslim_ng.compress.auto_compression import auto_compress

    files, data = _opened(path, arguments, given, shapes)
    try:
        made = auto_compress(
            files,
            data.train,
            data.evaluation,
            config,
            arguments.output,
            eval_function=_top1(name, data.evaluation, data.labels) if data.labels is not None else None,
            loss=arguments.loss,
            measured=arguments.measure,
            engines=arguments.engines.split(',') if arguments.engines else None,
            repeats=arguments.repeats or _REPEATS,
            interpreter=arguments.interpreter,
        )
    except KeyboardInterrupt:
        _LOG.warning('interrupted: the same command goes on from the last checkpoint in %s', arguments.output)
        raise
    return Outcome(f'{_taken_up(made)}{made}\n\nwritten: {made.report}, and the files above', made.as_dict())


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments of no use before anything is run."""
    for option in ('repeats', 'engines'):
        if getattr(arguments, option) is not None and not arguments.measure:
            raise ConfigError(f'--{option} belongs to --measure')
    if arguments.repeats is not None and arguments.repeats < 1:
        raise ConfigError(f'--repeats must be at least 1, not {arguments.repeats}')
    if arguments.seed < 0:
        raise ConfigError(f'--seed must not be negative, not {arguments.seed}')
    if Path(arguments.output).exists() and not Path(arguments.output).is_dir():
        raise ConfigError(f'--output {arguments.output} is a file, and the results need a folder')


def _model_path(arguments: argparse.Namespace, config: CompressionConfig) -> argparse.Namespace:
    """Return how the model is named: on the command line, or else in the configuration.

    Raises:
        ConfigError: in neither.
    """
    saved = config.saved_model
    names = ('model_filename', 'params_filename')
    if arguments.model is not None:
        return argparse.Namespace(model=arguments.model, **{name: getattr(arguments, name) for name in names})
    if saved is None or saved.model_dir is None:
        raise ConfigError(f'name a MODEL: {arguments.config} has no Global: model_dir')
    found = {name: getattr(arguments, name) or getattr(saved, name) for name in names}
    return argparse.Namespace(model=saved.model_dir, **found)


def _metric_name(arguments: argparse.Namespace, config: CompressionConfig) -> str:
    """Return what the configuration calls the accuracy.

    Raises:
        ConfigError: it decides by an accuracy, and there are no labels; or by several metrics.
    """
    from paddleslim_ng.compress.decisive_metrics import metrics_asked_for

    names = [name for name in metrics_asked_for(config) if name != _AGREEMENT]
    if len(names) > 1:
        raise ConfigError(
            f'{arguments.config} decides by {names}, and the command measures one metric beside agreement'
        )
    measured = arguments.eval_data or arguments.data
    saved = config.saved_model
    goal = next((key for key in ('target_metric', 'origin_metric') if getattr(saved, key, None) is not None), None)
    if arguments.labels or measured == 'digits':
        return names[0] if names else _TOP1
    if names or goal:
        said = f'decides by {names[0]!r}' if names else f'has a {goal}'
        raise ConfigError(f'{arguments.config} {said}, and without --labels only {_AGREEMENT!r} is measured')
    return _TOP1


def _opened(
    named: argparse.Namespace, arguments: argparse.Namespace, given: Any, shapes: Mapping[str, Sequence[int]]
) -> tuple[ModelFiles, LearningData]:
    """Find the model, and open the data in the shape that it takes."""
    import paddle

    from paddleslim_ng.core import GraphWrapper
    from paddleslim_ng.runtime.model_loading import load_model_files

    paddle.enable_static()
    files = find_files(named.model, named)
    model = load_model_files(files, paddle.static.Scope())
    graph = GraphWrapper(model.program)
    return files, learning_data(arguments, given, [graph.var(name) for name in model.feeds], shapes)


def _top1(name: str, batches: Sequence[Mapping[str, Any]], labels: npt.NDArray[Any]) -> Callable[..., dict[str, float]]:
    """Return a function of a model: the share of samples whose label has the largest score."""
    from paddleslim_ng.prune.evaluation.batch_metrics import make_metric

    def accuracy(executor: Any, program: Any, feeds: Sequence[str], fetches: Sequence[Any]) -> dict[str, float]:
        metric, right, start = make_metric('top1', _LABEL, [*feeds, _LABEL]), 0.0, 0
        for feed in batches:
            size = len(feed[feeds[0]])
            outputs = executor.run(program, feed={key: feed[key] for key in feeds}, fetch_list=list(fetches))
            right += size * metric(outputs, {_LABEL: labels[start : start + size]})
            start += size
        return {name: right / start}

    return accuracy


def _taken_up(made: AutoCompressed) -> str:
    """Say where an interrupted job went on."""
    if made.went_on is None:
        return ''
    epoch, batch = made.went_on
    epochs = len(made.result.records)
    if epoch >= epochs and not batch:
        return 'the job had been finished before: its results are written anew\n\n'
    return f'went on from {made.checkpoints}: epoch {epoch}, {batch} batches done\n\n'
