"""Cross-layer equalization: ranges become equal, outputs stay, and what cannot be equalized says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError
from paddleslim_ng.quant import equalize, fold_batch_norm
from paddleslim_ng.runtime import InferenceModel
from tests.quant import quantized_nets as nets

nn = paddle.nn
F = nn.functional


def model_of(net: nets.Net) -> InferenceModel:
    """Return the network as an inference model, with batch norm folded."""
    return fold_batch_norm(*net.model).model


def spoil(net: nets.Net, weight: str, channels: int) -> None:
    """Let the output channels of a convolution have very different ranges."""
    factors = np.geomspace(1e-2, 1e2, channels).astype('float32').reshape(-1, 1, 1, 1)
    store_array(net.scope, weight, load_array(net.scope, weight) * factors)


def two(first: Callable[[], Any], second: Callable[[], Any], between: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: second()(between(first()(x)))


PAIRS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    'conv, relu, conv': (two(lambda: nn.Conv2D(3, 6, 3), lambda: nn.Conv2D(6, 4, 3), F.relu), (3, 7, 7)),
    'no bias': (two(lambda: nn.Conv2D(3, 6, 3, bias_attr=False), lambda: nn.Conv2D(6, 4, 1), F.relu), (3, 7, 7)),
    'depthwise second': (two(lambda: nn.Conv2D(3, 6, 1), lambda: nn.Conv2D(6, 6, 3, groups=6), F.relu), (3, 7, 7)),
    'depthwise first': (two(lambda: nn.Conv2D(3, 6, 3, groups=3), lambda: nn.Conv2D(6, 4, 1), F.relu), (3, 7, 7)),
    'grouped': (
        two(lambda: nn.Conv2D(4, 6, 3, groups=2), lambda: nn.Conv2D(6, 9, 3, groups=3), F.leaky_relu),
        (4, 7, 7),
    ),
    'nothing between': (two(lambda: nn.Conv2D(3, 6, 3), lambda: nn.Conv2D(6, 4, 3), lambda x: x), (3, 7, 7)),
    'pooled': (two(lambda: nn.Conv2D(3, 6, 3), lambda: nn.Conv2D(6, 4, 1), nn.MaxPool2D(2)), (3, 8, 8)),
    'transposed': (
        two(lambda: nn.Conv2DTranspose(4, 6, 3, groups=2), lambda: nn.Conv2DTranspose(6, 9, 3, groups=3), F.relu),
        (4, 5, 5),
    ),
    'linear behind pooled maps': (
        two(
            lambda: nn.Conv2D(3, 6, 3),
            lambda: nn.Linear(6, 5),
            lambda x: paddle.flatten(F.adaptive_avg_pool2d(F.relu(x), 1), 1),
        ),
        (3, 7, 7),
    ),
    'batch norm folded': (
        two(lambda: nn.Sequential(nn.Conv2D(3, 6, 3), nn.BatchNorm2D(6)), lambda: nn.Conv2D(6, 4, 3), F.relu),
        (3, 7, 7),
    ),
}


def ranges(model: InferenceModel, first: str, second: str, case: str) -> tuple[Any, Any]:
    """Return ranges by the definition, channel by channel, from what each channel does to the outputs."""
    one, two = load_array(model.scope, first), load_array(model.scope, second)
    if case == 'linear behind pooled maps':
        return np.abs(one).max((1, 2, 3)), np.abs(two).max(1)
    if case == 'transposed':
        outputs = np.concatenate([np.abs(part).max((0, 2, 3)) for part in np.split(one, 2)])
        return outputs, np.abs(two).max((1, 2, 3))
    groups = {'depthwise second': 6, 'grouped': 3}.get(case, 1)
    parts = [np.abs(part).max((0, 2, 3)) for part in np.split(two, groups)]
    return np.abs(one).max((1, 2, 3)), np.concatenate(parts)


@pytest.mark.parametrize('case', PAIRS)
def test_ranges_become_equal_and_outputs_stay(case: str) -> None:
    net = nets.build(*PAIRS[case])
    convs = [op for op in GraphWrapper(net.program).ops() if 'Filter' in op.input_slots()]
    if case != 'transposed':
        name = convs[0].inputs('Filter')[0].name()
        spoil(net, name, load_array(net.scope, name).shape[0])
    model = model_of(net)
    ops, state = repr(GraphWrapper(model.program).ops()), nets.state_of(net)
    found = equalize(model, feed=net.feed)
    ((first, second),) = found.factors
    before = ranges(model, first, second, case)
    after = ranges(found.model, first, second, case)
    np.testing.assert_allclose(after[0], after[1], rtol=1e-3)
    np.testing.assert_allclose(after[0], np.sqrt(before[0] * before[1]), rtol=1e-3)
    np.testing.assert_allclose(found.factors[first, second], np.sqrt(before[0] / before[1]), rtol=1e-3)
    expected = nets.run(model.program, model.scope, net.feed, model.fetches)[0]
    actual = nets.run(found.model.program, found.model.scope, net.feed, found.model.fetches)[0]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert found.relative_difference < 1e-5
    assert len(found.skipped) == 1
    assert repr(GraphWrapper(model.program).ops()) == ops
    nets.assert_untouched(net, repr(GraphWrapper(net.program).ops()), state)


def test_a_chain_settles_and_one_scale_per_weight_loses_less() -> None:
    def body(x: Any) -> Any:
        for channels, kernel, groups in ((8, 1, 1), (8, 3, 8), (12, 1, 1), (6, 1, 1)):
            x = F.relu(nn.Conv2D(x.shape[1], channels, kernel, groups=groups)(x))
        return x

    net = nets.build(body, (3, 6, 6))
    weight, second = [op.inputs('Filter')[0].name() for op in GraphWrapper(net.program).ops() if op.inputs('Filter')][
        :2
    ]
    factors = np.geomspace(1e-2, 1e2, 8).astype('float32').reshape(-1, 1, 1, 1)
    store_array(net.scope, weight, load_array(net.scope, weight) * factors)
    store_array(net.scope, second, load_array(net.scope, second) / factors)
    model = model_of(net)
    found = equalize(model, feed=net.feed)
    assert len(found.factors) == 3
    before, after = found.spread[weight]
    assert before > 1000 and after < before / 100

    def error(scope: Any) -> float:
        """One scale per weight, 8 bit, against float."""
        spec = slim.quant.spec_from_thresholds(
            model.program, None, scope=scope, weight_quantize_type='abs_max', weight_bits=8
        )
        simulated = slim.quant.simulate(model.program, spec, scope)
        expected, actual = (
            nets.run(model.program, home, net.feed, model.fetches)[0] for home in (scope, simulated.scope)
        )
        return float(np.square(expected - actual).mean() / np.square(expected).mean())

    assert error(found.model.scope) < error(model.scope) / 5


def test_a_channel_without_weights_keeps_its_scale() -> None:
    net = nets.build(*PAIRS['conv, relu, conv'])
    names = [op.inputs('Filter')[0].name() for op in nets.operators(net.program, 'conv2d')]
    first, second = (load_array(net.scope, name) for name in names)
    first[1], second[:, 2] = 0, 0
    for name, array in zip(names, (first, second)):
        store_array(net.scope, name, array)
    found = equalize(model_of(net))
    factors = found.factors[names[0], names[1]]
    assert factors[1] == factors[2] == 1
    assert np.isfinite(factors).all()
    np.testing.assert_array_equal(load_array(found.model.scope, names[0])[1], 0)


def shared(x: Any) -> Any:
    conv = nn.Conv2D(3, 3, 1)
    return conv(F.relu(conv(x)))


def residual(x: Any) -> Any:
    y = F.relu(nn.Conv2D(3, 6, 1)(x))
    return nn.Conv2D(6, 6, 1)(y) + y


def fetched(x: Any) -> Any:
    y = nn.Conv2D(3, 6, 1)(x)
    return nn.Conv2D(6, 4, 1)(y), y


SKIPPED: dict[str, tuple[Callable[[Any], Any], str]] = {
    'relu6': (two(lambda: nn.Conv2D(3, 6, 1), lambda: nn.Conv2D(6, 4, 1), F.relu6), 'relu6 cuts off at 6'),
    'hard_swish': (
        two(lambda: nn.Conv2D(3, 6, 1), lambda: nn.Conv2D(6, 4, 1), F.hardswish),
        'does not pass hard_swish',
    ),
    'shared': (shared, 'used by other operators'),
    'residual': (residual, 'read by 2 operators'),
    'fetched': (fetched, 'is an output of the program'),
    'flattened maps': (
        two(lambda: nn.Conv2D(3, 6, 1), lambda: nn.Linear(6 * 36, 4), lambda x: paddle.flatten(x, 1)),
        'does not pass flatten',
    ),
}


@pytest.mark.parametrize('case', SKIPPED)
def test_refusals_are_named(case: str) -> None:
    body, reason = SKIPPED[case]
    net = nets.build(body, (3, 6, 6))
    model = model_of(net)
    found = equalize(model)
    assert not found.factors and found.difference == 0
    first = next(iter(found.skipped.values()))
    assert re.search(reason, first), first


def test_what_is_checked() -> None:
    net = nets.build(*PAIRS['conv, relu, conv'])
    model = model_of(net)
    with pytest.raises(ConfigError, match='rounds'):
        equalize(model, rounds=0)
    with pytest.raises(EquivalenceError, match='after equalization'):
        equalize(model, tolerance=0.0)
    name = nets.operators(net.program, 'conv2d')[0].inputs('Filter')[0].name()
    store_array(model.scope, name, load_array(model.scope, name) * np.float32(np.nan))
    with pytest.raises(DataError, match=f"'{name}' has NaN"):
        equalize(model)


def six(x: Any) -> Any:
    x = F.relu6(nn.Conv2D(3, 6, 3)(x))
    x = F.relu6(nn.Conv2D(6, 6, 3, groups=6)(x))
    return nn.Linear(4, 5)(paddle.flatten(F.adaptive_avg_pool2d(F.relu6(nn.Conv2D(6, 4, 1)(x)), 1), 1))


def test_a_relu6_that_cuts_nothing_off_lets_factors_pass() -> None:
    net = nets.build(six, (3, 9, 9))
    first = nets.operators(net.program, 'conv2d')[0].inputs('Filter')[0].name()
    cuts = [op.all_outputs()[0].name() for op in nets.operators(net.program, 'relu6')]
    values = dict(zip(cuts, net.run(*cuts)))
    store_array(net.scope, first, load_array(net.scope, first) * np.float32(6.5 / values[cuts[0]].max()))
    values = dict(zip(cuts, net.run(*cuts)))
    assert values[cuts[0]].max() == 6.0 and max(values[name].max() for name in cuts[1:]) < 6.0
    before, state = repr(GraphWrapper(net.program).ops()), nets.state_of(net)
    found = equalize(InferenceModel(*net.model), feeds=[net.feed])
    assert found.replaced == {name: pytest.approx(values[name].max()) for name in cuts[1:]}
    assert len(found.factors) == 2 and len(found.skipped) == 2
    assert 'cuts off at 6, which the data reaches' in next(iter(found.skipped.values()))
    kinds = [op.type() for op in GraphWrapper(found.model.program).ops()]
    assert (kinds.count('relu6'), kinds.count('relu')) == (1, 2)
    expected, outputs = net.run()[0], nets.run(found.model.program, found.model.scope, net.feed, found.model.fetches)[0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-6)
    assert all(after <= 1.05 * former for former, after in found.spread.values())
    nets.assert_untouched(net, before, state)
    left = equalize(InferenceModel(*net.model), feed=net.feed)
    assert not left.factors and not left.replaced and all('feeds=' in text for text in list(left.skipped.values())[:3])


def test_a_relu6_between_no_pair_stays() -> None:
    net = nets.build(lambda x: F.relu6(nn.Conv2D(3, 4, 1)(x)), (3, 5, 5))
    found = equalize(InferenceModel(*net.model), feeds=[net.feed])
    assert not found.replaced and found.model.program is net.program
