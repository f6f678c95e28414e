"""Weights under which a network's outputs depend on its input, as trained ones make them."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleslim_ng.core import Executor, GraphWrapper, load_array, store_array


def make_trained_like(program: Any, scope: Any, feed: dict[str, Any], seed: int = 0) -> None:
    """Scale the weights so that activations neither vanish nor explode, and give batch norm the statistics of ``feed``.

    Args:
        program: in training mode, without optimizer, after its startup program ran in ``scope``.
        scope: holds the parameters.
        feed: a batch of at least 8.
        seed: of the weights.
    """
    random = np.random.default_rng(seed)
    graph = GraphWrapper(program)
    norms = [op for op in graph.ops() if op.type() == 'batch_norm']
    statistics = {var.name() for op in norms for slot in ('Mean', 'Variance') for var in op.inputs(slot)}
    for var in graph.all_parameters():
        if var.name() in statistics or not var.shape():
            continue
        shape = var.shape()
        if len(shape) > 1:
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            value = random.standard_normal(shape) * np.sqrt(2.0 / fan_in)
        else:
            value = load_array(scope, var.name()) + 0.1 * random.standard_normal(shape)
        store_array(scope, var.name(), value.astype(var.dtype()))
    if norms:
        wanted = [var for op in norms for slot in ('SavedMean', 'SavedVariance') for var in op.outputs(slot)]
        found = Executor().run(program, feed, wanted, scope=scope)
        for op, mean, inverse in zip(norms, found[::2], found[1::2]):
            store_array(scope, op.inputs('Mean')[0].name(), mean)
            variance = np.maximum(1 / np.square(inverse) - op.attr('epsilon'), 1e-6)
            store_array(scope, op.inputs('Variance')[0].name(), variance.astype('float32'))
