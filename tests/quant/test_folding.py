"""Batch norms folded into weights: the outputs stay, and so does what cannot be folded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.errors import DataError, EquivalenceError
from paddleslim_ng.quant import fold_batch_norm
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional


def linear(x: Any, *, bias: bool) -> Any:
    x = nn.Linear(12, 6, bias_attr=None if bias else False)(paddle.flatten(x, 1))
    return nn.BatchNorm1D(6)(x)


def nhwc(x: Any) -> Any:
    x = paddle.transpose(x, [0, 2, 3, 1])
    x = nn.Conv2D(3, 6, 3, data_format='NHWC')(x)
    return nn.BatchNorm2D(6, data_format='NHWC')(x)


FOLDED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    'conv': (lambda x: nn.BatchNorm2D(6)(nn.Conv2D(3, 6, 3, bias_attr=False)(x)), (3, 6, 6)),
    'conv with bias': (lambda x: nn.BatchNorm2D(6)(nn.Conv2D(3, 6, 3)(x)), (3, 6, 6)),
    'grouped': (lambda x: nn.BatchNorm2D(8)(nn.Conv2D(4, 8, 3, groups=2)(x)), (4, 6, 6)),
    'depthwise': (lambda x: nn.BatchNorm2D(4)(nn.Conv2D(4, 4, 3, groups=4, bias_attr=False)(x)), (4, 6, 6)),
    'transposed': (lambda x: nn.BatchNorm2D(6)(nn.Conv2DTranspose(4, 6, 3)(x)), (4, 5, 5)),
    'transposed, grouped': (lambda x: nn.BatchNorm2D(6)(nn.Conv2DTranspose(4, 6, 3, groups=2)(x)), (4, 5, 5)),
    'linear': (lambda x: linear(x, bias=False), (3, 2, 2)),
    'linear with bias': (lambda x: linear(x, bias=True), (3, 2, 2)),
    'channels last': (nhwc, (3, 6, 6)),
}


@pytest.mark.parametrize('case', FOLDED)
def test_folded(case: str) -> None:
    net = nets.build(*FOLDED[case])
    before, state = repr(GraphWrapper(net.program).ops()), nets.state_of(net)
    (expected,) = net.run()
    found = fold_batch_norm(*net.model, feed=net.feed)
    assert len(found.folded) == 1
    assert not found.skipped
    kinds = [op.type() for op in GraphWrapper(found.program).ops()]
    assert 'batch_norm' not in kinds
    assert kinds.count('elementwise_add') == 1
    (after,) = slim.Executor().run(found.program, net.feed, found.model.fetches, scope=found.scope)
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert found.relative_difference < 1e-5
    # The name of the output is what it was.
    (again,) = slim.Executor().run(found.program, net.feed, net.fetches, scope=found.scope)
    np.testing.assert_array_equal(again, after)
    kept = {var.name() for var in GraphWrapper(found.program).all_parameters()}
    assert len(kept) == 2
    assert all(has_array(found.scope, name) for name in kept)
    nets.assert_untouched(net, before, state)


def test_values_are_those_of_the_formula() -> None:
    net = nets.build(*FOLDED['conv with bias'])
    (norm,) = nets.operators(net.program, 'batch_norm')
    (conv,) = nets.operators(net.program, 'conv2d')
    scale, beta, mean, variance = (
        load_array(net.scope, norm.inputs(slot)[0].name()).astype('float64')
        for slot in ('Scale', 'Bias', 'Mean', 'Variance')
    )
    name = conv.inputs('Filter')[0].name()
    bias = next(array for key, array in nets.state_of(net).items() if key.startswith(name.replace('w_0', 'b_0')))
    found = fold_batch_norm(*net.model)
    k = scale / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(
        load_array(found.scope, name), load_array(net.scope, name) * k[:, None, None, None], rtol=1e-6
    )
    folded = load_array(found.scope, norm.inputs('Bias')[0].name()).reshape(-1)
    np.testing.assert_allclose(folded, (bias - mean) * k + beta, rtol=1e-5)


def two_readers(x: Any) -> Any:
    y = nn.Conv2D(3, 6, 3, bias_attr=False)(x)
    return nn.BatchNorm2D(6)(y) + F.relu(y)


def fetched_intermediate(x: Any) -> Any:
    y = nn.Conv2D(3, 6, 3, bias_attr=False)(x)
    return nn.BatchNorm2D(6)(y), y


def shared_norm(x: Any) -> Any:
    norm = nn.BatchNorm2D(6)
    return norm(nn.Conv2D(3, 6, 3)(x)) + norm(nn.Conv2D(3, 6, 3)(x))


def shared_weight(x: Any) -> Any:
    conv = nn.Conv2D(3, 6, 3, bias_attr=False)
    return nn.BatchNorm2D(6)(conv(x)) + conv(x)


def shared_bias(x: Any) -> Any:
    attr = paddle.ParamAttr(name='shared_bias')
    one, two = nn.Conv2D(3, 6, 3, bias_attr=attr), nn.Conv2D(3, 6, 3, bias_attr=attr)
    return nn.BatchNorm2D(6)(one(x)) + two(x)


def sum_of_two(x: Any) -> Any:
    return nn.BatchNorm2D(6)(nn.Conv2D(3, 6, 3, bias_attr=False)(x) + nn.Conv2D(3, 6, 3, bias_attr=False)(x))


def other_axis(x: Any) -> Any:
    y = nn.Linear(5, 3, bias_attr=False)(paddle.reshape(x, [0, 3, 5]))
    return nn.BatchNorm1D(3)(y)


SKIPPED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str]] = {
    'two readers': (two_readers, (3, 6, 6), 'used otherwise'),
    'fetched intermediate': (fetched_intermediate, (3, 6, 6), 'used otherwise'),
    'shared norm': (shared_norm, (3, 6, 6), 'parameter .* is used by other operators'),
    'shared weight': (shared_weight, (3, 6, 6), 'the weight .* used by other operators'),
    'shared bias': (shared_bias, (3, 6, 6), "the bias 'shared_bias' is no parameter, or used by other"),
    'sum of two': (sum_of_two, (3, 6, 6), 'not of a product and a bias'),
    'after an activation': (lambda x: nn.BatchNorm2D(6)(F.relu(nn.Conv2D(3, 6, 3)(x))), (3, 6, 6), 'not made by'),
    'on the input': (lambda x: nn.BatchNorm2D(3)(x), (3, 6, 6), 'not made by'),
    'another axis': (other_axis, (3, 5, 1), 'another axis'),
}


@pytest.mark.parametrize('case', SKIPPED)
def test_left_alone(case: str) -> None:
    body, shape, reason = SKIPPED[case]
    net = nets.build(body, shape)
    expected = net.run()
    found = fold_batch_norm(*net.model)
    assert not found.folded
    assert set(found.skipped) == {op.outputs('Y')[0].name() for op in nets.operators(net.program, 'batch_norm')}
    for text in found.skipped.values():
        assert re.search(reason, text), text
    after = slim.Executor().run(found.program, net.feed, found.model.fetches, scope=found.scope)
    for one, two in zip(after, expected):
        np.testing.assert_array_equal(one, two)


def test_a_variance_that_is_none() -> None:
    net = nets.build(*FOLDED['conv'])
    (norm,) = nets.operators(net.program, 'batch_norm')
    name = norm.inputs('Variance')[0].name()
    store_array(net.scope, name, load_array(net.scope, name) * np.float32(-1))
    found = fold_batch_norm(*net.model)
    assert 'negative or NaN' in next(iter(found.skipped.values()))


def test_a_network_is_folded_wholly_and_part_of_it_is_cut_away() -> None:
    net = nets.conv_net()
    found = fold_batch_norm(*net.model, feed=net.feed)
    assert len(found.folded) == 1
    assert found.relative_difference < 1e-5
    assert not nets.operators(found.program, 'batch_norm')
    saved = nets.run(found.program, found.scope, net.feed, found.model.fetches)
    np.testing.assert_allclose(saved[0], net.run()[0], atol=1e-5)


def test_training_programs_give_their_inference_part() -> None:
    def body(x: Any) -> Any:
        loss = paddle.mean(nets.conv_body(x))
        paddle.optimizer.SGD(0.1).minimize(loss)
        return loss

    net = nets.build(body)
    (expected,) = net.run()
    found = fold_batch_norm(*net.model, feed=net.feed)
    assert len(found.folded) == 1
    (after,) = slim.Executor().run(found.program, net.feed, found.model.fetches, scope=found.scope)
    np.testing.assert_allclose(after, expected, rtol=1e-4)
    assert not any(op.is_bwd_op() or op.is_opt_op() for op in GraphWrapper(found.program).ops())


def test_what_is_compared() -> None:
    net = nets.conv_net()
    with pytest.raises(EquivalenceError, match=r'after folding .* nothing was changed'):
        fold_batch_norm(*net.model, feed=net.feed, tolerance=0.0)
    with pytest.raises(DataError, match=r"feed of shapes \{'x': \[2, 4, 8, 8\]\}"):
        fold_batch_norm(*net.model, feed={'x': np.zeros([2, 4, 8, 8], 'float32')})
