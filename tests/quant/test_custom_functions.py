"""Functions of the user's in training: the same before and after minimize, against numpy, and in what is exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.aware_spec import float_program, spec_of
from paddleslim_ng.quant.custom_functions import get_pact_optimizer, pact
from tests.quant import training_nets as nets

CPU = paddle.CPUPlace()
F = paddle.nn.functional


def sgd() -> Any:
    return paddle.optimizer.SGD(0.05)


def tight(x: Any) -> Any:
    """PACT as PaddleSlim's users write it, with a threshold that cuts something off."""
    attr = paddle.ParamAttr(name=x.name + '_alpha', initializer=paddle.nn.initializer.Constant(0.5))
    alpha = paddle.static.create_parameter([1], 'float32', attr=attr)
    return x - F.relu(x - alpha) + F.relu(x * -1.0 - alpha)


def halved(x: Any) -> Any:
    return x * 0.5


def own_quantizer(x: Any) -> Any:
    """The tensor itself, with one and a half times its gradient."""
    change = x * -0.5
    change.stop_gradient = True
    return x * 1.5 + change


def small(x: Any) -> Any:
    """A convolution whose result two others read, and a product."""
    x = F.relu(paddle.nn.Conv2D(3, 4, 3, padding=1)(x))
    y = paddle.nn.Conv2D(4, 4, 1)(x) + paddle.nn.Conv2D(4, 4, 3, padding=1)(x)
    return paddle.nn.Linear(4, 5)(paddle.flatten(F.adaptive_avg_pool2d(F.relu(y), 1), 1))


FUNCTIONS: dict[str, dict[str, Any]] = {
    'pact': {'act_preprocess_func': pact},
    'tight': {'act_preprocess_func': tight},
    'weights too': {'act_preprocess_func': tight, 'weight_preprocess_func': halved},
    'quantizers': {'act_quantize_func': tight, 'weight_quantize_func': own_quantizer},
}


def trained(program: Any, scope: Any) -> dict[str, Any]:
    return {var.name(): load_array(scope, var.name()) for var in GraphWrapper(program).all_parameters()}


@pytest.mark.parametrize(
    'kind', [pytest.param(kind, marks=pytest.mark.full if kind == 'tight' else ()) for kind in FUNCTIONS]
)
def test_training_is_the_same_whether_quantized_before_or_after_minimize(kind: str) -> None:
    results = []
    for after in (False, True):
        net = nets.build(small, optimizer=sgd if after else None)
        program = quant_aware(net.program, CPU, {'weight_bits': 4}, net.scope, optimizer_func=sgd, **FUNCTIONS[kind])
        if not after:
            net = nets.minimize(net, program, sgd())
        start = trained(program, net.scope)
        losses = net.steps(3, program)
        results.append((losses, start, trained(program, net.scope)))
    (before_losses, _, before), (after_losses, start, later) = results
    np.testing.assert_allclose(after_losses, before_losses, rtol=1e-6)
    assert set(later) == set(before)
    for name, array in before.items():
        np.testing.assert_allclose(later[name], array, atol=1e-6, err_msg=name)
    own = [name for name in later if name.endswith(('_alpha', '_pact'))]
    assert len(own) == 3
    for name in own:
        # Nothing of the pooled maps is cut off, so that decay alone moves their threshold; inputs have no gradient.
        moves = name.startswith('relu') or (kind == 'pact' and not name.startswith('x.'))
        assert np.array_equal(later[name], start[name]) is not moves, name


def weights_of(values: dict[str, Any]) -> list[int]:
    """Return the numbers of the two products; Paddle 2 counts their operators, too."""
    return sorted(
        int(name[len('linear_') : -len('.w_0')])
        for name in values
        if name.startswith('linear_') and name.endswith('.w_0')
    )


@pytest.mark.parametrize('after', [False, True])
def test_one_step_of_a_threshold_is_that_of_numpy(after: bool) -> None:
    """``loss = mean(clip(v, -a, a) * w)`` of a product ``v`` of one number each, with the quantizer's 16 bits."""

    def body(x: Any) -> Any:
        h = paddle.nn.Linear(192, 6, bias_attr=False)(paddle.flatten(x, 1))
        return paddle.nn.Linear(6, 5, bias_attr=False)(h)

    net = nets.build(body, optimizer=sgd if after else None)
    config = {'activation_bits': 16, 'weight_bits': 16}
    program = quant_aware(net.program, CPU, config, net.scope, optimizer_func=sgd, act_preprocess_func=tight)
    if not after:
        net = nets.minimize(net, program, sgd())
    values = trained(program, net.scope)
    name = next(name for name in values if name.endswith('_alpha') and not name.startswith('flatten'))
    feed = nets.feed_of(0)
    first, second = (values[f'linear_{n}.w_0'].astype('float64') for n in weights_of(values))
    x = np.clip(feed['x'].reshape(4, -1).astype('float64'), -0.5, 0.5)
    v = x @ first
    logits = np.clip(v, -0.5, 0.5) @ second
    weights = np.exp(logits - logits.max(1, keepdims=True))
    slopes = (weights / weights.sum(1, keepdims=True) - np.eye(5)[feed['label'][:, 0]]) / 4
    expected = float((slopes @ second.T * np.sign(v) * (np.abs(v) > 0.5)).sum())
    net.steps(1, program)
    found = (0.5 - float(load_array(net.scope, name)[0])) / 0.05
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)


def test_evaluation_and_export_keep_the_function_before_the_quantizer() -> None:
    net = nets.build(small, optimizer=sgd)
    forward = clone_program(net.program, for_test=True)
    options = {'act_preprocess_func': tight, 'optimizer_func': get_pact_optimizer}
    test = quant_aware(forward, CPU, None, net.scope, True, **options)
    program = quant_aware(net.program, CPU, None, net.scope, **options)
    net.steps(3, program)
    feed, exe = nets.feed_of(9), slim.Executor()
    (evaluated,) = exe.run(test, feed, [net.logits], scope=net.scope)
    (cloned,) = exe.run(clone_program(program, for_test=True), feed, [net.logits], scope=net.scope)
    np.testing.assert_array_equal(evaluated, cloned)
    spec, bare = spec_of(test, net.scope), float_program(test)
    assert len(spec.operators) == 4 and not spec.skipped
    assert sum('act_preprocess' in name for name in spec.tensors) == 3
    assert any(var.name().endswith('_alpha') for var in GraphWrapper(bare).all_parameters())
    simulated = slim.quant.simulate(bare, spec, net.scope)
    (found,) = exe.run(simulated.program, feed, [net.logits], scope=simulated.scope)
    np.testing.assert_allclose(found, evaluated, rtol=1e-5, atol=1e-5)


def test_what_no_integers_stand_behind_stays_in_float() -> None:
    net = nets.build(small, optimizer=sgd)
    for options in ({'weight_preprocess_func': halved}, {'act_quantize_func': tight}):
        program = quant_aware(net.program, CPU, None, net.scope, **options)
        net.steps(1, program)
        spec = spec_of(program, net.scope)
        assert not spec.operators and len(spec.skipped) == 4
        assert all('function' in reason for reason in spec.skipped.values())


def test_the_thresholds_of_pact() -> None:
    """Values of numpy, and the start of 20."""
    program, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(program, startup):
        x = paddle.static.data('x', [None, 3], 'float32')
        y = pact(x)
        pact(x * 2.0, name='other')
    exe = slim.Executor()
    exe.run(startup, scope=scope)
    array = np.array([[-30, -19, 0], [5, 20, 21]], 'float32')
    np.testing.assert_array_equal(exe.run(program, {'x': array}, [y], scope=scope)[0], np.clip(array, -20, 20))
    store_array(scope, 'x_pact', np.array([4], 'float32'))
    np.testing.assert_array_equal(exe.run(program, {'x': array}, [y], scope=scope)[0], np.clip(array, -4, 4))
    assert load_array(scope, 'other').tolist() == [20]


@pytest.mark.parametrize(
    ('function', 'text'),
    [
        ('pact', 'must be a function'),
        (lambda x: 3, 'must return a variable'),
        (lambda x: paddle.mean(x), 'it must keep the shape'),
        (lambda x: paddle.cast(x, 'float64'), 'it must keep the element type'),
    ],
)
@pytest.mark.parametrize('role', ['act_preprocess_func', 'weight_quantize_func'])
def test_functions_that_are_refused(function: Any, text: str, role: str) -> None:
    net = nets.build(small, optimizer=sgd)
    before = str(net.program)
    with pytest.raises(ConfigError, match=f'{role} .*{text}|{role} returned.*{text}'):
        quant_aware(net.program, CPU, None, net.scope, **{role: function})
    assert str(net.program) == before
    assert not any(slim.core.has_array(net.scope, f'x.{name}') for name in ('quant_scale', 'quant_count'))


def test_errors_of_a_function_come_through() -> None:
    net = nets.build(small)

    def broken(x: Any) -> Any:
        raise KeyError('mine')

    with pytest.raises(KeyError, match='mine'):
        quant_aware(net.program, CPU, None, net.scope, act_preprocess_func=broken)


def test_a_second_optimizer_has_a_constant_learning_rate() -> None:
    assert isinstance(get_pact_optimizer(), paddle.optimizer.Momentum)
    net = nets.build(small, optimizer=sgd)
    program = quant_aware(
        net.program, CPU, None, net.scope, act_preprocess_func=pact, optimizer_func=get_pact_optimizer
    )
    with pytest.raises(GraphError, match='quantized already'):
        quant_aware(program, CPU, None, net.scope)
