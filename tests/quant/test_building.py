"""Whole specifications from thresholds: what is quantized, on which scale, and why the rest is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant import spec_from_thresholds
from tests.quant import quantized_nets as nets

nn = paddle.nn


def test_scales_and_axes() -> None:
    net = nets.conv_net()
    limits = nets.thresholds(net)
    spec = spec_from_thresholds(net.program, limits, scope=net.scope, weight_bits=4, activation_bits=7)
    assert not spec.skipped
    assert len(spec.operators) == 5
    for tensor in spec.of_kind('activation'):
        assert tensor.bits == 7
        np.testing.assert_allclose(tensor.threshold, limits[tensor.name], rtol=1e-6)
    for tensor in spec.of_kind('weight'):
        weight = load_array(net.scope, tensor.name)
        axis = 0 if weight.ndim == 4 else 1
        assert (tensor.bits, tensor.axis) == (4, axis)
        others = tuple(n for n in range(weight.ndim) if n != axis)
        np.testing.assert_allclose(tensor.scale, np.abs(weight).max(others) / 7, rtol=1e-6)


def test_bits_by_name_and_one_scale() -> None:
    net = nets.conv_net()
    weights = list(slim.quant.find_targets(net.program).weights)
    bits = {name: 2 + index for index, name in enumerate(weights)}
    spec = nets.spec_of(net, weight_bits=bits, weight_quantize_type='abs_max')
    assert {name: spec.tensors[name].bits for name in weights} == bits
    assert all(spec.tensors[name].axis is None for name in weights)
    with pytest.raises(ConfigError, match='weight_bits has no entry for'):
        nets.spec_of(net, weight_bits={weights[0]: 8})
    with pytest.raises(ConfigError, match='from 2 to 16'):
        nets.spec_of(net, activation_bits=1)
    with pytest.raises(ConfigError, match=r"known: \['abs_max', 'channel_wise_abs_max'\]; did you mean"):
        nets.spec_of(net, weight_quantize_type='channel_abs_max')


def test_weights_alone() -> None:
    net = nets.conv_net()
    spec = spec_from_thresholds(net.program, None, scope=net.scope)
    assert not spec.of_kind('activation')
    assert len(spec.of_kind('weight')) == len(spec.operators) == 5


def test_operators_without_threshold_are_listed() -> None:
    net = nets.conv_net()
    limits = nets.thresholds(net)
    limits.pop('x')
    spec = spec_from_thresholds(net.program, limits, scope=net.scope)
    assert len(spec.operators) == 4
    assert list(spec.skipped.values()) == ["its input 'x' has no threshold"]
    some = nets.spec_of(net, quantizable_op_type=['conv2d'], skip_tensor_list=['x'])
    assert len(some.operators) == 2
    assert list(some.skipped.values()) == ["it reads 'x', which skip_tensor_list names"]


@pytest.mark.parametrize('bad', [np.nan, np.inf, -1.0])
def test_thresholds_of_no_use(bad: float) -> None:
    net = nets.conv_net()
    with pytest.raises(DataError, match="the threshold of 'x' is"):
        spec_from_thresholds(net.program, {**nets.thresholds(net), 'x': bad}, scope=net.scope)


def test_weights_of_no_use() -> None:
    net = nets.conv_net()
    name = next(iter(slim.quant.find_targets(net.program).weights))
    limits = nets.thresholds(net)
    weight = load_array(net.scope, name)
    weight.flat[0] = np.nan
    store_array(net.scope, name, weight)
    with pytest.raises(DataError, match=f'the weight {name!r} cannot be quantized'):
        spec_from_thresholds(net.program, limits, scope=net.scope)


def test_weights_that_others_need_in_float_stay() -> None:
    """The weight of the first layer is also squared; that of the second is shared by name."""

    def body(x: Any) -> Any:
        first = nn.Linear(6, 6, weight_attr=paddle.ParamAttr(name='squared'), bias_attr=False)
        attr = paddle.ParamAttr(name='shared')
        second, third = (nn.Linear(6, 6, weight_attr=attr, bias_attr=False) for _ in range(2))
        h = third(second(first(x)))
        return h + paddle.mean(first.weight * first.weight)

    net = nets.build(body, (6,))
    spec = nets.spec_of(net)
    assert list(spec.skipped.values()) == ["its weight 'squared' is used in float by elementwise_mul, too"]
    assert [reads[1] for reads in spec.operators.values()] == ['shared', 'shared']
    some = nets.spec_of(net, skip_tensor_list=[next(iter(spec.operators))])
    assert sorted(some.skipped.values())[1:] == [
        "its weight 'shared' is used in float by matmul_v2, too",
        "its weight 'squared' is used in float by elementwise_mul, too",
    ]
    assert not some.operators
