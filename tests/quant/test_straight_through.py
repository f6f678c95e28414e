"""Fake quantizers inserted before and after the backward pass train alike, on both IRs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, clone_program, store_array
from paddleslim_ng.quant import find_targets
from paddleslim_ng.quant.grid_quantizers import (
    AbsMaxQuantizer,
    BatchQuantizer,
    MovingAverageQuantizer,
    RangeQuantizer,
)
from paddleslim_ng.quant.straight_through import quantize_reads
from tests.quant import training_nets as nets

QUANTIZERS: dict[str, Callable[[], Any]] = {
    'abs_max': lambda: AbsMaxQuantizer(4),
    'batch': lambda: BatchQuantizer(4),
    'moving average': lambda: MovingAverageQuantizer(3),
    'range': lambda: RangeQuantizer(4, 2),
}


def insert(program: Any, scope: Any, make: Callable[[], Any], weights: bool = True) -> None:
    """Quantize all that can be quantized, activations by what ``make`` returns."""
    graph = GraphWrapper(program)
    targets = find_targets(graph)
    readers: dict[str, list[Any]] = {}
    for target in targets.operators:
        for name in target.tensors:
            readers.setdefault(name, []).append(target.op)
    for name, ops in readers.items():
        if name in targets.weights and not weights:
            continue
        quantizer = AbsMaxQuantizer(4, targets.weights[name]) if name in targets.weights else make()
        quantize_reads(graph, graph.var(name), ops, quantizer)
        for state, value in quantizer.initial.items():
            store_array(scope, state, value)


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_training_is_the_same_whether_quantized_before_or_after_minimize(kind: str) -> None:
    results = []
    for after in (False, True):
        net = nets.build()
        optimizer = paddle.optimizer.Momentum(0.05, 0.9)
        program = clone_program(net.program)
        if after:
            net = nets.minimize(net, program, optimizer)
        insert(program, net.scope, QUANTIZERS[kind])
        if not after:
            net = nets.minimize(net, program, optimizer)
        losses = net.steps(4)
        results.append((losses, net.state()))
    (before_losses, before), (after_losses, after_state) = results
    np.testing.assert_allclose(after_losses, before_losses, rtol=1e-6)
    for name, array in before.items():
        np.testing.assert_allclose(after_state[name], array, atol=1e-6, err_msg=name)
