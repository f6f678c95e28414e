"""Bringing one program to a scope that was cut through another, in any order and with any number of cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddleslim_ng.core import GraphWrapper, clone_program, has_array, load_array, store_array
from paddleslim_ng.core.paddle_compat import new_scope
from paddleslim_ng.errors import GraphError
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.records import record_name
from tests.prune.small_nets import Pair, build, convolution, crossed, describe, evaluate, plain, same, values

NETWORKS = {'plain': plain, 'crossed': crossed}
REQUESTS: dict[str, dict[str, float]] = {'plain': {'stem': 0.5, 'last': 0.4}, 'crossed': {'stem': 0.4}}


@pytest.fixture(params=list(NETWORKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _prune(program: Any, pair: Pair, wanted: dict[str, float], **options: Any) -> Any:
    return Pruner().prune(program, options.pop('scope', pair.scope), list(wanted), list(wanted.values()), **options)[0]


def test_training_program_first(kind: str) -> None:
    pair = build(NETWORKS[kind])
    train = _prune(pair.train, pair, REQUESTS[kind])
    after = values(train, pair.scope)
    evaluation = _prune(pair.evaluation, pair, REQUESTS[kind], only_graph=True)
    assert same(values(train, pair.scope), after)
    assert np.array_equal(evaluate(pair, evaluation), evaluate(pair, clone_program(train, for_test=True)))
    shapes = {var.name(): var.shape() for var in GraphWrapper(train).vars()}
    computed = [var for var in GraphWrapper(evaluation).vars() if not var.name().startswith('fill_constant')]
    assert all(shapes[var.name()] == var.shape() for var in computed)


def test_evaluation_program_first(kind: str) -> None:
    pair, other = build(NETWORKS[kind]), build(NETWORKS[kind])
    evaluation = _prune(pair.evaluation, pair, REQUESTS[kind])
    train = _prune(pair.train, pair, REQUESTS[kind], only_graph=True)
    directly = _prune(other.train, other, REQUESTS[kind])
    assert same(values(train, pair.scope), values(directly, other.scope))
    assert describe(train) == describe(directly)
    evaluate(pair, train)
    evaluate(other, directly)
    assert same(values(train, pair.scope), values(directly, other.scope)), 'a training step differs'
    assert evaluate(pair, evaluation).shape == (4, 3, 6, 6)


def test_graph_first_then_scope(kind: str) -> None:
    """Before the scope is cut, the same channels are chosen as will be."""
    pair = build(NETWORKS[kind])
    before = values(pair.train, pair.scope)
    evaluation = _prune(pair.evaluation, pair, REQUESTS[kind], only_graph=True)
    assert same(values(pair.train, pair.scope), before)
    train = _prune(pair.train, pair, REQUESTS[kind])
    assert np.array_equal(evaluate(pair, evaluation), evaluate(pair, clone_program(train, for_test=True)))


def test_ratios_given_with_a_cut_scope_do_not_matter(kind: str) -> None:
    pair = build(NETWORKS[kind])
    train = _prune(pair.train, pair, REQUESTS[kind])
    pruner = Pruner(criterion='l2_norm')
    evaluation, _, _ = pruner.prune(pair.evaluation, pair.scope, ['stem'], [0.1], only_graph=True)
    assert np.array_equal(evaluate(pair, evaluation), evaluate(pair, clone_program(train, for_test=True)))
    removed = load_array(pair.scope, 'stem').shape[0]
    assert [entry.channels - entry.removed for entry in pruner.report.pruned] == [removed]


def _copy(pair: Pair, program: Any, records: bool) -> Any:
    scope = new_scope()
    for name, array in values(program, pair.scope).items():
        store_array(scope, name, array)
        for axis in range(array.ndim if records else 0):
            record = record_name(name, axis)
            if has_array(pair.scope, record):
                store_array(scope, record, load_array(pair.scope, record))
    return scope


def test_a_cut_scope_loaded_afresh() -> None:
    pair = build(plain)
    train = _prune(pair.train, pair, REQUESTS['plain'])
    scope = _copy(pair, train, records=False)
    evaluation = _prune(pair.evaluation, pair, REQUESTS['plain'], only_graph=True, scope=scope)
    assert np.array_equal(evaluate(pair, evaluation, scope), evaluate(pair, clone_program(train, for_test=True)))


def test_a_cut_scope_loaded_afresh_is_ambiguous_where_positions_matter() -> None:
    pair = build(crossed)
    train = _prune(pair.train, pair, REQUESTS['crossed'])
    bare = _copy(pair, train, records=False)
    before = describe(pair.evaluation)
    with pytest.raises(GraphError, match='leaves open which channels were removed'):
        _prune(pair.evaluation, pair, REQUESTS['crossed'], only_graph=True, scope=bare)
    assert describe(pair.evaluation) == before
    scope = _copy(pair, train, records=True)
    evaluation = _prune(pair.evaluation, pair, REQUESTS['crossed'], only_graph=True, scope=scope)
    assert np.array_equal(evaluate(pair, evaluation, scope), evaluate(pair, clone_program(train, for_test=True)))


def test_a_scope_that_fits_no_cut_is_refused() -> None:
    pair = build(plain)
    train = _prune(pair.train, pair, REQUESTS['plain'])
    scope = _copy(pair, train, records=True)
    store_array(scope, 'classes', load_array(scope, 'classes')[:, :-1])
    with pytest.raises(GraphError, match='does not fit this program under any choice'):
        _prune(pair.evaluation, pair, REQUESTS['plain'], only_graph=True, scope=scope)


def test_a_scope_cut_where_an_output_forbids_it_is_refused() -> None:
    """Without the evaluation program's output being named, the training program may lose its channels."""
    pair = build(lambda x: convolution(x, 'stem', 8))
    _prune(pair.train, pair, {'stem': 0.5})
    with pytest.raises(GraphError, match='does not fit'):
        _prune(pair.evaluation, pair, {'stem': 0.5}, only_graph=True)


def test_several_rounds_on_both_programs(kind: str) -> None:
    pair = build(NETWORKS[kind])
    train, evaluation = pair.train, pair.evaluation
    for _ in range(3):
        evaluate(pair, train)
        train = _prune(train, pair, {'stem': 0.25})
        evaluation = _prune(evaluation, pair, {'stem': 0.25}, only_graph=True)
        reference = evaluate(pair, clone_program(train, for_test=True))
        assert np.array_equal(evaluate(pair, evaluation), reference)
        late = _prune(pair.evaluation, pair, {'stem': 0.25}, only_graph=True)
        assert np.array_equal(evaluate(pair, late), reference)
    assert load_array(pair.scope, 'stem').shape[0] == 3


def test_the_other_program_catches_up_after_several_rounds(kind: str) -> None:
    pair = build(NETWORKS[kind])
    evaluation = _prune(pair.evaluation, pair, {'stem': 0.25})
    evaluation = _prune(evaluation, pair, {'stem': 0.3})
    train = _prune(pair.train, pair, {'stem': 0.25}, only_graph=True)
    assert np.array_equal(evaluate(pair, clone_program(train, for_test=True)), evaluate(pair, evaluation))
    assert load_array(pair.scope, 'stem_velocity_0').shape == load_array(pair.scope, 'stem').shape
    evaluate(pair, train)


def test_a_restored_scope_can_be_cut_anew(kind: str) -> None:
    pair = build(NETWORKS[kind])
    _, backup, _ = Pruner().prune(pair.train, pair.scope, ['stem'], [0.25], param_backup=True)
    for name, array in (backup or {}).items():
        store_array(pair.scope, name, array)
    train, _, _ = Pruner(criterion='l2_norm').prune(pair.train, pair.scope, ['stem'], [0.5])
    evaluation = _prune(pair.evaluation, pair, {'stem': 0.5}, only_graph=True)
    assert np.array_equal(evaluate(pair, evaluation), evaluate(pair, clone_program(train, for_test=True)))
