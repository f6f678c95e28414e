"""One ranking for all layers: exact costs, targets met within a channel's worth, limits kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.analysis import flops, model_size
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError, NotPrunableError
from paddleslim_ng.models.layers import conv, global_average, linear
from paddleslim_ng.prune import Pruner, PruningSession
from paddleslim_ng.prune.costs import FlopsAfterCut, ParamsAfterCut, marginal_costs
from paddleslim_ng.prune.global_ranking import NORMALIZATIONS, GlobalRanking
from tests.conftest import Fresh
from tests.prune.pruning_net import PARAMETERS, Built, build, fine_network, randomize

COST = {'flops': flops, 'params': model_size}
LIMITS = [0.95] * 4


@pytest.fixture(scope='module')
def wide() -> Built:
    """Fine enough for targets to be met closely; only graphs are pruned, so tests may share it."""
    return build(scale=4, body=fine_network)


@pytest.fixture(scope='module')
def coarse() -> Built:
    """Splits, shuffles and groups, in which channels leave in large classes."""
    return build(scale=2)


def prune(net: Built, selector: Any, limits: Any = LIMITS, program: Any = None, **options: Any) -> tuple[Any, Pruner]:
    pruner = Pruner(idx_selector=selector, **options)
    pruned, _, _ = pruner.prune(program or net.val, net.scope, PARAMETERS, limits, only_graph=True)
    return pruned, pruner


def kept(program: Any) -> dict[str, int]:
    return {name: GraphWrapper(program).var(name).shape()[0] for name in PARAMETERS}


@pytest.mark.parametrize('seed', range(3))
def test_costs_are_those_of_the_pruned_program(coarse: Built, seed: int) -> None:
    ratios = np.random.default_rng(seed).uniform(0.2, 0.9, 4)
    for program in (coarse.val, coarse.train):
        session = PruningSession(program, coarse.scope, 'random')
        cut = session.decide(PARAMETERS, ratios).cut
        pruned, _, _ = Pruner('random').prune(program, coarse.scope, PARAMETERS, ratios, only_graph=True)
        assert FlopsAfterCut(session.analysis)(cut) == flops(pruned) < flops(program)
        assert ParamsAfterCut(session.analysis)(cut) == model_size(pruned) < model_size(program)


def test_costs_of_attention_and_open_sizes(fresh: Fresh, ir: str) -> None:
    if ir == 'legacy' and not paddle.__version__.startswith('2.'):
        pytest.skip('Paddle 3 builds no product of two activations on legacy programs')
    x = paddle.static.data('x', [-1, 3, -1, -1], 'float32')
    h = paddle.transpose(paddle.flatten(conv(x, 8, 3, name='a', bias=True), 2), [0, 2, 1])
    q, k = (linear(h, 12, weight=f'{n}_weights', bias=f'{n}_offset') for n in 'qk')
    y = paddle.matmul(paddle.nn.functional.softmax(paddle.matmul(q, k, transpose_y=True)), h)
    linear(y, 4, weight='end_weights', bias='end_offset')
    fresh.exe.run(fresh.startup)
    randomize(fresh.main, fresh.scope, 0)
    sizes = {'x': [None, 3, 6, 6]}
    names, ratios = ['a_weights', 'q_weights'], [0.5, 0.25]
    session = PruningSession(fresh.main, fresh.scope)
    cut = session.decide(names, ratios).cut
    pruned, _, _ = Pruner().prune(fresh.main, fresh.scope, names, ratios, only_graph=True)
    expected = flops(pruned, input_shapes=sizes)
    assert FlopsAfterCut(session.analysis, sizes)(cut) == expected < flops(fresh.main, input_shapes=sizes)


def test_marginal_costs_are_what_single_classes_save(coarse: Built) -> None:
    session = PruningSession(coarse.val, coarse.scope)
    for cost in (FlopsAfterCut(session.analysis), ParamsAfterCut(session.analysis)):
        classes = np.unique(np.concatenate([session.request(name, 0.5).classes for name in PARAMETERS]))
        saved = marginal_costs(session.analysis, classes, cost)
        whole = cost(session.decide(PARAMETERS[:1], [0.0]).cut)
        for name in PARAMETERS:
            request = session.request(name, 0.0)
            ratio = request.sizes.min() / len(request.labels)
            one = session.decide([name], [ratio]).cut
            found = saved[np.searchsorted(classes, request.classes)].tolist()
            assert found == [whole - cost(one)] * len(request.classes)


@pytest.mark.parametrize('target', ['flops', 'params'])
@pytest.mark.parametrize('ratio', [0.2, 0.5, 0.8])
def test_targets_are_met(wide: Built, target: str, ratio: float) -> None:
    pruned, pruner = prune(wide, GlobalRanking(target, ratio))
    removed = 1 - COST[target](pruned) / COST[target](wide.val)
    assert removed == pytest.approx(ratio, abs=0.015)
    assert f'global ranking: {removed:.4f}' in pruner.report.notes[-1]


@pytest.mark.parametrize('options', [{'normalize': name} for name in NORMALIZATIONS] + [{'per_cost': True}])
def test_every_option_meets_the_target_on_training_programs_too(wide: Built, options: dict[str, Any]) -> None:
    pruned, _ = prune(wide, GlobalRanking('flops', 0.4, **options), program=wide.train)
    assert 1 - flops(pruned) / flops(wide.val) == pytest.approx(0.4, abs=0.015)


def test_the_scope_is_cut_and_the_result_proved() -> None:
    net = build()
    pruner = Pruner(idx_selector=GlobalRanking('flops', 0.5))
    pruned, _, _ = pruner.prune(net.val, net.scope, PARAMETERS, LIMITS)
    assert pruner.report.equivalence is not None
    assert 1 - flops(pruned) / flops(net.val) == pytest.approx(0.5, abs=0.06)


def test_coarse_networks_come_as_near_as_their_classes_allow(coarse: Built) -> None:
    pruned, pruner = prune(coarse, GlobalRanking('params', 0.5))
    assert 1 - model_size(pruned) / model_size(coarse.val) == pytest.approx(0.5, abs=0.1)
    assert 'global ranking' in pruner.report.notes[-1]


def test_ratios_are_upper_limits(wide: Built) -> None:
    limits = [0.5, 0.5, 0.0, 0.3]
    pruned, _ = prune(wide, GlobalRanking('flops', 0.4), limits)
    for (name, count), limit, size in zip(kept(pruned).items(), limits, [48, 48, 64, 64]):
        assert size - count <= limit * size, name
    assert kept(pruned)['c3_weights'] == 64


def test_counts_are_multiples(wide: Built) -> None:
    limits = [0.9, 0.9, 0.7, 0.7]
    pruned, _ = prune(wide, GlobalRanking('flops', 0.5), limits, round_to=8)
    assert all(count % 8 == 0 for count in kept(pruned).values())
    assert 1 - flops(pruned) / flops(wide.val) == pytest.approx(0.5, abs=0.08)
    for (name, count), limit, size in zip(kept(pruned).items(), limits, [48, 48, 64, 64]):
        assert size - count <= limit * size, name


def test_out_of_reach(wide: Built) -> None:
    with pytest.raises(ConfigError, match='at most 0.* of the flops can be removed'):
        prune(wide, GlobalRanking('flops', 0.9), [0.2] * 4)
    with pytest.raises(NotPrunableError):
        Pruner(idx_selector=GlobalRanking()).prune(wide.val, wide.scope, ['fc_weights'], [0.9], only_graph=True)


@pytest.mark.parametrize('name', sorted(NORMALIZATIONS))
def test_normalized_scores_do_not_depend_on_the_scale_of_a_layer(name: str) -> None:
    net = build(scale=2, body=fine_network)
    selector = GlobalRanking('params', 0.3, normalize=name)
    before = kept(prune(net, selector)[0])
    store_array(net.scope, 'c3_weights', load_array(net.scope, 'c3_weights') / 50)
    after = kept(prune(net, selector)[0])
    if name == 'none':
        assert after['c3_weights'] < before['c3_weights'] == 32
    else:
        assert after == before


def test_weak_channels_leave_whatever_layer_they_are_in(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
    h = conv(conv(x, 16, 3, name='a', bias=True, act='relu'), 16, 3, name='b', bias=True, act='relu')
    linear(global_average(h), 4, weight='fc_weights', bias='fc_offset')
    fresh.exe.run(fresh.startup)
    randomize(fresh.main, fresh.scope, 0)
    weak = {'a_weights': [2, 5, 11], 'b_weights': [0, 1, 3, 7, 15]}
    for name, positions in weak.items():
        values = load_array(fresh.scope, name)
        values[positions] *= 1e-3
        store_array(fresh.scope, name, values)
    session = PruningSession(fresh.main, fresh.scope, 'l2_norm')
    cost = ParamsAfterCut(session.analysis)
    saved = 3 * (3 * 9 + 1) + 5 * (16 * 9 + 1 + 4) + 3 * 16 * 9 - 3 * 5 * 9
    selector = GlobalRanking('params', saved / cost(session.decide(['a_weights'], [0.0]).cut))
    _, backup, _ = Pruner('l2_norm', selector).prune(fresh.main, fresh.scope, list(weak), [0.9, 0.9], param_backup=True)
    for name, positions in weak.items():
        stays = np.setdiff1d(np.arange(16), positions)
        inner = slice(None) if name == 'a_weights' else np.setdiff1d(np.arange(16), weak['a_weights'])
        np.testing.assert_array_equal(load_array(fresh.scope, name), backup[name][stays][:, inner])


def test_cheap_channels_stay_longer_per_cost(wide: Built) -> None:
    plain, _ = prune(wide, GlobalRanking('flops', 0.4))
    frugal, _ = prune(wide, GlobalRanking('flops', 0.4, per_cost=True))
    # The first two share their channels.
    assert sum(list(kept(frugal).values())[1:]) > sum(list(kept(plain).values())[1:])


@pytest.mark.parametrize(
    'options', [{'target': 'latency'}, {'ratio': 0.0}, {'ratio': 1.0}, {'ratio': float('nan')}, {'normalize': 'median'}]
)
def test_unusable_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GlobalRanking(**options)
