"""Learned roundings: the mathematics against numpy, exact integers, and outputs that come closer to float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant import (
    Block,
    Learning,
    QuantizationSpec,
    TensorQuantization,
    dequantize,
    find_blocks,
    given_blocks,
    quantize,
    reconstruct,
    simulate,
)
from paddleslim_ng.quant.rounding import Adam, SoftRounding, exact_weight
from paddleslim_ng.runtime import InferenceModel
from tests.quant import quantized_nets as nets
from tests.quant.test_bias_correction import case_of

nn = paddle.nn
F = nn.functional
QUICK = Learning(iterations=40, batch_size=8, lr=0.1)


def tensor_of(bits: int = 4, channels: int = 3, seed: int = 0) -> TensorQuantization:
    scale = np.random.default_rng(seed).uniform(0.05, 0.2, channels)
    return TensorQuantization('w', bits, scale, 0, kind='weight')


def weight_of(seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(0, 0.4, (3, 4, 2)).astype('float32')


@pytest.mark.parametrize('bits', [2, 4, 8, 12, 16])
def test_any_integers_survive_any_scale(bits: int) -> None:
    random = np.random.default_rng(bits)
    scale = 10.0 ** random.uniform(-37, 30, 500)
    scale[0] = np.finfo('float32').tiny
    tensor = TensorQuantization('w', bits, scale, 0, kind='weight')
    integers = random.integers(-tensor.limit, tensor.limit + 1, (500, 60))
    integers[:, 0], integers[:, 1] = tensor.limit, -tensor.limit
    weight = exact_weight(integers.astype('int16'), tensor)
    np.testing.assert_array_equal(quantize(weight, tensor), integers)
    with pytest.raises(DataError, match='cannot hold these integers'):
        exact_weight(np.full((500, 1), tensor.limit + 1, 'int32'), tensor)


def reference(weight: Any, tensor: TensorQuantization, logits: Any, beta: float) -> tuple[Any, Any]:
    """Return soft weights and penalties by the formulas of the paper, in float64."""
    scale = tensor.scale.astype('float64').reshape(-1, 1, 1)
    h = np.clip(1 / (1 + np.exp(-logits.astype('float64'))) * 1.2 - 0.1, 0, 1)
    soft = scale * np.clip(np.floor(weight / scale) + h, -tensor.limit, tensor.limit)
    return soft, 1 - np.abs(2 * h - 1) ** beta


@pytest.mark.parametrize('beta', [2.0, 5.5])
def test_gradients_are_those_of_differences(beta: float) -> None:
    tensor, weight = tensor_of(), weight_of()
    soft = SoftRounding(weight, tensor)
    random = np.random.default_rng(2)
    inner = np.abs(weight / tensor.scale.reshape(-1, 1, 1)) < tensor.limit - 1
    np.testing.assert_allclose(soft.weight()[inner], weight[inner], atol=2e-3 * tensor.scale.max())
    soft.logits = random.normal(0, 3, weight.shape).astype('float32')
    expected, penalty = reference(weight, tensor, soft.logits, beta)
    np.testing.assert_allclose(soft.weight(), expected, atol=1e-5)
    assert soft.penalty(beta) == pytest.approx(penalty.sum(), rel=1e-4)
    slope = random.normal(size=weight.shape)

    def total(logits: Any) -> Any:
        weights, penalties = reference(weight, tensor, logits, beta)
        return weights * slope + 0.3 * penalties

    step = 1e-6
    logits = soft.logits.astype('float64')
    numeric = (total(logits + step) - total(logits - step)) / (2 * step)
    found = soft.gradient(slope.astype('float32'), 0.3, beta)
    np.testing.assert_allclose(found, numeric, atol=2e-4)
    assert (np.abs(found) > 1e-3).mean() > 0.3


def test_integers_are_the_neighbours() -> None:
    tensor, weight = tensor_of(3), weight_of()
    soft = SoftRounding(weight, tensor)
    nearest = quantize(weight, tensor)
    np.testing.assert_array_equal(soft.integers(), nearest)
    below = np.clip(np.floor(weight / tensor.scale.reshape(-1, 1, 1)), -3, 3)
    for sign, expected in ((-9, below), (9, np.clip(below + 1, -3, 3))):
        soft.logits = np.full(weight.shape, sign, 'float32')
        np.testing.assert_array_equal(soft.integers(), expected)
        np.testing.assert_array_equal(soft.weight(), dequantize(soft.integers(), tensor))
        assert soft.penalty() == soft.undecided() == 0
    with pytest.raises(DataError, match='NaN'):
        SoftRounding(weight * np.nan, tensor)
    with pytest.raises(ConfigError, match='zero point'):
        SoftRounding(weight, TensorQuantization('w', 4, [0.1], zero_point=1, kind='weight'))


def test_adam_is_that_of_paddle() -> None:
    random = np.random.default_rng(0)
    gradients = random.normal(size=(5, 7)).astype('float32')
    paddle.disable_static()
    try:
        parameter = paddle.create_parameter([7], 'float32', default_initializer=nn.initializer.Constant(0.5))
        adam = paddle.optimizer.Adam(0.03, epsilon=1e-12, parameters=[parameter])
        for gradient in gradients:
            (parameter * paddle.to_tensor(gradient)).sum().backward()
            adam.step()
            adam.clear_grad()
        expected = parameter.numpy()
    finally:
        paddle.enable_static()
    mine, found = Adam(0.03), np.full(7, 0.5, 'float32')
    for gradient in gradients:
        found += mine.steps({'p': gradient})['p']
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def residual_body(x: Any) -> Any:
    x = F.relu(nn.Conv2D(3, 6, 3, padding=1)(x))
    y = F.relu(nn.Conv2D(6, 6, 3, padding=1)(x))
    x = F.relu(x + nn.Conv2D(6, 6, 3, padding=1)(y))
    x = F.relu(nn.Conv2D(6, 6, 3, padding=1, groups=6)(x))
    x = F.relu(nn.Conv2D(6, 8, 1)(x))
    return nn.Linear(8, 5)(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def normed_body(x: Any) -> Any:
    x = F.relu(nn.BatchNorm2D(6)(nn.Conv2D(3, 6, 3, bias_attr=False)(x)))
    return F.relu(nn.BatchNorm2D(8)(nn.Conv2D(6, 8, 1, bias_attr=False)(x)))


def test_blocks_of_a_residual_network() -> None:
    model, spec, _ = case_of(nets.build(residual_body, (3, 8, 8)))
    layers = find_blocks(model.program, spec, model.fetches)
    assert [len(block.weights) for block in layers] == [1] * 6
    assert [block.operators[0] for block in layers] == list(spec.operators)
    graph = GraphWrapper(model.program)
    makers = [graph.var(block.output).inputs()[0].type() for block in layers]
    # The second convolution of the residual block ends before the addition.
    assert makers == ['relu', 'relu', 'elementwise_add', 'relu', 'relu', 'elementwise_add']
    regions = find_blocks(model.program, spec, model.fetches, 'region-wise')
    assert [len(block.weights) for block in regions] == [1, 2, 2, 1]
    assert all(len(block.inputs) == 1 for block in regions)
    assert [block.inputs[0] for block in regions[1:3]] == [block.output for block in regions[:2]]
    narrow = find_blocks(model.program, spec, model.fetches, 'region-wise', limit=1)
    assert [len(block.weights) for block in narrow] == [1] * 6
    assert [name for block in regions for name in block.weights] == [n for block in layers for n in block.weights]


def test_blocks_of_a_transformer() -> None:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('x', [None, 3, 16, 16], 'float32')
        network = slim.models.VisionTransformer(depth=1, heads=2, head_dim=4, patch_size=8)
        network.net(image, 5)
    slim.Executor().run(startup, scope=scope)
    feeds = [{'x': np.random.default_rng(0).standard_normal((6, 3, 16, 16)).astype('float32')}]
    model = slim.quant.fold_batch_norm(main, ['x'], [network.logits], scope).model
    done = slim.quant.quantize_model(model, feeds, fold=False, weight_bits=3)
    found = reconstruct(done.model, done.spec, feeds, level='region-wise', learning=Learning(iterations=3))
    # Patches, attention, the two layers behind it, and the classifier.
    assert [len(result.block.weights) for result in found.blocks] == [1, 4, 2, 1]
    assert not found.skipped


def test_given_blocks() -> None:
    model, spec, _ = case_of(nets.build(residual_body, (3, 8, 8)))
    whole = find_blocks(model.program, spec, model.fetches, 'region-wise')[1]
    (found,) = given_blocks(model.program, spec, [[whole.inputs[0], whole.output]])
    assert found == whole
    (part,) = given_blocks(model.program, spec, [[whole.inputs[0], whole.output]], [[whole.weights[1]]])
    assert part == Block(whole.inputs, whole.output, whole.operators, whole.weights[1:])
    layers = find_blocks(model.program, spec, model.fetches)
    with pytest.raises(GraphError, match='depends on'):  # the way around the second convolution
        given_blocks(model.program, spec, [[layers[1].output, whole.output]])
    with pytest.raises(GraphError, match="no variable 'nowhere'"):
        given_blocks(model.program, spec, [['nowhere', whole.output]])
    with pytest.raises(ConfigError, match='must be the names of an input and an output'):
        given_blocks(model.program, spec, ['ab'])
    with pytest.raises(ConfigError, match='are no quantized weights of the region'):
        given_blocks(model.program, spec, [[whole.inputs[0], whole.output]], [['w']])
    with pytest.raises(ConfigError, match='unknown level'):
        find_blocks(model.program, spec, model.fetches, 'layerwise')


def distance(model: InferenceModel, spec: QuantizationSpec, changed: InferenceModel, feeds: Any) -> float:
    """Return the relative error of the outputs of the simulation, over all feeds."""
    simulated = simulate(changed.program, spec, changed.scope)
    names = [GraphWrapper.name_of(item) for item in model.fetches]
    errors, energy = 0.0, 0.0
    for feed in feeds:
        expected, found = (
            slim.Executor().run(item.program, feed, names, scope=item.scope)[0] for item in (model, simulated)
        )
        errors += float(np.square(expected - found).sum())
        energy += float(np.square(expected).sum())
    return errors / energy


@pytest.mark.parametrize(
    ('body', 'level', 'activations'),
    [
        (nets.conv_body, 'layer-wise', True),
        (residual_body, 'region-wise', True),
        (residual_body, 'layer-wise', False),
    ],
)
def test_errors_fall_and_weights_are_integers(
    body: Callable[[Any], Any], level: str, activations: bool, tmp_path: Path
) -> None:
    net = nets.build(body, (3, 8, 8))
    model, spec, feeds = case_of(net, 3)
    kept = {tensor.name: load_array(model.scope, tensor.name) for tensor in spec.of_kind('weight')}
    found = reconstruct(model, spec, feeds, level=level, activations=activations, learning=QUICK)
    assert not found.skipped
    assert all(result.learned <= result.nearest for result in found.blocks)
    assert any(result.learned < 0.9 * result.nearest for result in found.blocks)
    if activations:  # the last block makes the output, from what the simulation of the blocks before makes
        assert found.blocks[-1].learned == pytest.approx(distance(model, spec, found.model, feeds), rel=0.2)
    moved = 0
    for name, array in kept.items():
        tensor = spec.tensors[name]
        np.testing.assert_array_equal(load_array(model.scope, name), array)
        learned = load_array(found.model.scope, name)
        integers = quantize(learned, tensor)
        np.testing.assert_array_equal(learned, dequantize(integers, tensor))
        assert len(np.unique(integers)) <= 7
        steps = array / tensor.scale.reshape([-1 if n == tensor.axis else 1 for n in range(array.ndim)])
        assert np.abs(integers - steps).max() < 1 + 1e-4
        moved += int((integers != quantize(array, tensor)).sum())
    assert moved > 0
    program, names, fetches, scope = found.model
    done = slim.quant.export_quantized(program, spec, tmp_path / 'q', names, fetches, scope, feed=feeds[0])
    assert max(done.distinct.values()) <= 7


def test_the_reported_errors_are_those_of_the_simulation() -> None:
    """The first block alone: what is reported is what the simulated program shows."""
    net = nets.build(lambda x: F.relu(nn.Conv2D(3, 6, 3)(x)), (3, 8, 8))
    model, spec, _ = case_of(net, 3)
    feeds = [{'x': np.random.default_rng(3).standard_normal((8, 3, 8, 8)).astype('float32')}]
    found = reconstruct(model, spec, feeds, learning=QUICK)
    (result,) = found.blocks
    assert result.nearest == pytest.approx(distance(model, spec, model, feeds), rel=1e-3)
    assert result.learned == pytest.approx(distance(model, spec, found.model, feeds), rel=1e-3)
    again = reconstruct(model, spec, feeds, learning=QUICK)
    for tensor in spec.of_kind('weight'):
        np.testing.assert_array_equal(*(load_array(item.model.scope, tensor.name) for item in (found, again)))


def test_a_small_layer_comes_near_the_best_of_all_roundings() -> None:
    """Five weights at two bits: all 32 roundings are tried."""
    net = nets.build(lambda x: nn.Linear(5, 1, bias_attr=False)(x), (5,))
    (product,) = nets.operators(net.program, 'matmul_v2')
    weights = np.array([[0.3], [0.14], [0.04], [-0.06], [0.14]], 'float32')
    slim.core.store_array(net.scope, product.inputs('Y')[0].name(), weights)
    model, spec, _ = case_of(net, 3)
    (tensor,) = spec.of_kind('weight')
    random = np.random.default_rng(1)
    common = random.normal(size=(64, 1))  # what is rounded up here can be made up for there
    feeds = [{'x': (common + 0.1 * random.normal(size=(64, 5))).astype('float32')}]
    weight = load_array(model.scope, tensor.name)
    below = np.floor(weight / tensor.scale)
    errors = []
    for code in range(32):
        up = np.array([code >> bit & 1 for bit in range(5)]).reshape(5, 1)
        rounded = np.clip(below + up, -tensor.limit, tensor.limit) * tensor.scale
        errors.append(float(np.square(feeds[0]['x'] @ (rounded - weight)).mean()))
    learning = Learning(iterations=300, batch_size=64, lr=0.1)
    found = reconstruct(model, spec, feeds, activations=False, learning=learning)
    (result,) = found.blocks
    energy = float(np.square(feeds[0]['x'] @ weight).mean())
    assert min(errors) * 0.999 < result.learned * energy < 1.5 * min(errors)
    assert result.nearest * energy > 5 * min(errors)


def test_batch_norms_that_stay() -> None:
    net = nets.build(normed_body, (3, 8, 8))
    part = slim.quant.inference_part.inference_part(net.program, net.feeds, net.fetches, net.scope)
    names = slim.quant.find_targets(part.program).activations
    arrays = slim.Executor().run(part.program, net.feed, names, scope=part.scope)
    limits = {name: float(np.abs(array).max()) for name, array in zip(names, arrays)}
    spec = slim.quant.spec_from_thresholds(part.program, limits, scope=part.scope, weight_bits=3)
    for level in ('layer-wise', 'region-wise'):
        found = reconstruct(part, spec, [net.feed], level=level, learning=QUICK)
        assert len(found.blocks) == (2 if level == 'layer-wise' else 1)
        last = found.blocks[-1]
        assert last.learned < last.nearest
        # The gradient passed a batch norm with its running statistics; the simulation runs it in test mode.
        assert last.learned == pytest.approx(distance(part, spec, found.model, [net.feed]), rel=1e-3)


def test_an_empty_channel_and_zeros() -> None:
    net = nets.build(lambda x: nn.Conv2D(3, 4, 3)(x), (3, 6, 6))
    (conv,) = nets.operators(net.program, 'conv2d')
    name = conv.inputs('Filter')[0].name()
    array = load_array(net.scope, name)
    array[2] = 0
    slim.core.store_array(net.scope, name, array)
    model, spec, feeds = case_of(net, 3)
    found = reconstruct(model, spec, feeds, learning=QUICK)
    assert np.isfinite(load_array(found.model.scope, name)).all()
    zeros = [{'x': np.zeros((4, 3, 6, 6), 'float32')}]
    still = reconstruct(model, spec, zeros, learning=QUICK)
    assert np.isfinite([result.learned for result in still.blocks]).all()


def test_what_is_refused_and_skipped() -> None:
    model, spec, feeds = case_of(nets.build(lambda x: nn.Linear(4, 3)(paddle.reshape(x, [-1, 4])), (2, 4)))
    found = reconstruct(model, spec, feeds, learning=QUICK)
    assert not found.blocks
    assert 'is not that of the images' in next(iter(found.skipped.values()))
    with pytest.raises(DataError, match='no batch'):
        reconstruct(model, spec, [])
    for options in ({'iterations': 0}, {'lr': -1.0}, {'drop': 1.0}, {'strength': float('nan')}, {'batch_size': 1.5}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Learning(**options)
