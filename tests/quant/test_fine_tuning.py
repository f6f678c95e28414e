"""Fine-tuning: layers against the float network, and the whole network on its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.fine_tuning import tune_global, tune_layerwise
from paddleslim_ng.quant.non_uniform_quantizer import NonUniformQuantizer
from paddleslim_ng.quant.uniform_quantizer import UniformQuantizer
from paddleslim_ng.runtime import InferenceModel
from tests.quant.low_bit_nets import Training

QUANTIZERS: dict[str, Any] = {
    'uniform': lambda: UniformQuantizer(2, bucket='channel'),
    'weights': lambda: NonUniformQuantizer(2, train='weights'),
    'clusters': lambda: NonUniformQuantizer(2, init='quantile', train='clusters'),
    'both': lambda: NonUniformQuantizer(2, train='both', bucket='channel', keep_zeros=True),
}


def outputs(program: Any, scope: Any, values: dict[str, Any], feeds: list[Any], names: list[str]) -> list[Any]:
    """Run a program with other weights, and return tensors over all batches."""
    own = paddle.static.Scope()
    for var in GraphWrapper(program).all_parameters():
        store_array(own, var.name(), values.get(var.name(), load_array(scope, var.name())))
    part = slim.core.cut_program(program, ['image'], names)
    parts = [slim.Executor().run(part, feed, names, scope=own) for feed in feeds]
    return [np.concatenate(arrays) for arrays in zip(*parts)]


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_every_layer_comes_nearer_to_float(kind: str) -> None:
    net = Training()
    plain = slim.core.clone_program(net.main, for_test=True)
    names = [op.all_outputs()[0].name() for op in GraphWrapper(plain).ops() if op.type() == 'relu'][1:]
    feeds = [{'image': net.batch(12)['image']} for _ in range(3)]
    done = QUANTIZERS[kind]().apply(net.main, net.scope)
    weights = net.parameters()
    exact = outputs(plain, net.scope, {}, feeds, names)
    start = done.values(net.scope)
    model = InferenceModel(plain, ['image'], [net.logits], net.scope)
    results = tune_layerwise(done, model, feeds, steps=40, batch_size=18, lr=0.03)
    assert [result.weight for result in results] == [layer.weight for layer in done.layers] and len(results) == 3
    assert all(result.after <= result.before for result in results)
    assert np.mean([result.after / result.before for result in results]) < 0.9
    end = done.values(net.scope)

    def error(values: dict[str, Any], place: int) -> float:
        (found,) = outputs(plain, net.scope, {**weights, **values}, feeds, names[place : place + 1])
        return float(np.mean((found - exact[place]) ** 2) / np.mean(exact[place] ** 2))

    first = {results[0].weight: start[results[0].weight]}
    assert error(first, 0) == pytest.approx(results[0].before, rel=1e-3)
    assert error(end, 2) == pytest.approx(results[2].after, rel=1e-3)
    after = net.parameters()
    moved = {name for name, array in after.items() if not np.array_equal(array, weights[name])}
    ends = {'uniform': [''], 'weights': [''], 'clusters': ['.codebook'], 'both': ['', '.codebook']}[kind]
    assert moved <= {result.weight + end for result in results for end in ends} and len(moved) >= len(ends)


def test_layers_are_tuned_into_another_scope_and_the_same_way_again() -> None:
    net = Training(minimize=False)
    plain = slim.core.clone_program(net.main, for_test=True)
    feeds = [{'image': net.batch()['image']}]
    done = UniformQuantizer(2).apply(net.main, net.scope)
    before, ends = net.parameters(), []
    for _ in range(2):
        scope = paddle.static.Scope()
        tune_layerwise(done, InferenceModel(plain, ['image'], [net.logits], net.scope), feeds, steps=5, scope=scope)
        ends.append({layer.weight: load_array(scope, layer.weight) for layer in done.layers})
    for name, array in net.parameters().items():
        np.testing.assert_array_equal(array, before[name])
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name])
    with pytest.raises(GraphError, match='without quantizers'):
        tune_layerwise(done, InferenceModel(net.main, ['image'], [net.logits], net.scope), feeds)
    for options in ({'steps': 0}, {'batch_size': True}, {'lr': 0.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            tune_layerwise(done, InferenceModel(plain, ['image'], [net.logits], net.scope), feeds, **options)  # type: ignore[arg-type]


def test_the_whole_network_is_tuned_on_its_loss() -> None:
    net = Training(optimizer=paddle.optimizer.Adam(0.01))
    UniformQuantizer(2, bucket='channel').apply(net.main, net.scope)
    batches = [net.batch(32) for _ in range(4)]
    seen: list[tuple[int, float]] = []
    losses = tune_global(
        net.main, batches, net.loss, steps=30, scope=net.scope, on_step=lambda step, loss: seen.append((step, loss))
    )
    assert seen == list(enumerate(losses, start=1)) and len(losses) == 30
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    with pytest.raises(DataError, match='ended after 4'):
        tune_global(net.main, iter(batches), net.loss, steps=9, scope=net.scope)
    with pytest.raises(ConfigError, match='steps'):
        tune_global(net.main, batches, net.loss, steps=0, scope=net.scope)
    bias = GraphWrapper(net.main).all_parameters()[-1].name()
    store_array(net.scope, bias, np.full_like(load_array(net.scope, bias), np.nan))
    with pytest.raises(DataError, match='step 1'):
        tune_global(net.main, batches, net.loss, steps=2, scope=net.scope)
