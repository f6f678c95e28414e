"""Uniform low-bit quantization: the grid against a reference of its own, and training through it on both IRs."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.buckets import Buckets
from paddleslim_ng.quant.uniform_grids import uniform_codes, uniform_values
from paddleslim_ng.quant.uniform_quantizer import UniformQuantizer
from tests.quant.low_bit_nets import Training, members

KINDS = [None, 'channel', 'split']
SHAPES = [((6, 3, 3, 3), 0), ((7, 5), 1), ((4, 6, 2, 2), 1)]


def buckets_of(shape: tuple[int, ...], kind: str | None, axis: int, size: int) -> list[Any]:
    """Return the places of each bucket in the flattened array: slices, and nothing of the package."""
    total = int(np.prod(shape))
    if kind is None:
        return [np.arange(total)]
    if kind == 'channel':
        channel = np.indices(shape)[axis].reshape(-1)
        return [np.flatnonzero(channel == c) for c in range(shape[axis])]
    count = -(-total // size)
    return [np.arange(bucket, count * size, count) for bucket in range(count)]


def reference(array: Any, bits: int, kind: str | None, axis: int, size: int) -> Any:
    """PocketFlow's formula in double precision."""
    flat, k = array.reshape(-1).astype('float64'), 2**bits - 1
    found = np.empty_like(flat)
    for places in buckets_of(array.shape, kind, axis, size):
        own = flat[np.minimum(places, flat.size - 1)]  # the last element fills up
        low, alpha = own.min(), own.max() - own.min() + 1e-10
        values = np.floor((own - low) / alpha * k + 0.5) / k * alpha + low
        found[places[places < flat.size]] = values[places < flat.size]
    return found.reshape(array.shape)


@pytest.mark.parametrize('bits', range(2, 9))
@pytest.mark.parametrize('kind', KINDS)
def test_the_grid_is_that_of_the_formula(kind: str | None, bits: int) -> None:
    for number, (shape, axis) in enumerate(SHAPES):
        array = np.random.default_rng(number).standard_normal(shape).astype('float32')
        buckets = Buckets.of(shape, kind, axis, 8)
        found = uniform_values(array, bits, buckets)
        np.testing.assert_allclose(found, reference(array, bits, kind, axis, 8), rtol=1e-5, atol=1e-6)
        codes, low, step, _ = uniform_codes(array, bits, buckets)
        assert codes.dtype == np.uint8 and codes.max() == 2**bits - 1 and low.size == step.size == buckets.count
        assert np.abs(found - array).max() <= 0.501 * step.max()


def test_split_buckets_are_strided_and_filled_up_with_the_last_element() -> None:
    array = np.arange(10, dtype='float32')
    buckets = Buckets.of((10,), 'split', None, 4)
    assert buckets.rows(array).tolist() == [[0, 3, 6, 9], [1, 4, 7, 9], [2, 5, 8, 9]]
    assert buckets.restore(buckets.arrange(array)).tolist() == array.tolist()


def test_zeros_can_be_kept() -> None:
    rng = np.random.default_rng(0)
    for low in (-1.0, 0.3, -3.0):
        array = (rng.random((8, 30)) + low).astype('float32')
        array[rng.random(array.shape) < 0.6] = 0
        for bits in (2, 3, 8):
            for kind in KINDS:
                buckets = Buckets.of(array.shape, kind, 0, 16)
                found = uniform_values(array, bits, buckets, keep_zeros=True)
                assert not found[array == 0].any()
                step = uniform_codes(array, bits, buckets, keep_zeros=True).step.max()
                assert np.abs(found - array).max() <= 1.001 * step
                assert max(map(len, members(buckets, found))) <= 2**bits
    assert uniform_values(np.array([0.2, 1], 'float32'), 2)[0] == np.float32(0.2)


def test_buckets_of_equal_numbers_keep_them() -> None:
    array = np.array([[0, 0, 0], [2.5, 2.5, 2.5], [-1e-3, -1e-3, -1e-3]], 'float32')
    np.testing.assert_array_equal(uniform_values(array, 4, Buckets.of((3, 3), 'channel', 0, 4)), array)
    kept = uniform_values(array, 4, Buckets.of((3, 3), 'channel', 0, 4), keep_zeros=True)
    np.testing.assert_allclose(kept, array, rtol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('keep_zeros', [False, True])
def test_the_program_computes_what_numpy_does(kind: str | None, keep_zeros: bool) -> None:
    net = Training(minimize=False)
    done = UniformQuantizer(3, bucket=kind, bucket_size=32, keep_zeros=keep_zeros).apply(net.main, net.scope)
    reads = {layer.weight: net.weight_read_by(layer.outputs[0]) for layer in done.layers}
    assert len(reads) == 3
    found = slim.Executor().run(net.main, net.batch(), list(reads.values()), scope=net.scope)
    for (name, wanted), array in zip(done.values(net.scope).items(), found):
        np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('kind', KINDS)
def test_inserted_before_or_after_minimize(kind: str | None) -> None:
    ends = []
    for minimized in (False, True):
        net = Training(minimize=minimized)
        UniformQuantizer(3, 4, kind, 32).apply(net.main, net.scope)
        if not minimized:
            net.minimize()
            net.start_optimizer()
        losses = net.train(4)
        ends.append(net.parameters())
    assert ends[0].keys() == ends[1].keys() and np.isfinite(losses).all()
    for name, array in ends[0].items():
        np.testing.assert_allclose(array, ends[1][name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_gradient_passes_straight_through() -> None:
    """One step of gradient descent: the float weights move by the gradient that the quantized ones have in float."""
    quantized, plain = (Training(optimizer=paddle.optimizer.SGD(0.5)) for _ in range(2))
    before = quantized.parameters()
    done = UniformQuantizer(2, bucket='channel').apply(quantized.main, quantized.scope)
    values = done.values(quantized.scope)
    for name, array in values.items():
        store_array(plain.scope, name, array)
    quantized.train(1)
    plain.train(1)
    after, reference = quantized.parameters(), plain.parameters()
    for name, array in values.items():
        assert np.abs(reference[name] - array).max() > 1e-4
        np.testing.assert_allclose(after[name] - before[name], reference[name] - array, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('kind', 'bits'), [(None, 2), ('channel', 5), ('split', 3)])
def test_finish_puts_few_values_into_the_scope(kind: str | None, bits: int) -> None:
    net = Training()
    test = slim.core.clone_program(net.main, for_test=True)
    feed = net.batch()
    done = UniformQuantizer(bits, bucket=kind, bucket_size=32, quantize_all_layers=True).apply(net.main, net.scope)
    net.train(2)
    evaluation = slim.core.clone_program(net.main, for_test=True)
    fetch = [net.logits]
    (wanted,) = slim.Executor().run(evaluation, feed, fetch, scope=net.scope)
    report = done.finish(net.scope)
    (found,) = slim.Executor().run(test, feed, fetch, scope=net.scope)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert len(done.layers) == 5 and len(report.quantized) == 5
    for layer in done.layers:
        counts = [len(values) for values in members(layer.buckets, load_array(net.scope, layer.weight))]
        assert max(counts) <= 2**bits
        assert kind == 'split' or min(counts) > 2
    (again,) = slim.Executor().run(evaluation, feed, fetch, scope=net.scope)
    np.testing.assert_allclose(again, wanted, rtol=1e-4, atol=1e-5)


def test_first_and_last_layer_stay_in_float_and_it_is_said() -> None:
    net = Training(minimize=False)
    done = UniformQuantizer().apply(net.main, net.scope)
    names = [var.name() for var in GraphWrapper(net.main).all_parameters() if len(var.shape()) > 1]
    assert [layer.weight for layer in done.layers] == names[1:-1]
    assert sorted(reason.split(' layer')[0] for reason in done.report.skipped.values()) == [
        'it is the first',
        'it is the last',
    ]
    assert 'first layer' in str(done.report)
    other = Training(minimize=False)
    chosen = UniformQuantizer(quantize_all_layers=True, quantizable_op_type=['conv2d']).apply(other.main, other.scope)
    assert [layer.weight for layer in chosen.layers] == [name for name in names if 'conv' in name][::2]


def test_bits_by_layer() -> None:
    net = Training(minimize=False)
    names = [layer.weight for layer in UniformQuantizer().apply(net.main, net.scope).layers]
    other = Training(minimize=False)
    done = UniformQuantizer(dict(zip(names, [2, 3, 8]))).apply(other.main, other.scope)
    assert [len(np.unique(array)) for array in done.values(other.scope).values()][:2] == [4, 8]
    third = Training(minimize=False)
    with pytest.raises(ConfigError, match=f'no entry for {names[1]!r}'):
        UniformQuantizer({names[0]: 3}).apply(third.main, third.scope)
    with pytest.raises(ConfigError, match='did you mean'):
        UniformQuantizer({**dict.fromkeys(names, 3), names[0] + 'x': 2}).apply(third.main, third.scope)


def test_pruned_weights_keep_their_zeros_by_default() -> None:
    net = Training()
    pruned = [var.name() for var in GraphWrapper(net.main).all_parameters() if len(var.shape()) > 1][2]
    array = load_array(net.scope, pruned)
    array[np.abs(array) < 0.4] = 0
    store_array(net.scope, pruned, array)
    done = UniformQuantizer(3, bucket='channel').apply(net.main, net.scope)
    assert [layer.keep_zeros for layer in done.layers] == [False, True, False]
    assert str(done.report).count('zeros are kept') == 1
    found = done.values(net.scope)[pruned]
    assert not found[array == 0].any() and found.any()
    plain = Training()
    store_array(plain.scope, pruned, array)
    free = UniformQuantizer(3, bucket='channel', keep_zeros=False).apply(plain.main, plain.scope)
    assert free.values(plain.scope)[pruned][array == 0].any()


@pytest.mark.parametrize('minimized', [False, True])
def test_activations_have_the_range_of_the_batch(minimized: bool) -> None:
    net = Training(minimize=minimized)
    graph = GraphWrapper(net.main)
    names = [op.all_outputs()[0].name() for op in graph.ops() if op.type() == 'relu']
    done = UniformQuantizer(8, 3).apply(net.main, net.scope)
    assert list(done.activations) == names
    evaluation = slim.core.clone_program(net.main, for_test=True)
    graph = GraphWrapper(evaluation)
    read = [
        next(op for op in graph.ops() if op.type() == kind).inputs(slot)[0].name()
        for kind, slot in (('depthwise_conv2d', 'Input'), ('pool2d', 'X'))
    ]
    arrays = slim.Executor().run(evaluation, net.batch(5), [names[0], names[2], *read], scope=net.scope)
    for before, after in zip(arrays[:2], arrays[2:]):
        assert 4 <= len(np.unique(after)) <= 8
        np.testing.assert_allclose(after, uniform_values(before, 3), rtol=1e-5, atol=1e-5)


def test_a_merged_teacher_is_left_alone() -> None:
    net, teacher = Training(minimize=False), Training(minimize=False, seed=3)
    merged = slim.dist.merge(
        teacher.main,
        net.main,
        {'image': 'image', 'label': 'label'},
        paddle.CPUPlace(),
        scope=net.scope,
        teacher_scope=teacher.scope,
    )
    done = UniformQuantizer(2, 3, quantize_all_layers=True).apply(net.main, net.scope)
    assert len(done.layers) == 5 and len(done.activations) == 4
    assert not any(name.startswith(merged.prefix) for name in [*done.activations, *(x.weight for x in done.layers)])


def test_what_is_refused_changes_nothing() -> None:
    net = Training()
    names = [var.name() for var in GraphWrapper(net.main).all_parameters() if len(var.shape()) > 1]
    ops, state = repr(GraphWrapper(net.main).ops()), net.parameters()
    cases: list[tuple[type[Exception], str, Any]] = [
        (ConfigError, 'bucket', {'bucket': 'chanel'}),
        (ConfigError, 'bucket_size', {'bucket': 'split', 'bucket_size': 1}),
        (ConfigError, 'weight_bits', {'weight_bits': 9}),
        (ConfigError, 'weight_bits', {'weight_bits': True}),
        (ConfigError, 'activation_bits', {'activation_bits': 16}),
        (ConfigError, 'no weight to quantize', {'quantizable_op_type': ['conv2d_transpose']}),
        (GraphError, 'skip_tensor_list', {'skip_tensor_list': ['nothing']}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            UniformQuantizer(**options).apply(net.main, net.scope)
    store_array(net.scope, names[3], np.full_like(state[names[3]], np.nan))
    with pytest.raises(DataError, match='NaN'):
        UniformQuantizer().apply(net.main, net.scope)
    store_array(net.scope, names[3], state[names[3]])
    with pytest.raises(GraphError, match='has no initialized tensor'):
        UniformQuantizer().apply(net.main, paddle.static.Scope())
    assert repr(GraphWrapper(net.main).ops()) == ops
    UniformQuantizer().apply(net.main, net.scope)
    with pytest.raises(GraphError, match='fake quantizers already'):
        UniformQuantizer().apply(net.main, net.scope)
    for name, array in net.parameters().items():
        np.testing.assert_array_equal(array, state[name])
