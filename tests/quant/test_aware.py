"""Quantization-aware training on both IRs, against numpy and the float program."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import clone_program
from paddleslim_ng.quant.aware import quant_aware
from tests.quant import training_nets as nets

CPU = paddle.CPUPlace()


def momentum() -> Any:
    """Return an optimizer."""
    return paddle.optimizer.Momentum(0.05, 0.9)


def rounded(array: Any, scale: Any, bits: int) -> Any:
    """Quantize and dequantize in double precision, halves away from zero."""
    limit = 2 ** (bits - 1) - 1
    steps = np.asarray(array, 'float64') / scale
    return np.clip(np.sign(steps) * np.floor(np.abs(steps) + 0.5), -limit, limit) * scale


@pytest.mark.parametrize('after', [False, True])
def test_training_and_test_programs(after: bool) -> None:
    net = nets.build(optimizer=momentum if after else None)
    test = clone_program(net.program, for_test=True)
    test = quant_aware(test, CPU, scope=net.scope, for_test=True)
    program = quant_aware(net.program, CPU, scope=net.scope)
    if not after:
        net = nets.minimize(net, program, momentum())
    losses = [float(step[0]) for step in net.steps(3, program)]
    assert np.all(np.isfinite(losses))
    cloned = clone_program(program, for_test=True)
    feed = nets.feed_of(9)
    first, second = (
        slim.Executor().run(item, feed, [net.logits, net.loss], scope=net.scope) for item in (test, cloned)
    )
    np.testing.assert_array_equal(first[0], second[0])
    print(losses)
