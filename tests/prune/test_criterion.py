"""Scores of channels: definitions, the tutorial's figures, batch norm scales, callables, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.models.layers import batch_norm, conv, conv_bn
from paddleslim_ng.prune import CRITERION, Pruner, PruningSession
from paddleslim_ng.prune.criterion import Random, geometry_median, get_criterion, l0_norm, l1_norm, l2_norm
from tests.conftest import Fresh
from tests.prune.pruning_net import PARAMETERS, Built, build, randomize


@pytest.fixture
def net() -> Built:
    return build()


def scores_of(net: Built, criterion: Any, names: list[str] = PARAMETERS, program: Any = None) -> dict[str, Any]:
    session = PruningSession(program or net.val, net.scope, criterion)
    return dict(session._score([session.request(name, 0.5) for name in names]))


def test_worked_figures_of_the_tutorial() -> None:
    """Three 2 x 2 filters over one input channel, the green and the orange of the tutorial's picture among them."""
    orange, green = [0.3, 0.5, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]
    # The third differs from the orange one by 0.2; the orange one from the green one by the root of 0.34.
    filters = np.array([orange, green, [0.2, 0.4, 0.1, 0.1]], dtype='float32').reshape(3, 1, 2, 2)
    assert l1_norm(filters, 0)[1] == pytest.approx(0 + 0.5 + 0.5 + 0)
    assert l0_norm(filters, 0)[1] == 2
    assert geometry_median(filters, 0)[0] == pytest.approx(0.2 + 0.5831, abs=5e-5)


@pytest.mark.parametrize('shape', [(7,), (5, 6), (6, 4, 3, 3), (4, 3, 2, 3, 2)])
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_definitions(shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    values[np.abs(values) < 0.3] = 0
    for axis in range(len(shape)):
        rows = [np.take(values, i, axis=axis).astype('float64').ravel() for i in range(shape[axis])]
        distances = [sum(np.sqrt(((a - b) ** 2).sum()) for b in rows) for a in rows]
        tolerance = {'rtol': 1e-6, 'atol': 1e-7}
        np.testing.assert_array_equal(l0_norm(values, axis), [(row != 0).sum() for row in rows])
        np.testing.assert_allclose(l1_norm(values, axis), [np.abs(row).sum() for row in rows], **tolerance)
        np.testing.assert_allclose(l2_norm(values, axis), [np.sqrt((row**2).sum()) for row in rows], **tolerance)
        np.testing.assert_allclose(geometry_median(values, axis), distances, **tolerance)


def test_equal_filters_are_at_no_distance() -> None:
    assert geometry_median(np.full([3, 2, 3, 3], 0.1, dtype='float32'), 0).max() < 1e-6


@pytest.mark.parametrize('name', sorted(CRITERION))
def test_every_criterion_prunes_and_the_result_is_proved(net: Built, name: str) -> None:
    pruner = Pruner(name)
    pruner.prune(net.val, net.scope, PARAMETERS[:3], [0.25, 0.25, 0.5])
    assert pruner.report.equivalence is not None
    assert [entry.removed for entry in pruner.report.pruned] == [3, 3, 8]


@pytest.mark.parametrize('name', sorted(CRITERION))
def test_lowest_scores_leave(net: Built, name: str) -> None:
    session = PruningSession(net.val, net.scope, name)
    scores = scores_of(net, name, ['c1_weights'])['c1_weights']
    order = np.argsort(scores, kind='stable')
    removed = dict(session.footprint('c1_weights', 0.25)['c1_weights'])[0]
    assert sorted(order[:3]) == removed.tolist()


def test_batch_norm_scale_is_that_of_the_norm_behind_the_parameter(net: Built) -> None:
    scores = scores_of(net, 'bn_scale', ['c1_weights', 'c2_weights', 'dw_weights', 'c3_weights'])
    for name, found in scores.items():
        scale = load_array(net.scope, name.replace('weights', 'bn_scale'))
        np.testing.assert_allclose(found, np.abs(scale), rtol=1e-6)


def test_batch_norm_scale_behind_a_concat(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, 3, 6, 6])
    left, right = conv(x, 4, 3, name='a', bias=True), conv(x, 3, 3, name='b')
    y = batch_norm(paddle.concat([left, paddle.nn.functional.relu(right)], axis=1), name='bn')
    conv(y, 2, 1, name='c')
    fresh.exe.run(fresh.startup)
    scale = np.array([1, -2, 3, 4, -5, 6, 7], dtype='float32')
    store_array(fresh.scope, 'bn_scale', scale)
    session = PruningSession(fresh.main, fresh.scope, 'bn_scale')
    scores = session._score([session.request('a_weights', 0.5), session.request('b_weights', 0.5)])
    assert scores['a_weights'].tolist() == [1, 2, 3, 4]
    assert scores['b_weights'].tolist() == [5, 6, 7]


def test_batch_norm_scale_names_the_parameter_without_one(net: Built) -> None:
    before = net.values(net.val)
    with pytest.raises(ConfigError, match="'c4_weights': no batch norm"):
        Pruner('bn_scale').prune(net.val, net.scope, PARAMETERS, [0.5] * 4)
    after = net.values(net.val)
    assert all((before[name] == after[name]).all() for name in before)


def test_frozen_parameters_are_skipped_not_scored(net: Built) -> None:
    pruner = Pruner('bn_scale')
    pruner.prune(net.val, net.scope, ['c1_weights', 'fc_weights'], [0.5, 0.5])
    assert [entry.name for entry in pruner.report.skipped] == ['fc_weights']


def test_training_programs_give_the_same_scores(net: Built) -> None:
    names = PARAMETERS[:3]
    for criterion in CRITERION:
        val, train = scores_of(net, criterion, names), scores_of(net, criterion, names, net.train)
        assert all((val[name] == train[name]).all() for name in names)


def test_random_depends_on_seed_and_name_only(net: Built) -> None:
    first, again = scores_of(net, 'random'), scores_of(net, Random(0), PARAMETERS[::-1])
    other = scores_of(net, Random(7))
    assert all((first[name] == again[name]).all() for name in PARAMETERS)
    assert all((first[name] != other[name]).any() for name in PARAMETERS)
    assert (first['c1_weights'] != first['c2_weights']).any()
    assert repr(Random(7)) == 'Random(seed=7)'
    with pytest.raises(ConfigError, match='seed'):
        Random(-1)


def by_last_weight(group: Any, values: Mapping[str, Any], graph: Any) -> dict[str, dict[int, Any]]:
    """A criterion of PaddleSlim's form: position 0 is worth least."""
    name, axis = group.master['name'], group.master['axis']
    assert (group[0].name, group[0].axis, list(group[0].transforms)) == (name, axis, [])
    assert set(group.variables()) == set(values) >= {name}
    assert all(values[member].shape == graph.var(member).shape() for member in group.variables())
    infos = {(info.name, info.axis): info.op.type() for info in group.all_prune_info()}
    assert infos[name, axis] in ('conv2d', 'depthwise_conv2d')
    return {name: {axis: np.arange(values[name].shape[axis])}}


def test_callables_of_the_old_form(net: Built) -> None:
    footprint = PruningSession(net.val, net.scope, by_last_weight).footprint('c1_weights', 0.25)
    assert dict(footprint['c1_weights'])[0].tolist() == [0, 1, 2]
    groups = []
    Pruner(lambda group, values, graph: groups.append(group) or by_last_weight(group, values, graph)).prune(
        net.train, net.scope, PARAMETERS[:1], [0.5], only_graph=True
    )
    assert {('c2_weights', 0), ('c3_weights', 1), ('dw_weights', 0), ('c1_bn_mean', 0)} <= {
        tuple(m[:2]) for m in groups[0]
    }


@pytest.mark.parametrize(
    'result',
    [
        None,
        {},
        {'c1_weights': {}},
        {'c1_weights': {0: np.ones(3)}},
        {'c1_weights': {0: np.full(12, np.nan)}},
        {'c1_weights': {0: ['low'] * 12}},
    ],
)
def test_unusable_results_of_callables(net: Built, result: Any) -> None:
    with pytest.raises(ConfigError, match="'c1_weights'"):
        Pruner(lambda *_: result).prune(net.val, net.scope, ['c1_weights'], [0.5])


@pytest.mark.parametrize('name', ['l0_norm', 'l1_norm', 'l2_norm', 'geometry_median', 'bn_scale', 'callable'])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(net: Built, name: str, bad: float) -> None:
    broken = 'c1_bn_scale' if name == 'bn_scale' else 'c1_weights'
    values = load_array(net.scope, broken)
    values.flat[3] = bad
    store_array(net.scope, broken, values)
    criterion = by_last_weight if name == 'callable' else name
    with pytest.raises(DataError, match=f"1 of {values.size} values of '{broken}'"):
        Pruner(criterion).prune(net.val, net.scope, ['c1_weights'], [0.5])
    assert load_array(net.scope, 'c1_weights').shape == (12, 3, 3, 3)


def test_large_values_are_no_error(net: Built) -> None:
    values = load_array(net.scope, 'c1_weights')
    store_array(net.scope, 'c1_weights', values * np.float32(1e30))
    assert np.isfinite(scores_of(net, 'l1_norm')['c1_weights']).all()


def test_what_is_no_criterion(net: Built) -> None:
    with pytest.raises(ConfigError, match="did you mean 'l1_norm'"):
        Pruner('l1norm')
    with pytest.raises(ConfigError, match='pass Taylor'):
        get_criterion('taylor')
    for wrong in (3, Random):
        with pytest.raises(ConfigError, match='criterion must be'):
            Pruner(wrong)


def test_other_norms_are_not_mistaken_for_batch_norm(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, 3, 6, 6])
    y = paddle.nn.functional.instance_norm(conv(x, 4, 3, name='a'))
    conv_bn(y, 2, 1, name='b')
    fresh.exe.run(fresh.startup)
    randomize(fresh.main, fresh.scope, 0)
    with pytest.raises(ConfigError, match="'a_weights': no batch norm"):
        Pruner('bn_scale').prune(fresh.main, fresh.scope, ['a_weights'], [0.5])
