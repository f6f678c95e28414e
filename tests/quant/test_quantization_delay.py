"""Delayed quantization is float bit for bit until its step, follows the data meanwhile, and resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.quantization_delay import DELAY_STEPS, QuantizationDelay
from tests.quant import training_nets as nets

CPU = paddle.CPUPlace()
F = paddle.nn.functional
DELAY = 2
CONFIGS: dict[str, dict[str, Any]] = {
    'moving average': {},
    'batch': {'weight_quantize_type': 'abs_max', 'activation_quantize_type': 'abs_max'},
    'learned': {'weight_quantize_type': 'channel_wise_lsq', 'activation_quantize_type': 'pact'},
}


def body(x: Any) -> Any:
    """Two products and a convolution."""
    x = F.relu(paddle.nn.BatchNorm2D(4)(paddle.nn.Conv2D(3, 4, 3)(x)))
    x = F.relu(paddle.nn.Linear(4, 8)(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
    return paddle.nn.Linear(8, 5)(x)


def sgd() -> Any:
    return paddle.optimizer.SGD(0.05)


def quantized(kind: str, after: bool, delay: int = DELAY) -> tuple[nets.TrainingNet, Any]:
    net = nets.build(body, optimizer=sgd if after else None)
    config = {'weight_bits': 3, 'activation_bits': 3, 'quant_delay': delay, **CONFIGS[kind]}
    program = quant_aware(net.program, CPU, config, net.scope, optimizer_func=sgd)
    return (net if after else nets.minimize(net, program, sgd())), program


@pytest.mark.parametrize(
    ('kind', 'after'), [('moving average', True), ('batch', False), ('learned', False), ('learned', True)]
)
def test_nothing_is_rounded_before_the_delay_is_over(kind: str, after: bool) -> None:
    plain = nets.build(body, optimizer=sgd)
    net, program = quantized(kind, after)
    wanted = plain.steps(DELAY)
    assert [float(step[0]) for step in net.steps(DELAY, program)] == [float(step[0]) for step in wanted]
    for name, array in plain.state().items():
        np.testing.assert_array_equal(load_array(net.scope, name), array, err_msg=name)
    scales = [var.name() for var in GraphWrapper(program).vars() if var.name().endswith('.quant_scale')]
    assert scales and all(float(load_array(net.scope, name).max()) != 1 / 3 for name in scales)
    # From now on it is: the loss is that of the evaluation program, which is always rounded.
    feed = nets.feed_of(7)
    (before,) = slim.Executor().run(clone_program(plain.program, for_test=True), feed, [net.logits], scope=net.scope)
    (rounded,) = slim.Executor().run(clone_program(program, for_test=True), feed, [net.logits], scope=net.scope)
    assert not np.array_equal(before, rounded)
    assert not np.array_equal(net.steps(1, program)[0][0], plain.steps(1)[0][0])


def test_the_count_ends_with_the_delay_and_evaluation_does_not_count() -> None:
    net, program = quantized('moving average', after=True)
    counts = []
    for _ in range(4):
        counts.append(float(load_array(net.scope, DELAY_STEPS)[0]))
        slim.Executor().run(clone_program(program, for_test=True), nets.feed_of(0), [net.logits], scope=net.scope)
        net.steps(1, program)
    assert counts == [0, 1, 2, 2]


def test_evaluation_programs_are_rounded_from_the_start() -> None:
    net, program = quantized('moving average', after=True, delay=100)
    net.steps(1, program)
    forward = clone_program(nets.build(body).program, for_test=True)
    config = {'weight_bits': 3, 'activation_bits': 3, 'quant_delay': 100}
    test = quant_aware(forward, CPU, config, net.scope, for_test=True)
    assert not GraphWrapper(test).has_var(DELAY_STEPS)
    simulated = slim.quant.simulate(forward, slim.quant.spec_of(test, net.scope), net.scope)
    exe, feed = slim.Executor(), nets.feed_of(0)
    (found,) = exe.run(test, feed, [net.logits], scope=net.scope)
    (wanted,) = exe.run(simulated.program, feed, [net.logits], scope=simulated.scope)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found, exe.run(forward, feed, [net.logits], scope=net.scope)[0], atol=1e-3)


@pytest.mark.parametrize('stopped_at', [1, pytest.param(3, marks=pytest.mark.full)])
def test_a_checkpoint_of_the_scope_goes_on_at_the_same_step(stopped_at: int) -> None:
    net, program = quantized('learned', after=True)
    whole = [float(step[0]) for step in net.steps(5, program)]
    net, program = quantized('learned', after=True)
    net.steps(stopped_at, program)
    other, scope = quantized('learned', after=True)[1], paddle.static.Scope()
    for var in GraphWrapper(program).vars():
        if var.persistable() or var.is_parameter():
            store_array(scope, var.name(), load_array(net.scope, var.name()))
    exe = slim.Executor()
    rest = [float(exe.run(other, nets.feed_of(s), [net.loss], scope=scope)[0]) for s in range(stopped_at, 5)]
    assert rest == whole[stopped_at:]


@pytest.mark.parametrize('delay', [-1, 1.5, True, 2**24 + 1])
def test_delays_that_are_refused(delay: Any) -> None:
    with pytest.raises(ConfigError, match='quant_delay'):
        QuantizationDelay(delay)
    with pytest.raises(ConfigError, match='quant_delay'):
        quant_aware(nets.build(body).program, CPU, {'quant_delay': delay})
