"""Whether a program that was trained quantized computes what its specification says, in one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array
from paddleslim_ng.errors import DataError, EquivalenceError
from paddleslim_ng.quant.aware_records import recorded
from paddleslim_ng.quant.quantizers import fake_quantize
from paddleslim_ng.quant.spec import QuantizationSpec

__all__ = ['check_trained']

_TOLERANCE = 1e-3  # of a step


def check_trained(program: Any, spec: QuantizationSpec, scope: Any, feed: Mapping[str, npt.NDArray[Any]]) -> None:
    """Compare what every fake quantizer makes in evaluation with what the integers of a specification stand for.

    Args:
        program: a quantized program, its evaluation part.
        spec: what was read from it; tensors that it lacks are passed over.
        scope: weights and scales.
        feed: of the program.

    Raises:
        EquivalenceError: they differ; the message names the tensor.
        DataError: the program cannot run on the feed.
    """
    graph = GraphWrapper(clone_program(program, for_test=True))
    items = [item for item in recorded(graph) if item.record.tensor in spec.tensors]
    names = [item.result.name() for item in items]
    activations = [item.record.tensor for item in items if item.record.kind == 'activation']
    computed = [name for name in activations if name not in feed]
    try:
        found = Executor().run(graph.program, feed, [*names, *computed], scope=scope)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(np.shape(array)) for name, array in feed.items()}
        raise DataError(f'the program cannot run on a feed of shapes {shapes}: pass a feed that suits it') from error
    results = dict(zip([*names, *computed], map(np.asarray, found)))
    for item, name in zip(items, names):
        tensor = spec.tensors[item.record.tensor]
        weight = item.record.kind == 'weight'
        before = load_array(scope, tensor.name) if weight else results.get(tensor.name, feed.get(tensor.name))
        gap = np.abs(results[name] - fake_quantize(np.asarray(before), tensor)).max(initial=0.0)
        if not gap <= _TOLERANCE * float(tensor.scale.max()):
            raise EquivalenceError(
                f'the program quantizes {tensor.name!r} otherwise than its specification says: values differ by '
                f'{gap:.3g}, where a step is {float(tensor.scale.max()):.3g}'
            )
