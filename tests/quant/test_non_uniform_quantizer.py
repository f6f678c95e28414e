"""Codebooks: how they start, what is nearest, and how weights and points are trained through them on both IRs."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, shape_of, store_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.codebooks import cluster, nearest, start_codebook
from paddleslim_ng.quant.non_uniform_quantizer import NonUniformQuantizer
from tests.quant.low_bit_nets import Training, members

KINDS = [None, 'channel', 'split']


def sgd() -> Any:
    return paddle.optimizer.SGD(0.05)


def quantizer(bits: int = 2, **options: Any) -> NonUniformQuantizer:
    return NonUniformQuantizer(bits, bucket_size=32, optimizer_func=sgd, **options)


def brute_force(array: Any, points: Any, owner: Any) -> Any:
    """Return for every element the place of the nearest of its bucket's points, looking at all of them."""
    return np.abs(array[..., None].astype('float64') - points[owner].astype('float64')).argmin(-1)


def owner_of(layer: Any, array: Any) -> Any:
    buckets = layer.buckets
    return buckets.from_rows(np.repeat(np.arange(buckets.count)[:, None], buckets.rows(array).shape[1], 1))


def test_starts() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 400)).astype('float32')
    evenly = start_codebook(rows, 3, 'uniform')
    for row, book in zip(rows, evenly):
        np.testing.assert_allclose(book, [row.min() + i / 7 * (row.max() - row.min()) for i in range(8)], rtol=1e-5)
    quantiles = start_codebook(rows, 2, 'quantile')
    for row, book in zip(rows, quantiles):
        for number, point in enumerate(book, start=1):
            below = np.mean(row < point)
            assert abs(below - number / 5) <= 1 / 400
    kept = start_codebook(np.where(rng.random(rows.shape) < 0.5, 0, rows), 2, 'kmeans', keep_zeros=True)
    assert kept.shape == (3, 3) and kept.all()


def test_clusters_are_those_of_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(1)
    values = np.concatenate([rng.standard_normal(700), 3 + 0.1 * rng.standard_normal(200)])
    for count in (2, 4, 15):
        start = np.quantile(values, (np.arange(count) + 0.5) / count).reshape(-1, 1)
        model = KMeans(count, init=start, n_init=1, max_iter=300, tol=0, algorithm='lloyd').fit(values.reshape(-1, 1))
        points = cluster(values, count)
        error = float(np.square(values - points[nearest(values, points)]).sum())
        assert error == pytest.approx(model.inertia_, rel=0.02)
        for number, point in enumerate(points):  # every point is the mean of what is nearest to it
            assert values[nearest(values, points) == number].mean() == pytest.approx(point, abs=1e-6)
    assert cluster(np.array([2.0, 1, 2, 1]), 4).tolist() == [1, 2]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('keep_zeros', [False, True])
def test_the_program_takes_the_nearest_point(kind: str | None, keep_zeros: bool) -> None:
    """Of points in any order, as training may leave them."""
    net = Training(minimize=False)
    done = quantizer(3, bucket=kind, keep_zeros=keep_zeros).apply(net.main, net.scope)
    rng = np.random.default_rng(5)
    for layer in done.layers:
        name = layer.weight + '.codebook'
        store_array(net.scope, name, rng.permuted(load_array(net.scope, name), axis=1))
    fetch = [net.weight_read_by(layer.outputs[0]) for layer in done.layers]
    found = slim.Executor().run(net.main, net.batch(), fetch, scope=net.scope)
    for layer, array in zip(done.layers, found):
        weight, points = (load_array(net.scope, layer.weight + end) for end in ('', '.codebook'))
        assert points.shape == (layer.buckets.count, 8 - keep_zeros)
        if keep_zeros:
            points = np.concatenate([points, np.zeros((len(points), 1), 'float32')], 1)
        owner = owner_of(layer, weight)
        wanted = np.take_along_axis(points[owner], brute_force(weight, points, owner)[..., None], -1)[..., 0]
        np.testing.assert_array_equal(array, wanted)
        np.testing.assert_array_equal(done.values(net.scope)[layer.weight], wanted)


@pytest.mark.parametrize(
    ('train', 'kind'),
    [('weights', None), ('clusters', 'channel'), ('both', None), ('both', 'channel'), ('both', 'split')],
)
def test_inserted_before_or_after_minimize(train: str, kind: str | None) -> None:
    ends = []
    for minimized in (False, True):
        net = Training(optimizer=sgd(), minimize=minimized)
        done = quantizer(train=train, bucket=kind, keep_zeros=kind == 'channel').apply(net.main, net.scope)
        if not minimized:
            net.minimize()
            net.start_optimizer()
        start = net.parameters()
        net.train(3)
        ends.append(net.parameters())
    assert ends[0].keys() == ends[1].keys()
    for name, array in ends[0].items():
        np.testing.assert_allclose(array, ends[1][name], rtol=1e-5, atol=1e-6, err_msg=name)
    for layer in done.layers:
        moved = [
            not np.array_equal(ends[0][layer.weight + end], start[layer.weight + end]) for end in ('', '.codebook')
        ]
        assert moved == [train != 'clusters', train != 'weights']


@pytest.mark.parametrize(('kind', 'minimized'), [(None, False), ('channel', True), ('split', False), ('split', True)])
def test_a_point_gets_the_gradients_of_what_it_stands_for(kind: str | None, minimized: bool) -> None:
    net, plain = Training(optimizer=sgd(), minimize=minimized), Training(optimizer=sgd())
    done = quantizer(bucket=kind, keep_zeros=True).apply(net.main, net.scope)
    if not minimized:
        net.minimize()
        net.start_optimizer()
    before = net.parameters()
    values = done.values(net.scope)
    for name, array in values.items():
        store_array(plain.scope, name, array)
    net.train(1)
    plain.train(1)
    after, reference = net.parameters(), plain.parameters()
    for layer in done.layers:
        name, book = layer.weight, layer.weight + '.codebook'
        gradient = (values[name] - reference[name]) / 0.05
        np.testing.assert_allclose((before[name] - after[name]) / 0.05, gradient, rtol=1e-3, atol=1e-4)
        points = np.concatenate([before[book], np.zeros((len(before[book]), 1), 'float32')], 1)
        owner = owner_of(layer, before[name])
        place = brute_force(before[name], points, owner)
        sums = np.zeros(points.shape)
        np.add.at(sums, (owner.reshape(-1), place.reshape(-1)), gradient.reshape(-1))
        assert np.abs(sums).max() > 1e-3
        np.testing.assert_allclose((before[book] - after[book]) / 0.05, sums[:, :-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('kind', [None, 'channel'])
def test_evaluation_takes_over_what_was_trained(kind: str | None) -> None:
    net = Training()
    plain = slim.core.clone_program(net.main, for_test=True)
    other = slim.core.clone_program(net.main, for_test=True)
    feed = net.batch()
    done = quantizer(3, bucket=kind, quantize_all_layers=True).apply(net.main, net.scope)
    net.train(3)
    books = {layer.weight: load_array(net.scope, layer.weight + '.codebook') for layer in done.layers}
    quantizer(3, bucket=kind, quantize_all_layers=True).apply(other, net.scope)
    for name, array in books.items():
        np.testing.assert_array_equal(load_array(net.scope, name + '.codebook'), array)
    clone = slim.core.clone_program(net.main, for_test=True)
    run = slim.Executor().run
    (wanted,) = run(clone, feed, [net.logits], scope=net.scope)
    (found,) = run(other, feed, [net.logits], scope=net.scope)
    np.testing.assert_array_equal(found, wanted)
    report = done.finish(net.scope)
    (last,) = run(plain, feed, [net.logits], scope=net.scope)
    np.testing.assert_allclose(last, wanted, rtol=1e-5, atol=1e-6)
    for layer in done.layers:
        assert max(len(values) for values in members(layer.buckets, load_array(net.scope, layer.weight))) <= 8
    assert len(report.quantized) == 5


def test_codebooks_of_another_size_are_not_taken_over_in_silence() -> None:
    net = Training(minimize=False)
    name = quantizer(3).apply(net.main, net.scope).layers[0].weight + '.codebook'
    other = Training(minimize=False)
    ops = repr(GraphWrapper(other.main).ops())
    with pytest.raises(GraphError, match='restart=True'):
        quantizer(2).apply(other.main, net.scope)
    assert repr(GraphWrapper(other.main).ops()) == ops and shape_of(net.scope, name) == (1, 8)
    quantizer(2).apply(other.main, net.scope, restart=True)
    assert shape_of(net.scope, name) == (1, 4)


def test_pruned_weights_keep_their_zeros() -> None:
    net = Training(optimizer=sgd())
    name = [var.name() for var in GraphWrapper(net.main).all_parameters() if len(var.shape()) > 1][2]
    array = load_array(net.scope, name)
    array[np.abs(array) < 0.4] = 0
    store_array(net.scope, name, array)
    done = quantizer(2, train='clusters', bucket='channel').apply(net.main, net.scope)
    net.train(3)
    assert [layer.keep_zeros for layer in done.layers] == [False, True, False]
    found = done.values(net.scope)[name]
    assert not found[array == 0].any() and found.any()


def shared_weight(minimized: bool) -> dict[str, Any]:
    """Train a network in which two layers have the same weight, and return its parameters."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    linear, rng = paddle.nn.Linear, np.random.default_rng(0)
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        h = linear(4, 8)(paddle.static.data('x', [None, 4], 'float32'))
        for _ in range(2):
            weight = paddle.ParamAttr(name='shared')
            h = paddle.nn.functional.relu(linear(8, 8, weight_attr=weight, bias_attr=False)(h)) + h
        loss = paddle.mean(paddle.square(linear(8, 3)(h)))
        if minimized:
            sgd().minimize(loss)
    run = slim.Executor().run
    for var in GraphWrapper(main).all_parameters():
        store_array(scope, var.name(), (0.3 * rng.standard_normal(var.shape())).astype('float32'))
    done = quantizer(2).apply(main, scope)
    assert [(layer.weight, len(layer.outputs)) for layer in done.layers] == [('shared', 2)]
    kept = {var.name(): load_array(scope, var.name()) for var in GraphWrapper(main).all_parameters()}
    if not minimized:
        with paddle.static.program_guard(main, startup):
            sgd().minimize(loss)
    startup_scope = paddle.static.Scope()
    run(startup, scope=startup_scope)
    for var in GraphWrapper(main).vars():
        if var.persistable() and slim.core.has_array(startup_scope, var.name()) and var.name() not in kept:
            store_array(scope, var.name(), load_array(startup_scope, var.name()))
    for _ in range(3):
        run(main, {'x': rng.standard_normal((8, 4)).astype('float32')}, [loss], scope=scope)
    after = {name: load_array(scope, name) for name in kept}
    assert not np.array_equal(after['shared'], kept['shared'])
    return after


def test_layers_may_share_a_weight() -> None:
    after, before = shared_weight(True), shared_weight(False)
    assert after.keys() == before.keys() and 'shared.codebook' in after
    for name, array in after.items():
        np.testing.assert_allclose(array, before[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('masked_first', [False, True])
def test_masks_cover_weights_and_not_their_points(masked_first: bool) -> None:
    net = Training(optimizer=sgd())

    def mask() -> None:
        pruner = slim.prune.UnstructuredPruner(net.main, mode='ratio', ratio=0.5, scope=net.scope, place=None)
        pruner.step()

    if masked_first:
        mask()
    done = quantizer(2, bucket='channel', keep_zeros=True).apply(net.main, net.scope)
    if not masked_first:
        mask()
    net.train(2)
    arrays = net.parameters()
    assert not any(name.endswith('.codebook') and 0.0 in array for name, array in arrays.items())
    values = done.values(net.scope)
    zero = {name: arrays[name] == 0 for name in values}
    assert sum(int(array.sum()) for array in zero.values()) > 200
    assert not any(values[name][where].any() for name, where in zero.items())


def test_the_optimizer_of_the_points_has_a_learning_rate_of_its_own() -> None:
    net = Training(optimizer=paddle.optimizer.SGD(0.0))
    NonUniformQuantizer(2, train='both', optimizer_func=lambda: paddle.optimizer.Adam(0.01)).apply(net.main, net.scope)
    before = net.parameters()
    net.train(2)
    for name, array in net.parameters().items():
        moved = float(np.abs(array - before[name]).max())
        assert (0.001 < moved < 0.03) if name.endswith('.codebook') else moved == 0, name


def test_what_is_refused_changes_nothing() -> None:
    net = Training()
    ops, state = repr(GraphWrapper(net.main).ops()), net.parameters()
    cases: list[dict[str, Any]] = [{'init': 'kmean'}, {'train': 'all'}, {'weight_bits': 1}, {'bucket': 'row'}]
    for options in cases:
        with pytest.raises(ConfigError, match=next(iter(options))):
            NonUniformQuantizer(**options)
    name = next(name for name, array in state.items() if array.shape == (10, 6, 3, 3))
    store_array(net.scope, name, np.full_like(state[name], np.inf))
    with pytest.raises(DataError, match=name):
        quantizer().apply(net.main, net.scope)
    store_array(net.scope, name, state[name])
    with pytest.raises(ConfigError, match='constant learning rate'):
        scheduled = lambda: paddle.optimizer.SGD(paddle.optimizer.lr.StepDecay(0.1, 2))  # noqa: E731
        NonUniformQuantizer(2, optimizer_func=scheduled).apply(net.main, net.scope)
    assert repr(GraphWrapper(net.main).ops()) == ops
    assert not slim.core.has_array(net.scope, name + '.codebook')
