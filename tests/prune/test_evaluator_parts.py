"""Cutting a network where its parameters change: what is cut off, what is kept, what cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import GraphError
from paddleslim_ng.models.classification import build_classifier
from paddleslim_ng.prune.evaluation.engines import ExecutorEngine
from paddleslim_ng.prune.evaluation.prefix_cache import NetworkRun
from paddleslim_ng.prune.evaluation.subprogram import Part, boundary, extract
from tests.prune.sensitivity_net import Measured, measured


@pytest.fixture
def net() -> Iterator[Measured]:
    with measured() as built:
        yield built


def whole(net: Measured) -> Part:
    return extract(net.program, ['image'], [GraphWrapper.name_of(net.net.probabilities)])


def test_the_whole_is_free_of_loss_and_labels(net: Measured) -> None:
    part = whole(net)
    assert part.feeds == ('image',)
    types = {op.type() for op in GraphWrapper(part.program).ops()}
    assert 'conv2d' in types
    assert not types & {'accuracy', 'softmax_with_cross_entropy'}
    ours = ExecutorEngine(paddle.CPUPlace()).runner(part, net.scope)
    for feed, expected in zip(net.feeds, net.outputs(net.program)):
        assert np.array_equal(ours.run(feed)[0], expected)


@pytest.mark.parametrize(
    ('parameter', 'tensors'),
    [('c1_weights', 0), ('c2_weights', 1), ('dw_weights', 2), ('c4_weights', 1), ('fc_weights', 1)],
)
def test_halves_compute_the_whole(net: Measured, parameter: str, tensors: int) -> None:
    """The residual branch must be handed over as well where the cut goes through the block."""
    part, engine, feed = whole(net), ExecutorEngine(paddle.CPUPlace()), net.feeds[0]
    graph = GraphWrapper(part.program)
    cut = boundary(graph, [parameter], part.fetches)
    assert cut is not None
    inner = [name for name in cut if name != 'image']
    assert len(inner) == tensors
    kept: dict[str, Any] = dict(feed)
    if inner:
        first = extract(graph, ['image'], inner)
        assert parameter not in {var.name() for var in GraphWrapper(first.program).all_parameters()}
        kept.update(zip(first.fetches, engine.runner(first, net.scope).run(feed)))
    second = extract(graph, cut, part.fetches)
    expected = engine.runner(part, net.scope).run(feed)[0]
    assert np.array_equal(engine.runner(second, net.scope).run(kept)[0], expected)


def test_constants_are_not_handed_over(net: Measured) -> None:
    """The bias of the classifier is reshaped or added as it is; either way it is no tensor of the data."""
    part = whole(net)
    cut = boundary(GraphWrapper(part.program), ['c4_weights'], part.fetches)
    assert cut is not None
    assert len(cut) == 1


def test_independent_result_cannot_be_cut(net: Measured) -> None:
    first = GraphWrapper(net.program).var('c1_weights').outputs()[0].outputs('Output')[0].name()
    part = extract(net.program, ['image'], [first])
    assert boundary(GraphWrapper(part.program), ['c1_weights'], [first]) == ['image']
    assert boundary(GraphWrapper(net.program), ['c4_weights'], [first]) is None


def test_needed_input_must_be_fed(net: Measured) -> None:
    with pytest.raises(GraphError, match='image'):
        extract(net.program, ['label'], [GraphWrapper.name_of(net.net.probabilities)])


class Counting(ExecutorEngine):
    """Counts runs, by the number of operators of what ran."""

    def __init__(self) -> None:
        super().__init__(paddle.CPUPlace())
        self.sizes: list[int] = []

    def runner(self, part: Part, scope: Any) -> Any:
        inner, size, sizes = super().runner(part, scope), len(GraphWrapper(part.program).ops()), self.sizes

        class Runner:
            def run(self, feed: Any) -> Any:
                sizes.append(size)
                return inner.run(feed)

        return Runner()


@pytest.mark.parametrize(('room', 'prefix_runs'), [(10**9, 4), (0, 12), (2 * 6 * 12 * 64 * 4, 4 + 2 * 2)])
def test_shared_prefix_runs_once(net: Measured, room: int, prefix_runs: int) -> None:
    """12 channels of 8x8 float32 come before c4; room for two batches of six leaves two to be computed each time."""
    engine = Counting()
    run = NetworkRun(whole(net), net.scope, engine, net.feeds, room)
    for count in (1, 2, 3):
        outputs = list(run.masked({'c4_weights': [(0, np.arange(count))]}))
        assert len(outputs) == 4
    sizes = sorted(set(engine.sizes))
    assert len(sizes) == 2
    assert sorted(engine.sizes.count(size) for size in sizes) == sorted([prefix_runs, 12])


def test_unchanged_variant_equals_the_network(net: Measured) -> None:
    run = NetworkRun(whole(net), net.scope, ExecutorEngine(paddle.CPUPlace()), net.feeds, 10**9)
    nothing = np.zeros(0, dtype=np.int64)
    for plain, masked in zip(run.plain(), run.masked({'c2_weights': [(0, nothing)]})):
        assert np.array_equal(plain[0], masked[0])


@pytest.mark.full
@pytest.mark.parametrize('model', ['MobileNetV3Small', 'ResNet18', 'ShuffleNetV2', 'GoogLeNet', 'DenseNet121'])
def test_zoo_cut_everywhere(model: str) -> None:
    scope, engine = paddle.static.Scope(), ExecutorEngine(paddle.CPUPlace())
    with paddle.static.scope_guard(scope), paddle.utils.unique_name.guard():
        net = build_classifier(model, [3, 64, 64], 5, seed=1, scope=scope)
    part = extract(net.val_program, ['image'], [GraphWrapper.name_of(net.probabilities)])
    graph = GraphWrapper(part.program)
    feed = {'image': np.random.default_rng(0).standard_normal([2, 3, 64, 64]).astype('float32')}
    expected = engine.runner(part, scope).run(feed)[0]
    weights = [var.name() for var in graph.all_parameters() if len(var.shape()) == 4]
    for name in weights[:: max(1, len(weights) // 12)]:
        cut = boundary(graph, [name], part.fetches)
        assert cut is not None
        inner = [item for item in cut if item != 'image']
        kept: dict[str, Any] = dict(feed)
        if inner:
            first = extract(graph, ['image'], inner)
            kept.update(zip(first.fetches, engine.runner(first, scope).run(feed)))
        second = extract(graph, cut, part.fetches)
        assert np.array_equal(engine.runner(second, scope).run(kept)[0], expected), name
