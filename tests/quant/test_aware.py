"""Quantization-aware training on both IRs, against numpy and the float program."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, has_array, load_array, paddle_compat, store_array
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.aware_records import recorded
from paddleslim_ng.quant.aware_spec import spec_of
from paddleslim_ng.quant.targets import find_targets
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
    early = clone_program(program, for_test=True)
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
    native = [] if paddle_compat.is_pir_program(program) else [program.clone(for_test=True)]
    scales = {
        item.record.scale: load_array(net.scope, item.record.scale)
        for item in recorded(GraphWrapper(test))
        if item.record.scale
    }
    assert len(scales) == 4
    for item in (test, cloned, early, *native):
        (again,) = slim.Executor().run(item, nets.feed_of(9), [net.logits], scope=net.scope)
        np.testing.assert_array_equal(again, first[0])
        assert all('quant_count' not in var.name() for var in GraphWrapper(item).vars() if var.outputs())
    slim.Executor().run(test, {**nets.feed_of(9), 'x': 100 * nets.FEED['x']}, [net.logits], scope=net.scope)
    for name, scale in scales.items():
        np.testing.assert_array_equal(load_array(net.scope, name), scale)


def simple(x: Any) -> Any:
    """One product, of the input itself."""
    weight = paddle.ParamAttr(name='w')
    return paddle.nn.Linear(192, 5, weight_attr=weight, bias_attr=False)(paddle.flatten(x, 1))


def largest(step: int) -> np.float32:
    """Return the largest magnitude of a batch."""
    return np.float32(np.abs(nets.feed_of(step)['x']).max())


def moving_average(count: int) -> Any:
    """Return the average of the largest magnitudes after so many batches."""
    total = weight = np.float32(0)
    for step in range(count):
        total = np.float32(0.9) * total + largest(step)
        weight = np.float32(0.9) * weight + np.float32(1)
    return total / weight


SCALES = {
    'moving_average_abs_max': moving_average,
    'range_abs_max': lambda count: max(largest(step) for step in range(max(count - 2, 0), count)),
    'abs_max': lambda count: max(largest(step) for step in range(count)),
}


@pytest.mark.parametrize('kind', SCALES)
@pytest.mark.parametrize('bits', [8, 3])
def test_scales_and_values_are_those_of_numpy(kind: str, bits: int) -> None:
    config = {'activation_quantize_type': kind, 'activation_bits': bits, 'weight_bits': bits, 'window_size': 2}
    net = nets.build(simple, optimizer=momentum)
    test = quant_aware(clone_program(net.program, for_test=True), CPU, config, net.scope, for_test=True)
    train = quant_aware(net.program, CPU, config, net.scope)
    found = {item.record.tensor: item for item in recorded(GraphWrapper(train))}
    (x,) = (name for name in found if name != 'w')
    for step in range(4):
        weight = load_array(net.scope, 'w')
        given, expected = nets.feed_of(step), largest(step) if kind == 'abs_max' else SCALES[kind](step + 1)
        values, weights = slim.Executor().run(
            train, given, [found[name].result.name() for name in (x, 'w')], scope=net.scope
        )
        scale = expected / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(values, rounded(given['x'].reshape(4, -1), scale, bits), atol=1e-5)
        steps = values / load_array(net.scope, f'{x}.quant_scale') if kind != 'abs_max' else values / scale
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
        kept = SCALES[kind](step + 1) / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(load_array(net.scope, f'{x}.quant_scale'), [kept], rtol=1e-6)
        channels = np.abs(weight).max(axis=0) / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(weights, rounded(weight, channels, bits), atol=1e-6)
        assert not np.array_equal(weight, load_array(net.scope, 'w'))
    given = nets.feed_of(11)
    result = next(item.result.name() for item in recorded(GraphWrapper(test)) if item.record.tensor == x)
    values, logits = slim.Executor().run(test, given, [result, net.logits], scope=net.scope)
    np.testing.assert_allclose(values, rounded(given['x'].reshape(4, -1), kept, bits), atol=1e-5)
    weight = load_array(net.scope, 'w')
    expected = values @ rounded(weight, np.abs(weight).max(axis=0) / (2 ** (bits - 1) - 1), bits)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', SCALES)
def test_batches_and_channels_of_zeros_keep_scales_positive(kind: str) -> None:
    net = nets.build(simple, optimizer=momentum)
    weight = load_array(net.scope, 'w')
    weight[:, 1] = 0
    store_array(net.scope, 'w', weight)
    train = quant_aware(net.program, CPU, {'activation_quantize_type': kind}, net.scope)
    zeros = {**nets.feed_of(0), 'x': np.zeros([4, 3, 8, 8], 'float32')}
    (x,) = (item.record.tensor for item in recorded(GraphWrapper(train)) if item.record.kind == 'activation')
    for feed in (zeros, zeros, nets.feed_of(1), zeros):
        (loss,) = slim.Executor().run(train, feed, [net.loss], scope=net.scope)
        assert np.isfinite(loss) and load_array(net.scope, f'{x}.quant_scale') > 0
    assert np.isfinite(load_array(net.scope, 'w')).all()
    spec_of(train, net.scope)


@pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has one IR')
def test_the_other_ir_trains_alike() -> None:
    found = []
    for pir in (False, True):
        with ir_mode(pir):
            net = nets.build(optimizer=momentum)
            train = quant_aware(net.program, CPU, {'weight_bits': 4}, net.scope)
            found.append([float(step[0]) for step in net.steps(3, train)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize(('after', 'bits'), [(False, 4), (True, 2)])
def test_low_bits_mean_few_values_and_the_loss_falls(after: bool, bits: int) -> None:
    net = nets.build(optimizer=momentum if after else None)
    train = quant_aware(net.program, CPU, {'weight_bits': bits}, net.scope)
    if not after:
        net = nets.minimize(net, train, momentum())
    results = {item.record.tensor: item for item in recorded(GraphWrapper(train)) if item.record.kind == 'weight'}
    assert len(results) == 5
    arrays = slim.Executor().run(train, nets.FEED, [item.result.name() for item in results.values()], scope=net.scope)
    for item, array in zip(results.values(), arrays):
        for channel in np.moveaxis(array, item.record.axis, 0):
            assert 2 <= np.unique(channel).size <= 2**bits - 1
    losses = [float(step[0]) for step in net.steps(10, train, feed=nets.FEED)]
    assert losses[-1] < 0.8 * losses[0]


def test_every_tensor_has_its_own_width() -> None:
    net = nets.build(optimizer=momentum)
    names = list(find_targets(net.program).weights)
    widths = dict(zip(names, (2, 3, 4, 6, 8)))
    train = quant_aware(net.program, CPU, {'weight_bits': widths}, net.scope)
    net.steps(2, train)
    spec = spec_of(train, net.scope)
    assert {tensor.name: tensor.bits for tensor in spec.of_kind('weight')} == widths
    assert {tensor.bits for tensor in spec.of_kind('activation')} == {8}
    results = {item.record.tensor: item for item in recorded(GraphWrapper(train)) if item.record.kind == 'weight'}
    arrays = slim.Executor().run(train, nets.FEED, [item.result.name() for item in results.values()], scope=net.scope)
    for (name, item), array in zip(results.items(), arrays):
        most = max(np.unique(channel).size for channel in np.moveaxis(array, item.record.axis, 0))
        assert most <= 2 ** widths[name] - 1, name
    for wrong, message in (
        ({**widths, 'conv': 4}, "'conv', which is no tensor"),
        (dict(list(widths.items())[1:]), f'no entry for {names[0]!r}'),
        ({**widths, names[0]: 1}, f"config\\['weight_bits.{names[0]}'\\]=1"),
    ):
        with pytest.raises(ConfigError, match=message):
            quant_aware(net.program, CPU, {'weight_bits': wrong}, net.scope)


def test_neither_program_nor_scope_changes_where_it_fails() -> None:
    net = nets.build(optimizer=momentum)
    before, state = repr(GraphWrapper(net.program).ops()), net.state()
    for config, error in (
        ({'weight_bit': 4}, "did you mean 'weight_bits'"),
        ({'weight_bits': 1}, 'weight_bits'),
        ({'weight_bits': 'eight'}, 'weight_bits'),
        ({'weight_quantize_type': 'abs_maximum'}, "did you mean 'abs_max'"),
        ({'activation_quantize_type': 'channel_wise_abs_max'}, 'known: abs_max'),
        ({'quantize_op_types': ['conv3d']}, "did you mean 'conv2d'"),
        ({'moving_rate': 1.5}, 'moving_rate'),
        ({'dtype': 'uint8'}, 'dtype'),
        ('config.yaml', 'dictionary'),
    ):
        with pytest.raises(ConfigError, match=error):
            quant_aware(net.program, CPU, config, net.scope)
    with pytest.raises(GraphError, match='nothing to quantize.*not_quant_pattern'):
        quant_aware(net.program, CPU, {'not_quant_pattern': ['_']}, net.scope)
    with pytest.raises(GraphError, match='no tensor'):
        quant_aware(net.program, CPU, {'skip_tensor_list': ['y']}, net.scope)
    with pytest.raises(GraphError, match='conv2d_0.w_0'):
        quant_aware(net.program, CPU, scope=paddle.static.Scope())
    assert not has_array(net.scope, 'x.quant_scale')
    train = quant_aware(net.program, CPU, {'not_quant_pattern': 'linear'}, net.scope)
    with pytest.raises(GraphError, match='quantized already'):
        quant_aware(train, CPU, scope=net.scope)
    with pytest.raises(GraphError, match='relu.*train first'):
        spec_of(train, net.scope)
    assert repr(GraphWrapper(net.program).ops()) == before
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, state[name])
    net.steps(1, train)
    spec = spec_of(train, net.scope)
    assert len(spec.operators) == 4 and ['linear' in reason for reason in spec.skipped.values()] == [True]


@pytest.mark.parametrize('test_first', [False, True])
def test_scales_that_no_training_program_maintains(test_first: bool) -> None:
    """Names that differ, here because something was built before, leave the test program with its first scales."""

    def longer(x: Any) -> Any:
        paddle.nn.functional.relu(x)
        return nets.body(x)

    net = nets.build(optimizer=momentum)
    other = clone_program(nets.build(longer).program, for_test=True)
    calls = [
        lambda: quant_aware(net.program, CPU, scope=net.scope),
        lambda: quant_aware(other, CPU, scope=net.scope, for_test=True),
    ]
    if test_first:
        calls.reverse()
    calls[0]()
    with pytest.raises(GraphError, match='no training program maintains.*relu'):
        calls[1]()
    alone = nets.build(simple)
    store_array(net.scope, 'w', load_array(alone.scope, 'w'))
    quant_aware(alone.program, CPU, scope=net.scope, for_test=True)  # another network in the same scope


def test_a_schedule_and_adam() -> None:
    """The learning rate goes on with the program that was made, and state of the optimizer is found."""
    schedule = paddle.optimizer.lr.StepDecay(0.01, 1, 0.1)
    net = nets.build(optimizer=lambda: paddle.optimizer.Adam(schedule))
    train = quant_aware(net.program, CPU, scope=net.scope)
    sizes = []
    for _ in range(3):
        before = net.state()
        net.steps(1, train)
        sizes.append(
            max(
                float(np.abs(array - before[name]).max())
                for name, array in net.state().items()
                if '.w_0' in name and 'norm' not in name
            )
        )
        schedule.step()
    assert 5 < sizes[0] / sizes[1] < 20 and 5 < sizes[1] / sizes[2] < 20
