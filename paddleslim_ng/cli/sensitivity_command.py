"""``paddleslim-ng sensitivity``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from paddleslim_ng.cli.evaluation_argument import Metric, metric_for, read_evaluation_data
from paddleslim_ng.cli.model_argument import load_model, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.cli.prune_ratios import choose_parameters
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from paddleslim_ng.runtime import InferenceModel

__all__ = ['run']

Sensitivities = Mapping[str, Mapping[float, float]]


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure what each parameter costs alone."""
    _check(arguments)
    shapes, data = read_shapes(arguments.shape), read_evaluation_data(arguments)
    from paddleslim_ng.prune import get_ratios_by_loss, merge_sensitive

    others = merge_sensitive(arguments.merge) if arguments.merge else {}
    model = load_model(arguments.model, arguments)
    names = _parameters(arguments, model)
    metric = metric_for(arguments, model, data, shapes)
    found: Sensitivities = _measured(arguments, model, names, metric)
    if others:
        found = merge_sensitive([*arguments.merge, arguments.output])
    baseline = json.loads(Path(arguments.output).read_text('utf-8'))['baseline']
    ratios = get_ratios_by_loss(found, arguments.loss, monotone=True) if arguments.loss is not None else None
    if arguments.plot:
        from paddleslim_ng.analysis import plot_sensitivities

        plot_sensitivities(found, arguments.plot, arguments.loss)
    said = f'{metric.name} of the model on {metric.samples} samples: {baseline:.4f}'
    return Outcome(
        '\n\n'.join([said, _table(found, ratios), f'written: {arguments.output}']),
        {
            'file': arguments.output,
            'metric': metric.name,
            'samples': metric.samples,
            'baseline': baseline,
            'sensitivities': found,
            **({'ratios': ratios} if ratios is not None else {}),
        },
    )


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments of no use before anything is run."""
    wrong = [ratio for ratio in arguments.ratios if not 0 < ratio < 1]
    if wrong:
        raise ConfigError(f'--ratios takes shares between 0 and 1, exclusively, not {wrong}')
    if arguments.loss is not None and not 0 <= arguments.loss < 1:
        raise ConfigError(f'--loss is a share from 0, below 1, not {arguments.loss}')
    if arguments.plot and not Path(arguments.plot).parent.is_dir():
        raise ConfigError(f'the folder of --plot {arguments.plot} is missing')


def _parameters(arguments: argparse.Namespace, model: InferenceModel) -> list[str]:
    from paddleslim_ng.compress.strategies.measuring import distinct_parameters
    from paddleslim_ng.core import GraphWrapper
    from paddleslim_ng.prune import PruningSession

    outputs = [GraphWrapper.name_of(item) for item in model.fetches]
    session = PruningSession(model.program, model.scope, arguments.criterion, outputs=outputs)
    return distinct_parameters(session, choose_parameters(session, arguments.params))


def _measured(
    arguments: argparse.Namespace, model: InferenceModel, names: list[str], metric: Metric
) -> dict[str, dict[float, float]]:
    import paddle

    from paddleslim_ng.prune import sensitivity

    return sensitivity(
        model.program,
        paddle.CPUPlace(),
        names,
        sensitivities_file=arguments.output,
        pruned_ratios=arguments.ratios,
        criterion=arguments.criterion,
        scope=model.scope,
        evaluator=metric.evaluator,
    )


def _table(found: Sensitivities, ratios: Mapping[str, float] | None) -> str:
    """Return the losses, a line for each parameter and a column for each ratio."""
    columns = sorted({ratio for curve in found.values() for ratio in curve})
    width = max(len(name) for name in [*found, 'loss without'])
    lines = [f'{"loss without":{width}}' + ''.join(f'{ratio:9.3g}' for ratio in columns)]
    lines[0] += '    may lose' if ratios is not None else ''
    for name, curve in found.items():
        cells = ''.join(f'{curve[ratio]:9.4f}' if ratio in curve else ' ' * 9 for ratio in columns)
        lines.append(f'{name:{width}}{cells}{_share(ratios, name)}')
    return '\n'.join(lines)


def _share(ratios: Mapping[str, float] | None, name: str) -> str:
    return '' if ratios is None else f'{ratios.get(name, 0.0):12.3f}'
