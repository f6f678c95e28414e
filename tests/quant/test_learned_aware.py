"""Learned scales through quant_aware: both orders with minimize, both kinds of program, starts, keys, integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.aware_spec import spec_of
from tests.quant import training_nets as nets

CPU = paddle.CPUPlace()
CONFIGS: dict[str, dict[str, Any]] = {
    'lsq': {'weight_quantize_type': 'channel_wise_lsq', 'activation_quantize_type': 'lsq'},
    'lsq per tensor': {'weight_quantize_type': 'lsq', 'activation_quantize_type': 'lsq'},
    'pact': {'activation_quantize_type': 'pact', 'pact_decay': 0.01},
    'trainable': {'scale_trainable': True},
    'trainable per tensor': {'weight_quantize_type': 'abs_max', 'scale_trainable': True},
    'delayed': {'weight_quantize_type': 'channel_wise_lsq', 'activation_quantize_type': 'pact', 'quant_delay': 2},
}


def body(x: Any) -> Any:
    """A convolution whose result two others read, and a product."""
    nn, functional = paddle.nn, paddle.nn.functional
    x = functional.relu(nn.BatchNorm2D(4)(nn.Conv2D(3, 4, 3, 2, bias_attr=False)(x)))
    y = nn.Conv2D(4, 6, 1)(x) + nn.Conv2D(4, 6, 3, padding=1)(x)
    return nn.Linear(6, 5)(paddle.flatten(functional.adaptive_avg_pool2d(functional.relu(y), 1), 1))


def sgd() -> Any:
    return paddle.optimizer.SGD(0.05)


def factors(program: Any, scope: Any) -> dict[str, Any]:
    names = [var.name() for var in GraphWrapper(program).vars() if var.name().endswith('.quant_factor')]
    return {name: load_array(scope, name) for name in names}


@pytest.mark.parametrize(
    'kind', [pytest.param(kind, marks=pytest.mark.full if 'per tensor' in kind else ()) for kind in CONFIGS]
)
def test_training_is_the_same_whether_quantized_before_or_after_minimize(kind: str) -> None:
    config = {'weight_bits': 4, 'activation_bits': 4, **CONFIGS[kind]}
    results = []
    for after in (False, True):
        net = nets.build(body, optimizer=sgd if after else None)
        program = quant_aware(net.program, CPU, config, net.scope, optimizer_func=sgd)
        if not after:
            net = nets.minimize(net, program, sgd())
        losses = net.steps(4, program)
        results.append((losses, {**net.state(), **factors(program, net.scope)}))
    (before_losses, before), (after_losses, later) = results
    np.testing.assert_allclose(after_losses, before_losses, rtol=1e-6)
    assert sum(name.endswith('.quant_factor') for name in before) >= 2
    for name, array in before.items():
        np.testing.assert_allclose(later[name], array, atol=1e-6, err_msg=name)
    learned = [array for name, array in later.items() if name.endswith('.quant_factor')]
    assert any(np.any(array != 1) for array in learned) and all(np.all(np.isfinite(array)) for array in learned)


@pytest.mark.parametrize(
    ('kind', 'test_first'),
    [('lsq', True), ('lsq per tensor', False), ('pact', False), ('trainable', True), ('delayed', True)],
)
def test_evaluation_computes_with_the_scales_of_training(kind: str, test_first: bool) -> None:
    config = {'weight_bits': 4, 'activation_bits': 4, **CONFIGS[kind]}
    net = nets.build(body, optimizer=sgd)
    forward = clone_program(net.program, for_test=True)
    made = {}
    for for_test in sorted((False, True), reverse=test_first):
        made[for_test] = quant_aware(forward if for_test else net.program, CPU, config, net.scope, for_test)
    with pytest.raises(GraphError, match='has updated the scales'):
        spec_of(made[True], net.scope)
    net.steps(3, made[False])
    cloned = clone_program(made[False], for_test=True)
    feed, exe = nets.feed_of(9), slim.Executor()
    state = {name: load_array(net.scope, name) for name in factors(made[False], net.scope)}
    first, second = (exe.run(item, feed, [net.logits], scope=net.scope)[0] for item in (made[True], cloned))
    np.testing.assert_array_equal(first, second)
    for name, array in state.items():
        np.testing.assert_array_equal(load_array(net.scope, name), array)
    spec = spec_of(made[True], net.scope)
    simulated = slim.quant.simulate(forward, spec, net.scope)
    third = exe.run(simulated.program, feed, [net.logits], scope=simulated.scope)[0]
    np.testing.assert_allclose(third, first, rtol=1e-5, atol=1e-5)
    for name, tensor in spec.tensors.items():
        if tensor.kind == 'weight':
            channels = np.moveaxis(load_array(simulated.scope, name), tensor.axis or 0, 0)
            assert max(np.unique(channel).size for channel in channels) <= 15


def test_inputs_of_the_network_keep_the_scale_of_the_first_batch() -> None:
    """No gradient passes through them: a scale that is too small could not grow."""
    net = nets.build(body, optimizer=sgd)
    program = quant_aware(net.program, CPU, CONFIGS['lsq'], net.scope)
    net.steps(3, program)
    assert 'x.quant_factor' not in factors(program, net.scope)
    wanted = np.abs(nets.feed_of(0)['x']).max() / np.float32(127)
    np.testing.assert_allclose(load_array(net.scope, 'x.quant_scale'), [wanted], rtol=1e-6)


def test_given_thresholds_are_where_activations_start() -> None:
    net = nets.build(body, optimizer=sgd)
    name = next(name for name in slim.quant.find_targets(net.program).activations if name != 'x')
    config = {**CONFIGS['pact'], 'activation_thresholds': {name: 2.54}, 'pact_decay': 0.0}
    program = quant_aware(net.program, CPU, config, net.scope)
    net.steps(1, program)
    np.testing.assert_allclose(load_array(net.scope, f'{name}.quant_scale'), [0.02], rtol=1e-6)


def test_the_threshold_of_pact_decays_and_scales_of_lsq_do_not() -> None:
    """Nothing is cut off at a threshold of 1000, so decay alone moves it; the optimizer's own decay touches neither."""

    def decaying() -> Any:
        return paddle.optimizer.SGD(0.1, weight_decay=paddle.regularizer.L2Decay(0.3))

    for kind, wanted in (('pact', (1 - 0.1 * 0.01) ** 2), ('lsq', 1.0)):
        net = nets.build(body)
        names = slim.quant.find_targets(net.program).activations
        config = {'activation_quantize_type': kind, 'pact_decay': 0.01}
        config['activation_thresholds'] = dict.fromkeys(names, 1000.0)
        program = quant_aware(net.program, CPU, config, net.scope)
        net = nets.minimize(net, program, decaying())
        net.steps(2, program)
        for name, factor in factors(program, net.scope).items():
            np.testing.assert_allclose(factor, [wanted], rtol=1e-5 if kind == 'pact' else 2e-2, err_msg=name)


def test_programs_resume_from_what_the_scope_holds() -> None:
    """Parameters and state alone, in another scope, continue to the same bits."""
    config = {'weight_bits': 3, 'activation_bits': 3, **CONFIGS['delayed']}
    net = nets.build(body, optimizer=sgd)
    program = quant_aware(net.program, CPU, config, net.scope)
    net.steps(2, program)
    other = paddle.static.Scope()
    for var in GraphWrapper(program).vars():
        if var.persistable() or var.is_parameter():
            slim.core.store_array(other, var.name(), load_array(net.scope, var.name()))
    (wanted,), (found,) = (
        [slim.Executor().run(program, nets.feed_of(s), [net.loss], scope=scope)[0] for s in (2, 3, 4)][-1:]
        for scope in (net.scope, other)
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('kind', ['lsq', 'pact'])
def test_files_hold_the_learned_integers(kind: str, tmp_path: Path) -> None:
    """Batch norms are folded; the loaded files compute what the trained program computes."""
    config = {'weight_bits': 4, **CONFIGS[kind]}
    net = nets.build(body, optimizer=sgd)
    program = quant_aware(net.program, CPU, config, net.scope)
    net.steps(3, program)
    feed = nets.feed_of(9)
    test = clone_program(program, for_test=True)
    (wanted,) = slim.Executor().run(test, feed, [net.logits], scope=net.scope)
    slim.quant.export_aware(program, tmp_path / 'model', ['x'], [net.logits], net.scope, feed={'x': feed['x']})
    model = slim.runtime.load_inference_model(tmp_path / 'model', paddle.static.Scope())
    (found,) = slim.Executor().run(model.program, {'x': feed['x']}, model.fetches, scope=model.scope)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('make', [lambda: 'sgd', lambda: paddle.optimizer.SGD(paddle.optimizer.lr.StepDecay(0.1, 2))])
def test_optimizers_of_scales_that_are_refused(make: Any) -> None:
    net = nets.build(body, optimizer=sgd)
    before = str(net.program)
    with pytest.raises(ConfigError, match='optimizer_func must return'):
        quant_aware(net.program, CPU, CONFIGS['lsq'], net.scope, optimizer_func=make)
    assert str(net.program) == before
    assert not slim.core.has_array(net.scope, 'x.quant_scale')


def test_keys_are_checked() -> None:
    net = nets.build(body)
    for bad in ({'quant_delay': -1}, {'pact_decay': -1.0}, {'activation_thresholds': {'x': -1.0}}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            quant_aware(net.program, CPU, bad, net.scope)
    with pytest.raises(ConfigError, match='channel_wise_lsq'):
        quant_aware(net.program, CPU, {'weight_quantize_type': 'lsqq'}, net.scope)
