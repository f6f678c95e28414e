"""Sensitivities at several widths: equal to simulations, resumable, and refined around a choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError
from paddleslim_ng.quant.bit_sensitivity import bit_sensitivity, layers_of, refine_bits
from paddleslim_ng.quant.output_loss import output_loss
from paddleslim_ng.quant.variants import QuantizedVariants
from paddleslim_ng.runtime import InferenceModel
from tests.quant.quantized_nets import build, conv_net, state_of


def folded(net: Any) -> InferenceModel:
    return slim.quant.fold_batch_norm(net.program, net.feeds, net.fetches, net.scope).model


def some_feeds(count: int = 2) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [{'x': random.standard_normal((4, 3, 8, 8)).astype('float32')} for _ in range(count)]


@pytest.fixture(scope='module')
def variants() -> QuantizedVariants:
    paddle.enable_static()
    return QuantizedVariants(folded(conv_net()), some_feeds(), algo='mse')


def simulated_outputs(variants: QuantizedVariants, bits: dict[str, int]) -> np.ndarray[Any, Any]:
    model = variants.source
    program, scope = slim.quant.simulate(model.program, variants.spec(bits), model.scope)
    names = [slim.GraphWrapper.name_of(item) for item in model.fetches]
    rows = [slim.Executor().run(program, feed, names, scope=scope)[0] for feed in variants.feeds]
    return np.concatenate(rows)


@pytest.mark.parametrize('which', ['all', 'weights', 'activations', 'one weight', 'one activation'])
def test_the_shared_program_computes_what_simulations_compute(variants: QuantizedVariants, which: str) -> None:
    weights = [tensor.name for tensor in variants.template.of_kind('weight')]
    activations = [tensor.name for tensor in variants.template.of_kind('activation')]
    names = {
        'all': weights + activations,
        'weights': weights,
        'activations': activations,
        'one weight': weights[1:2],
        'one activation': activations[2:3],
    }[which]
    for bits in (2, 3, 8):
        wanted = dict.fromkeys(names, bits)
        variants.set(wanted)
        np.testing.assert_allclose(variants.outputs()[0], simulated_outputs(variants, wanted), rtol=1e-6, atol=1e-6)
    variants.set({})
    np.testing.assert_array_equal(variants.outputs()[0], variants.exact[0])


def test_the_float_model_is_left_alone() -> None:
    net = conv_net()
    model = folded(net)
    before, ops = (
        state_of(net._replace(program=model.program, scope=model.scope)),
        repr(slim.GraphWrapper(model.program).ops()),
    )
    variants = QuantizedVariants(model, some_feeds())
    variants.set(dict.fromkeys(variants.tensors, 2))
    assert repr(slim.GraphWrapper(model.program).ops()) == ops
    after = state_of(net._replace(program=model.program, scope=model.scope))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_losses_are_the_divergence_of_each_layer_alone(variants: QuantizedVariants) -> None:
    found = bit_sensitivity(variants, bits=(2, 4), progress=False)
    exact = variants.exact[0].astype(np.float64)
    p = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    for name, curve in found.losses.items():
        for bits, loss in curve.items():
            y = simulated_outputs(variants, {name: bits}).astype(np.float64)
            q = np.exp(y) / np.exp(y).sum(1, keepdims=True)
            assert loss == pytest.approx(float(np.mean(np.sum(p * np.log(p / q), 1))), rel=1e-3, abs=1e-9)
    assert sum(curve[2] for curve in found.losses.values()) > sum(curve[4] for curve in found.losses.values())
    assert found.ranked(2)[0][1] == max(curve[2] for curve in found.losses.values())
    assert set(found.losses) == {tensor.name for tensor in variants.template.of_kind('weight')}
    assert 'kl' in str(found)


def test_kinds_say_what_is_quantized(variants: QuantizedVariants) -> None:
    activations = bit_sensitivity(variants, bits=[3], kind='activations', progress=False)
    assert set(activations.losses) == {tensor.name for tensor in variants.template.of_kind('activation')}
    assert activations.sizes['x'].elements == 3 * 8 * 8
    both = bit_sensitivity(variants, bits=[3], kind='both', progress=False)
    assert sorted(name for names in both.tensors.values() for name in names) == sorted(variants.tensors)
    first = next(iter(both.losses))
    assert both.losses[first][3] == pytest.approx(variants.loss(dict.fromkeys(both.tensors[first], 3)))
    assert both.tensor_bits({first: 5}) == dict.fromkeys(both.tensors[first], 5)


def test_layers_that_read_the_same_tensor_are_one() -> None:
    def body(x: Any) -> Any:
        left, right = paddle.nn.Conv2D(3, 4, 1)(x), paddle.nn.Conv2D(3, 4, 1)(x)
        return paddle.flatten(paddle.nn.Conv2D(4, 2, 1)(left + right), 1)

    variants = QuantizedVariants(folded(build(body)), some_feeds())
    groups = layers_of(variants, 'both')
    assert sorted(map(len, groups.values())) == [2, 3]
    assert len(layers_of(variants, 'weights')) == 3


def test_a_function_of_the_model_is_a_metric(variants: QuantizedVariants) -> None:
    calls = []

    def metric(model: InferenceModel) -> float:
        calls.append(1)
        (out,) = slim.Executor().run(model.program, variants.feeds[0], model.fetches, scope=model.scope)
        return -float(np.abs(out - variants.exact[0][:4]).mean())

    found = bit_sensitivity(variants, bits=(2, 8), metric=metric, progress=False)
    assert len(calls) == 1 + 2 * len(found.losses)
    for name, curve in found.losses.items():
        out = simulated_outputs(variants, {name: 2})[:4]
        assert curve[2] == pytest.approx(float(np.abs(out - variants.exact[0][:4]).mean()), rel=1e-4)
        assert 0 <= curve[8] < curve[2]
    with pytest.raises(ConfigError, match='None'):
        bit_sensitivity(variants, metric=lambda model: None, progress=False)


def test_a_file_continues_and_refuses_what_is_not_its_own(variants: QuantizedVariants, tmp_path: Path) -> None:
    file = tmp_path / 'bits.json'
    first = bit_sensitivity(variants, bits=(3,), file=file, progress=False)
    content = json.loads(file.read_text())
    name = next(iter(first.losses))
    content['values'][name]['3'] = 123.0  # so that a repeated measurement shows
    file.write_text(json.dumps(content))
    second = bit_sensitivity(variants, bits=(3, 4), file=file, progress=False)
    assert second.losses[name][3] == 123.0
    assert second.losses[name][4] == pytest.approx(variants.loss({name: 4}))
    other = QuantizedVariants(variants.source, some_feeds(3), algo='mse')
    with pytest.raises(CheckpointError, match='data'):
        bit_sensitivity(other, bits=(3,), file=file, progress=False)
    with pytest.raises(CheckpointError, match='metric'):
        bit_sensitivity(variants, bits=(3,), metric='mse', file=file, progress=False)
    with pytest.raises(CheckpointError, match='around'):
        bit_sensitivity(variants, bits=(3,), around={name: 4}, file=file, progress=False)
    file.write_text('{}')
    with pytest.raises(CheckpointError, match='damaged'):
        bit_sensitivity(variants, bits=(3,), file=file, progress=False)


def test_an_interrupted_analysis_ends_as_if_never_stopped(variants: QuantizedVariants, tmp_path: Path) -> None:
    whole = bit_sensitivity(variants, bits=(2, 4), progress=False)
    left = [5]

    def failing(model: InferenceModel) -> float:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return -output_loss('kl', variants.exact, variants.outputs())

    failing.__qualname__ = 'measure'
    file = tmp_path / 'bits.json'
    with pytest.raises(KeyboardInterrupt):
        bit_sensitivity(variants, bits=(2, 4), metric=failing, file=file, progress=False)
    assert sum(map(len, json.loads(file.read_text())['values'].values())) == 4
    left[0] = -1
    resumed = bit_sensitivity(variants, bits=(2, 4), metric=failing, file=file, progress=False)
    for name, curve in whole.losses.items():
        assert dict(resumed.losses[name]) == pytest.approx(dict(curve), abs=1e-9)


def test_around_keeps_the_others_where_they_are(variants: QuantizedVariants) -> None:
    weights = [tensor.name for tensor in variants.template.of_kind('weight')]
    around = dict.fromkeys(weights, 3)
    found = bit_sensitivity(variants, bits=(3, 4, 32), around=around, progress=False)
    at_three = variants.loss(around)
    for name, curve in found.losses.items():
        assert curve[3] == pytest.approx(at_three)
        assert curve[4] == pytest.approx(variants.loss({**around, name: 4}))
        assert curve[32] == pytest.approx(variants.loss({other: 3 for other in weights if other != name}))


def test_refinement_never_loses_and_keeps_the_budget(variants: QuantizedVariants) -> None:
    found = bit_sensitivity(variants, bits=(2, 3, 4, 6), progress=False)
    plain = found.allocator().within_average(3.0)
    before = variants.loss(plain.bits)
    best = refine_bits(variants, found, lambda allocator: allocator.within_average(3.0), rounds=3)
    assert best.average_bits <= 3.0
    assert best.loss == pytest.approx(variants.loss(best.bits))
    assert best.loss <= before
    same = refine_bits(variants, found, lambda allocator: allocator.within_average(3.0), rounds=0)
    assert same.bits == plain.bits


def test_measures_of_outputs_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((5, 7)) for _ in range(2))
    cosine = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert output_loss('cosine', [a], [b]) == pytest.approx(1 - cosine)
    assert output_loss('mse', [a, a], [b, a]) == pytest.approx(float(((a - b) ** 2).sum() / (a**2).sum()))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    expected = float((p * np.log(p / q)).sum(1).mean())
    assert output_loss('kl', [a], [b]) == pytest.approx(expected)
    assert output_loss('kl', [p], [q]) == pytest.approx(expected)  # probabilities are taken as they are
    assert output_loss('kl', [a], [a]) == 0.0
    with pytest.raises(ConfigError, match='no classes'):
        output_loss('kl', [a[:, :1]], [b[:, :1]])
    with pytest.raises(DataError, match='not finite'):
        output_loss('mse', [a], [b * np.nan])


def test_unusable_settings_are_refused(variants: QuantizedVariants) -> None:
    with pytest.raises(ConfigError, match="unknown kind 'weight'"):
        bit_sensitivity(variants, kind='weight')
    with pytest.raises(ConfigError, match='bits'):
        bit_sensitivity(variants, bits=[1])
    with pytest.raises(ConfigError, match='at least one width'):
        bit_sensitivity(variants, bits=[])
    with pytest.raises(ConfigError, match='metric must be'):
        bit_sensitivity(variants, metric='accuracy')
    with pytest.raises(ConfigError, match='is not quantized'):
        variants.set({'nothing': 4})
    with pytest.raises(DataError, match='no batch'):
        QuantizedVariants(variants.source, [])


def test_a_flag_by_which_changed_weights_are_ignored_is_refused(variants: QuantizedVariants, ir: str) -> None:
    before = paddle.get_flags('FLAGS_use_mkldnn')
    paddle.set_flags({'FLAGS_use_mkldnn': True})
    try:
        if ir == 'legacy':
            with pytest.raises(ConfigError, match='FLAGS_use_mkldnn'):
                QuantizedVariants(variants.source, some_feeds())
        else:
            again = QuantizedVariants(variants.source, some_feeds(), algo='mse')
            name = again.template.of_kind('weight')[0].name
            assert again.loss({name: 2}) > again.loss({name: 8}) > 0
    finally:
        paddle.set_flags(before)
