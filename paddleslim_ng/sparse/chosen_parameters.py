"""Which parameters a pruner of single weights prunes, and how each of them lies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.teachers import teacher_reading
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse.n_of_m import input_axis
from paddleslim_ng.sparse.options import Options, check_ratio
from paddleslim_ng.sparse.prunable import SkipParams, prunable_parameters
from paddleslim_ng.sparse.ranking import coarse_blocks

__all__ = ['ChosenParameters', 'choose_parameters']

_LOG = logging.getLogger('paddleslim_ng')


class ChosenParameters(NamedTuple):
    """What is pruned.

    Attributes:
        shapes: of the parameters, in program order.
        axes: the axis of their input channels, where an N:M pattern runs along it.
        skipped: names of all other parameters.
    """

    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, int]
    skipped: set[str]


def choose_parameters(program: Any, skip_params_func: SkipParams, options: Options) -> ChosenParameters:
    """Find the prunable parameters of a program, and compare the options with them.

    Args:
        program: a program of either IR.
        skip_params_func: gives the names of what is not pruned.
        options: of the pruner.

    Raises:
        ConfigError: nothing is left to prune, or ``layer_ratios`` names a parameter that is not pruned.
    """
    graph = GraphWrapper(program)
    chosen = prunable_parameters(graph, skip_params_func)
    axes = {var.name(): input_axis(graph, var) for var in chosen} if options.pattern else {}
    without = [name for name, axis in axes.items() if axis is None]
    if without:
        _LOG.warning('%s have no input channels, and the pattern leaves them alone', without)
        chosen = [var for var in chosen if var.name() not in without]
    if not chosen:
        raise ConfigError(f'no parameter has input channels, along which a pattern could run: {without}')
    shapes = {var.name(): var.shape() for var in chosen}
    _check_layer_ratios(graph, options, shapes)
    coarse = coarse_blocks(shapes, options)
    if coarse:
        _LOG.warning('a block of %s is a large part of %s: their sparsity is coarse', options.block, coarse)
    return ChosenParameters(
        shapes,
        {name: axis for name, axis in axes.items() if axis is not None},
        {var.name() for var in graph.all_parameters()} - set(shapes),
    )


def _check_layer_ratios(graph: GraphWrapper, options: Options, shapes: Mapping[str, Any]) -> None:
    given = options.layer_ratios
    if not isinstance(given, Mapping):
        return
    for name, ratio in given.items():
        if name not in shapes:
            teacher = teacher_reading(graph.var(name)) if graph.has_var(name) else None
            why = 'is not pruned' if teacher is None else f'belongs to the merged teacher {teacher!r}'
            raise ConfigError(f'layer_ratios names {name!r}, which {why}; pruned are {list(shapes)}')
        check_ratio(ratio, f'the ratio of {name!r}')
