"""Outputs of onnxruntime beside those of Paddle's executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper
from paddleslim_ng.deploy.model_source import check_feeds
from paddleslim_ng.deploy.onnx_process import run_onnx
from paddleslim_ng.deploy.verification import Figures, compare_outputs
from paddleslim_ng.errors import EquivalenceError
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.inference_model import InferenceModel

__all__ = ['Parity', 'compare_with_paddle', 'feeds_to_compare']

_IDENTITIES = frozenset({'assign', 'fetch', 'scale'})
_SMALLEST_PROBABILITY = 1e-30
Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Parity:
    """One comparison of onnxruntime with Paddle's executor.

    Attributes:
        shapes: ``{input: shape}`` of what was fed.
        figures: what came out. Of a softmax the logarithm is compared: a saturated softmax hides everything.
    """

    shapes: dict[str, list[int]]
    figures: Figures


def feeds_to_compare(model: InferenceModel, given: Mapping[str, npt.NDArray[Any]] | None) -> list[Feeds]:
    """Return one feed, or two of different batch sizes where the model leaves them open.

    Raises:
        DataError: the given arrays do not fit.
    """
    graph = GraphWrapper(model.program)
    is_open = bool(model.feeds) and all(graph.var(name).shape()[:1] == (-1,) for name in model.feeds)
    if given is None:
        return [synthesize_feeds(graph, model.feeds, batch=batch) for batch in ((2, 3) if is_open else (2,))]
    check_feeds(model, given)
    first = {name: np.asarray(given[name]) for name in model.feeds}
    if not is_open:
        return [first]
    return [first, {name: np.concatenate([array, array[:1]]) for name, array in first.items()}]


def compare_with_paddle(
    model: InferenceModel, file: Path, feeds: Sequence[Feeds], tolerance: float, timeout: float
) -> list[Parity]:
    """Run both on each of the feeds.

    Raises:
        EquivalenceError: number, shapes or values of the outputs differ.
        DeployError: onnxruntime refused the file.
    """
    graph = GraphWrapper(model.program)
    logarithmic = [_is_softmax(graph.var(item)) for item in model.fetches]
    found = []
    for arrays, outputs in zip(feeds, run_onnx(file, feeds, timeout)):
        wanted = [
            np.asarray(array)
            for array in Executor().run(model.program, feed=arrays, fetch_list=model.fetches, scope=model.scope)
        ]
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        if [array.shape for array in wanted] != [array.shape for array in outputs]:
            raise EquivalenceError(
                f'onnxruntime gives outputs of shape {[array.shape for array in outputs]} where Paddle gives '
                f'{[array.shape for array in wanted]}, on inputs of shape {shapes}'
            )
        figures = compare_outputs(_comparable(wanted, logarithmic), [_comparable(outputs, logarithmic)])
        failures = figures.failures(tolerance)
        if failures:
            raise EquivalenceError(f'in onnxruntime, on inputs of shape {shapes}: {"; ".join(failures)}')
        found.append(Parity(shapes, figures))
    return found


def _comparable(arrays: Sequence[npt.NDArray[Any]], logarithmic: Sequence[bool]) -> list[npt.NDArray[Any]]:
    return [
        np.log(np.maximum(array.astype('float64'), _SMALLEST_PROBABILITY)) if logs else array
        for array, logs in zip(arrays, logarithmic)
    ]


def _is_softmax(var: VarWrapper) -> bool:
    """Tell whether an output is a softmax, perhaps handed on."""
    while var.inputs() and var.inputs()[0].type() in _IDENTITIES:
        var = var.inputs()[0].all_inputs()[0]
    return bool(var.inputs()) and var.inputs()[0].type() == 'softmax'
