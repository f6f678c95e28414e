"""Selectors by name, as objects, and as functions of PaddleSlim's form."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.models.layers import conv, conv_bn
from paddleslim_ng.prune import IDX_SELECTOR, Pruner, PruningSession
from paddleslim_ng.prune.idx_selector import LowestScores, OptimalThreshold
from tests.conftest import Fresh
from tests.prune.pruning_net import PARAMETERS, Built, build


@pytest.fixture
def net() -> Built:
    return build()


def removed_positions(net: Built, name: str, ratio: float, **options: Any) -> list[int]:
    footprint = PruningSession(net.val, net.scope, **options).footprint(name, ratio)
    return dict(footprint[name])[0].tolist() if name in footprint else []


def below_threshold(scores: Any, share: float) -> list[int]:
    """The rule written out: weakest first, until their squares exceed the share; equal scores are not parted."""
    order = np.argsort(scores, kind='stable')
    total, spent, taken = sum(float(s) ** 2 for s in scores), 0.0, []
    for position in order.tolist():
        spent += float(scores[position]) ** 2
        if spent > share * total:
            break
        taken.append(position)
    left = [p for p in order.tolist() if p not in taken]
    return sorted(p for p in taken if scores[p] < scores[left[0]])


def removed_by_threshold(fresh: Fresh, scale: Any, share: float) -> list[int]:
    """Prune a convolution of 12 channels by the scales of its batch norm."""
    conv(conv_bn(paddle.static.data('x', [-1, 3, 6, 6]), 12, 3, name='a', act='relu'), 2, 1, name='b')
    fresh.exe.run(fresh.startup)
    store_array(fresh.scope, 'a_bn_scale', scale)
    session = PruningSession(fresh.main, fresh.scope, 'bn_scale', 'optimal_threshold')
    return dict(session.footprint('a_weights', share).get('a_weights', {0: np.zeros(0, int)}))[0].tolist()


@pytest.mark.parametrize('share', [0.0, 0.05, 0.3, 0.6, 0.99])
@pytest.mark.parametrize('ties', [False, True])
def test_optimal_threshold(fresh: Fresh, share: float, ties: bool) -> None:
    scale = np.random.default_rng(4).uniform(-1, 1, 12).astype('float32')
    if ties:
        scale = np.round(scale * 3).astype('float32') / 4
    assert removed_by_threshold(fresh, scale, share) == below_threshold(np.abs(scale), share)


def test_optimal_threshold_of_nothing_but_zeros(fresh: Fresh) -> None:
    assert removed_by_threshold(fresh, np.zeros(12, dtype='float32'), 0.5) == []


def test_optimal_threshold_prunes_and_is_proved(net: Built) -> None:
    pruner = Pruner('bn_scale', 'optimal_threshold', round_to=4)
    pruned, _, _ = pruner.prune(net.val, net.scope, ['c1_weights', 'c3_weights'], [0.3, 0.3])
    assert pruner.report.equivalence is not None
    shapes = [GraphWrapper(pruned).var(name).shape()[0] for name in ('c1_weights', 'c3_weights')]
    assert shapes == [8, 12]
    assert pruner.report.notes == []


def lowest(group: Any, scores: Any, ratios: Any) -> list[tuple[Any, ...]]:
    """The default selector, written by a user of PaddleSlim."""
    name, axis = group.master['name'], group.master['axis']
    order = scores[name][axis].argsort()
    chosen = order[: round(len(order) * ratios[name])]
    return [(member.name, member.axis, chosen, member.transforms) for member in group]


def test_functions_of_the_old_form_decide(net: Built) -> None:
    for name, ratio in zip(PARAMETERS[:2], [0.25, 0.5]):
        assert removed_positions(net, name, ratio, idx_selector=lowest) == removed_positions(net, name, ratio)
    pruner = Pruner('l1_norm', lowest)
    pruner.prune(net.val, net.scope, ['c1_weights', 'fc_weights'], [0.25, 0.5])
    assert pruner.report.equivalence is not None
    assert [entry.removed for entry in pruner.report.pruned] == [3]
    assert [entry.name for entry in pruner.report.skipped] == ['fc_weights']


def test_coupled_parameters_are_decided_once_by_the_larger_ratio(net: Built) -> None:
    calls = []

    def selector(group: Any, scores: Any, ratios: Any) -> list[tuple[Any, ...]]:
        calls.append((group.master['name'], sorted(scores), dict(ratios)))
        return lowest(group, scores, ratios)

    pruner = Pruner('l1_norm', selector)
    pruner.prune(net.val, net.scope, ['c1_weights', 'c2_weights'], [0.25, 0.5], only_graph=True)
    assert calls == [('c2_weights', ['c1_weights', 'c2_weights'], {'c1_weights': 0.25, 'c2_weights': 0.5})]
    assert [entry.removed for entry in pruner.report.pruned] == [6, 6]


def test_classes_leave_whole_or_not_at_all(net: Built) -> None:
    """Behind the shuffle the channels of c3 leave in fours; half a class chosen is no class chosen, and it is said."""
    session = PruningSession(net.val, net.scope)
    request = session.request('c3_weights', 0.5)
    first = np.flatnonzero(request.inverse == 0)
    second = np.flatnonzero(request.inverse == 1)[:2]
    chosen = [*first.tolist(), *second.tolist()]
    pruner = Pruner(idx_selector=lambda group, *_: [(group[0].name, group[0].axis, chosen, [])])
    _, backup, _ = pruner.prune(net.val, net.scope, ['c3_weights'], [0.5], param_backup=True)
    assert pruner.report.pruned[0].removed == len(first) == 4
    assert '4 of 16 channels removed rather than 6' in pruner.report.notes[0]
    kept = np.setdiff1d(np.arange(16), first)
    np.testing.assert_array_equal(load_array(net.scope, 'c3_bn_scale'), backup['c3_bn_scale'][kept])


def test_no_axis_is_left_empty(net: Built) -> None:
    pruner = Pruner(idx_selector=lambda group, *_: [(group[0].name, group[0].axis, range(12), [])])
    pruner.prune(net.val, net.scope, ['c1_weights'], [0.5])
    # The residual sum is split into 5 and 7 channels, and neither part may vanish.
    assert pruner.report.pruned[0].removed == 10


@pytest.mark.parametrize(
    'result',
    [
        None,
        [],
        [('c1_weights', 0)],
        [('c2_weights', 0, [1], [])],
        [('c1_weights', 1, [1], [])],
        [('c1_weights', 0, [12], [])],
        [('c1_weights', 0, [-1], [])],
        [('c1_weights', 0, [0.5], [])],
        [3],
    ],
)
def test_unusable_results_of_functions(net: Built, result: Any) -> None:
    before = net.values(net.val)
    with pytest.raises(ConfigError, match='idx_selector must return'):
        Pruner(idx_selector=lambda *_: result).prune(net.val, net.scope, ['c1_weights'], [0.5])
    assert all((before[name] == after).all() for name, after in net.values(net.val).items())


def test_objects_with_select(net: Built) -> None:
    class Every:
        def select(self, session: Any, requests: Any, scores: Any) -> Any:
            return session.select(requests, scores, {r.name: 3 for r in requests if len(r.labels)})

    pruner = Pruner(idx_selector=Every())
    pruner.prune(net.val, net.scope, ['c1_weights', 'c1_bn_scale', 'fc_weights'], [0.5, 0.5, 0.9])
    assert {entry.name: entry.removed for entry in pruner.report.pruned} == {'c1_weights': 3, 'c1_bn_scale': 3}


def test_what_is_no_selector() -> None:
    with pytest.raises(ConfigError, match="did you mean 'optimal_threshold'"):
        Pruner(idx_selector='optimal')
    with pytest.raises(ConfigError, match='pass an instance'):
        Pruner(idx_selector=LowestScores)
    with pytest.raises(ConfigError, match='got int'):
        Pruner(idx_selector=3)
    assert isinstance(IDX_SELECTOR['default_idx_selector'], LowestScores)
    assert isinstance(IDX_SELECTOR['optimal_threshold'], OptimalThreshold)
