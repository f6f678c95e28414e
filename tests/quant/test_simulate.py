"""Simulated programs against arithmetic in numpy, on both IRs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, paddle_compat, store_array, translate_program
from paddleslim_ng.errors import DataError, GraphError
from paddleslim_ng.quant import QuantizationSpec, TensorQuantization, fake_quantize, simulate
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional


def mlp(x: Any) -> Any:
    """Two products, so that numpy can follow."""
    h = F.relu(nn.Linear(12, 16, weight_attr=paddle.ParamAttr(name='first'))(paddle.flatten(x, 1)))
    return nn.Linear(16, 5, weight_attr=paddle.ParamAttr(name='second'))(h)


def rounded(array: Any, scale: Any, bits: int) -> Any:
    """Quantize and dequantize in double precision."""
    limit = 2 ** (bits - 1) - 1
    steps = array.astype('float64') / scale
    return np.clip(np.sign(steps) * np.floor(np.abs(steps) + 0.5), -limit, limit) * scale


@pytest.mark.parametrize('weight_bits', [8, 4, 2])
@pytest.mark.parametrize('activation_bits', [8, 3])
@pytest.mark.parametrize('kind', ['abs_max', 'channel_wise_abs_max'])
def test_against_numpy(weight_bits: int, activation_bits: int, kind: str) -> None:
    net = nets.build(mlp, (12,))
    spec = nets.spec_of(net, weight_bits=weight_bits, activation_bits=activation_bits, weight_quantize_type=kind)
    simulated = simulate(net.program, spec, net.scope)
    (found,) = slim.Executor().run(simulated.program, net.feed, net.fetches, scope=simulated.scope)

    state = nets.state_of(net)
    value = net.feed['x']
    activations = [tensor for tensor in spec.tensors.values() if tensor.kind == 'activation']
    for name, tensor in zip(('first', 'second'), activations):
        weight = state[name]
        axis = 0 if kind == 'channel_wise_abs_max' else None
        scale = np.abs(weight).max(axis=axis) / (2 ** (weight_bits - 1) - 1)
        limit = 2 ** (activation_bits - 1) - 1
        value = rounded(value, np.abs(value).max() / limit, activation_bits) if name == 'first' else value
        if name == 'second':
            value = rounded(value, float(tensor.threshold[0]) / limit, activation_bits)
        bias = next(array for key, array in state.items() if key.endswith('b_0') and array.size == weight.shape[1])
        value = value @ rounded(weight, scale, weight_bits) + bias
        value = np.maximum(value, 0) if name == 'first' else value
        assert np.unique(load_array(simulated.scope, name)).size > 2
    np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-5)
    assert not np.allclose(found, net.run()[0], atol=1e-4)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_weights_have_as_many_values_as_their_bits_allow(bits: int) -> None:
    net = nets.build(mlp, (12,))
    spec = nets.spec_of(net, weight_bits=bits)
    weight = load_array(simulate(net.program, spec, net.scope).scope, 'first')
    for channel in weight.T:
        assert 2 <= np.unique(channel).size <= 2**bits - 1


def test_an_activation_is_rounded_once_for_all_that_read_it_and_not_for_others() -> None:
    def body(x: Any) -> Any:
        h = F.relu(x)
        return nn.Conv2D(3, 4, 3)(h) + nn.Conv2D(3, 4, 3)(h), h * 2.0

    net = nets.build(body)
    spec = nets.spec_of(net, activation_bits=2)
    (name,) = (tensor.name for tensor in spec.of_kind('activation'))
    simulated = simulate(net.program, spec, net.scope)
    counts = Counter(op.type() for op in GraphWrapper(simulated.program).ops())
    assert (counts['floor'], counts['clip'], counts['conv2d']) == (1, 1, 2)
    convolutions = nets.operators(simulated.program, 'conv2d')
    read = [op.inputs('Input')[0] for op in convolutions]
    assert read[0] is read[1] or read[0].name() == read[1].name()
    values = slim.Executor().run(simulated.program, net.feed, [read[0], name, *net.fetches[1:]], scope=simulated.scope)
    relu = np.maximum(net.feed['x'], 0)
    np.testing.assert_array_equal(values[1], relu)
    np.testing.assert_array_equal(values[0], fake_quantize(relu, spec.tensors[name]))
    np.testing.assert_array_equal(values[2], relu * 2)


def test_zero_points() -> None:
    net = nets.build(mlp, (12,))
    spec = nets.spec_of(net)
    name = spec.of_kind('activation')[1].name
    tensor = replace(spec.tensors[name], zero_point=-127, scale=spec.tensors[name].scale / 2)
    moved = QuantizationSpec({**spec.tensors, name: tensor}, spec.operators)
    simulated = simulate(net.program, moved, net.scope)
    second = next(op for op in nets.operators(simulated.program, 'matmul_v2') if op.inputs('Y')[0].name() == 'second')
    read, given = slim.Executor().run(simulated.program, net.feed, [second.inputs('X')[0], name], scope=simulated.scope)
    np.testing.assert_array_equal(read, fake_quantize(given, tensor))
    assert read.max() > 127 * float(tensor.scale[0])


@pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has no PIR programs')
def test_both_irs_agree(ir: str) -> None:
    """The names of a program and of its translation are the same, so one specification serves both."""
    if ir != 'pir':
        net = nets.conv_net()
        programs = [net.program, slim.core.translate_to_pir(net.program, net.feeds, net.fetches)]
    else:
        net = nets.conv_net()
        programs = [net.program, translate_program(net.program, net.feeds, net.fetches)]
    spec = nets.spec_of(net, weight_bits=4)
    names = [GraphWrapper.name_of(item) for item in net.fetches]
    outputs = []
    for program in programs:
        simulated = simulate(program, spec, net.scope)
        outputs.append(slim.Executor().run(simulated.program, net.feed, names, scope=simulated.scope)[0])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-6, atol=1e-6)
    assert np.abs(outputs[0] - net.run()[0]).max() > 1e-3


def test_the_caller_s_program_and_scope_stay() -> None:
    net = nets.conv_net()
    before, state = repr(GraphWrapper(net.program).ops()), nets.state_of(net)
    spec = nets.spec_of(net, weight_bits=2, activation_bits=2)
    simulate(net.program, spec, net.scope)
    nets.assert_untouched(net, before, state)


def test_training_programs_and_the_global_scope() -> None:
    def body(x: Any) -> Any:
        loss = paddle.mean(nets.conv_body(x))
        paddle.optimizer.Momentum(0.1, 0.9).minimize(loss)
        return loss

    net = nets.build(body)
    spec = nets.spec_of(net)
    with paddle.static.scope_guard(net.scope):
        simulated = simulate(net.program, spec)
    assert not any(op.is_bwd_op() or op.is_opt_op() for op in GraphWrapper(simulated.program).ops())
    (found,) = slim.Executor().run(simulated.program, net.feed, net.fetches, scope=simulated.scope)
    np.testing.assert_allclose(found, net.run()[0], atol=0.05)


def test_channels_and_activations_of_zeros() -> None:
    def body(x: Any) -> Any:
        return nn.Conv2D(3, 4, 3, weight_attr=paddle.ParamAttr(name='w'))(F.relu(x) * 0.0)

    net = nets.build(body)
    weight = load_array(net.scope, 'w')
    weight[1] = 0
    store_array(net.scope, 'w', weight)
    spec = nets.spec_of(net)
    assert all(np.all(tensor.scale > 0) for tensor in spec.tensors.values())
    simulated = simulate(net.program, spec, net.scope)
    np.testing.assert_array_equal(load_array(simulated.scope, 'w')[1], 0)
    (found,) = slim.Executor().run(simulated.program, net.feed, net.fetches, scope=simulated.scope)
    np.testing.assert_array_equal(found, net.run()[0])


def test_what_does_not_fit() -> None:
    net = nets.build(mlp, (12,))
    spec = nets.spec_of(net)
    output = next(iter(spec.operators))
    weight = spec.tensors['first']

    def refused(changed: QuantizationSpec, message: str) -> None:
        with pytest.raises(GraphError, match=message):
            simulate(net.program, changed, net.scope)

    refused(QuantizationSpec(spec.tensors, {**spec.operators, 'none': ('first',)}), "no variable 'none'")
    refused(QuantizationSpec(spec.tensors, {**spec.operators, output: ('second',)}), "does not read 'second'")
    wrong = replace(weight, scale=weight.scale[:-1])
    refused(QuantizationSpec({**spec.tensors, 'first': wrong}, spec.operators), 'not the 15 channels along axis 1')
    as_activation = TensorQuantization('first', 8, np.array([1.0]))
    refused(QuantizationSpec({**spec.tensors, 'first': as_activation}, spec.operators), 'is no float32 activation')
    as_weight = TensorQuantization('x', 8, np.array([1.0]), kind='weight')
    refused(QuantizationSpec({**spec.tensors, 'x': as_weight}, spec.operators), 'is no float32 parameter')
    some = {name: reads for name, reads in spec.operators.items() if name != output}
    refused(QuantizationSpec(spec.tensors, some), "the weight 'first' is used by")
    store_array(net.scope, 'first', np.full([12, 16], np.nan, 'float32'))
    with pytest.raises(DataError, match="'first' has NaN"):
        simulate(net.program, spec, net.scope)
