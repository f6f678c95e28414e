"""The pruner's arguments, results, report and check."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, clone_program, has_array, load_array, shape_of, store_array
from paddleslim_ng.errors import ConfigError, EquivalenceError, GraphError, NotPrunableError
from paddleslim_ng.prune import Pruner, verify_equivalence
from paddleslim_ng.prune.channels import Analysis, Mark
from paddleslim_ng.prune.rules import RULES
from tests.prune.small_nets import Pair, build, convolution, describe, evaluate, same, values


@pytest.fixture
def pair() -> Pair:
    return build()


def _lowest(weight: Any, count: int) -> Any:
    return np.sort(np.argsort(np.abs(weight).sum(axis=(1, 2, 3)), kind='stable')[:count])


def test_removes_the_filters_of_lowest_norm_and_what_depends_on_them(pair: Pair) -> None:
    weight, next_weight = load_array(pair.scope, 'last'), load_array(pair.scope, 'classes')
    gone = _lowest(weight, 6)
    pruned, backup, shapes = Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5])
    assert backup is None
    assert shapes is None
    assert np.array_equal(load_array(pair.scope, 'last'), np.delete(weight, gone, axis=0))
    assert np.array_equal(load_array(pair.scope, 'classes'), np.delete(next_weight, gone, axis=1))
    assert GraphWrapper(pruned).var('last').shape() == (6, 8, 3, 3)
    assert evaluate(pair, pruned).shape == (4, 3, 6, 6)


def test_leaves_the_given_program_alone(pair: Pair) -> None:
    before = describe(pair.evaluation), describe(pair.train)
    Pruner().prune(pair.train, pair.scope, ['stem', 'last'], [0.5, 0.25])
    assert (describe(pair.evaluation), describe(pair.train)) == before


def test_without_a_scope_takes_the_global_one(pair: Pair) -> None:
    with paddle.static.scope_guard(pair.scope):
        Pruner().prune(pair.evaluation, None, ['last'], [0.5])
    assert shape_of(pair.scope, 'last') == (6, 8, 3, 3)


def _drop(name: str) -> Any:
    return lambda pair: pair.scope.erase([name])


def _reshape(name: str) -> Any:
    return lambda pair: store_array(pair.scope, name, load_array(pair.scope, name)[:-1])


REFUSED: dict[str, tuple[Any, str, list[str], list[float], Any, str]] = {
    'unknown name': (GraphError, 'evaluation', ['stem', 'branhc'], [0.5, 0.5], None, "did you mean 'branch'"),
    'not a parameter': (GraphError, 'evaluation', ['x'], [0.5], None, 'not a parameter'),
    'ratio of 1': (ConfigError, 'evaluation', ['stem'], [1.0], None, r'outside \[0, 1\)'),
    'negative ratio': (ConfigError, 'evaluation', ['stem', 'last'], [0.5, -0.1], None, r'outside \[0, 1\)'),
    'ratio that is no number': (ConfigError, 'evaluation', ['stem'], [float('nan')], None, r'outside \[0, 1\)'),
    'lengths differ': (ConfigError, 'evaluation', ['stem', 'last'], [0.5], None, '2 params but 1 ratios'),
    'nothing named': (ConfigError, 'evaluation', [], [], None, 'params is empty'),
    'named twice': (
        ConfigError,
        'evaluation',
        ['stem', 'last', 'stem'],
        [0.5] * 3,
        None,
        r"twice in params: \['stem'\]",
    ),
    'scope lacks the parameter': (
        GraphError,
        'evaluation',
        ['last'],
        [0.5],
        _drop('last'),
        "no initialized tensor 'last'",
    ),
    'scope lacks a coupled one': (
        GraphError,
        'evaluation',
        ['last'],
        [0.5],
        _drop('classes'),
        "no value for 'classes'",
    ),
    'scope lacks an accumulator': (GraphError, 'train', ['last'], [0.5], _drop('last_velocity_0'), "'last_velocity_0'"),
    'wrong shape in the scope': (
        GraphError,
        'evaluation',
        ['last'],
        [0.5],
        _reshape('last'),
        r'\[11, 8, 3, 3\] in the scope',
    ),
    'wrong shape of a coupled one': (
        GraphError,
        'evaluation',
        ['last'],
        [0.5],
        _reshape('classes'),
        "'classes' has shape",
    ),
    'wrong shape of state': (
        GraphError,
        'train',
        ['last'],
        [0.5],
        _reshape('last_velocity_0'),
        "'last_velocity_0' has shape",
    ),
    'output alone': (
        NotPrunableError,
        'evaluation',
        ['classes'],
        [0.5],
        None,
        'classes: elementwise_add.*output of the program',
    ),
}


@pytest.mark.parametrize('why', list(REFUSED))
@pytest.mark.parametrize('lazy', [False, True])
def test_refuses_before_anything_has_changed(pair: Pair, why: str, lazy: bool) -> None:
    kind, which, names, ratios, spoil, message = REFUSED[why]
    if spoil is not None:
        spoil(pair)
    if lazy and ('state' in why or 'accumulator' in why):
        pytest.skip('zeroing leaves the state of the optimizer alone')
    program = getattr(pair, which)
    before = describe(program), values(pair.train, pair.scope)
    with pytest.raises(kind, match=message):
        Pruner().prune(program, pair.scope, names, ratios, lazy=lazy)
    assert describe(program) == before[0]
    assert same(values(pair.train, pair.scope), before[1])
    assert not any(has_array(pair.scope, f'{name}@kept_positions_0') for name in ('stem', 'last', 'branch'))


def test_lazy_zeroes_the_scope_and_keeps_the_program(pair: Pair) -> None:
    before = values(pair.train, pair.scope)
    gone = _lowest(before['last'], 6)
    lazy, backup, _ = Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5], lazy=True, param_backup=True)
    assert describe(lazy) == describe(pair.evaluation)
    zeroed = load_array(pair.scope, 'last')
    assert not zeroed[gone].any()
    assert np.array_equal(np.delete(zeroed, gone, axis=0), np.delete(before['last'], gone, axis=0))
    assert not load_array(pair.scope, 'classes')[:, gone].any()
    masked = evaluate(pair, lazy)
    assert backup is not None
    for name, array in backup.items():
        store_array(pair.scope, name, array)
    assert same(values(pair.train, pair.scope), before)
    pruned, _, _ = Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5])
    assert np.allclose(evaluate(pair, pruned), masked, atol=1e-6)


@pytest.mark.parametrize('which', ['train', 'evaluation'])
def test_backups_restore_everything(pair: Pair, which: str) -> None:
    before = values(pair.train, pair.scope)
    program = getattr(pair, which)
    _, backup, shapes = Pruner().prune(
        program, pair.scope, ['stem', 'last'], [0.5, 0.5], param_backup=True, param_shape_backup=True
    )
    after = values(program, pair.scope)
    changed = {name for name in after if after[name].shape != before[name].shape}
    assert backup is not None
    assert shapes is not None
    assert set(backup) == set(shapes) == changed
    assert all(shapes[name] == before[name].shape for name in changed)
    assert ('last_velocity_0' in backup) == (which == 'train')
    for name, array in backup.items():
        store_array(pair.scope, name, array)
    assert same(values(pair.train, pair.scope), before)


def test_report_tells_what_was_done(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pruner = Pruner()
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        pruner.prune(pair.evaluation, pair.scope, ['stem', 'branch', 'classes', 'last'], [0.5, 0.25, 0.5, 0.0])
    report = pruner.report
    assert {entry.name: (entry.ratio, entry.channels, entry.removed) for entry in report.pruned} == {
        'stem': (0.5, 8, 4),
        'branch': (0.25, 8, 4),
        'last': (0.0, 12, 0),
    }
    assert [entry.name for entry in report.skipped] == ['classes']
    (reason,) = report.skipped[0].reasons
    for part in ('elementwise_add', 'axis 1', 'output of the program', 'conv2d -> elementwise_add'):
        assert part in reason
        assert part in caplog.text
    assert 'classes is not pruned' in caplog.text
    assert any(note.startswith('branch: 4 of 8 channels removed rather than 2') for note in report.notes)
    assert report.equivalence is not None
    assert report.equivalence.max_relative < 1e-5 < report.equivalence.effect
    for part in ('stem: 8 -> 4', 'classes: not pruned', 'pruned equals masked'):
        assert part in str(report)


def test_coupled_parameters_follow_the_larger_ratio(pair: Pair) -> None:
    weight = load_array(pair.scope, 'branch')
    pruner = Pruner()
    pruner.prune(pair.evaluation, pair.scope, ['stem', 'branch'], [0.25, 0.5])
    assert {entry.name: entry.removed for entry in pruner.report.pruned} == {'stem': 4, 'branch': 4}
    kept = np.delete(np.arange(8), _lowest(weight, 4))
    assert np.array_equal(load_array(pair.scope, 'branch'), weight[kept][:, kept])


@pytest.mark.parametrize(
    ('ratio', 'removed'), [(0.0, 0), (0.04, 0), (0.042, 1), (0.125, 2), (0.3, 4), (0.96, 11), (0.999, 11)]
)
def test_ratios_are_rounded_and_one_channel_stays(pair: Pair, ratio: float, removed: int) -> None:
    pruner = Pruner()
    pruner.prune(pair.evaluation, pair.scope, ['last'], [ratio])
    assert pruner.report.pruned[0].removed == removed
    assert shape_of(pair.scope, 'last')[0] == 12 - removed


@pytest.mark.parametrize(
    ('round_to', 'ratio', 'kept'), [(4, 0.5, 8), (4, 0.6, 4), (4, 0.1, 12), (4, 0.9, 4), (8, 0.5, 8), (5, 0.5, 5)]
)
def test_round_to_keeps_multiples(pair: Pair, round_to: int, ratio: float, kept: int) -> None:
    Pruner(round_to=round_to).prune(pair.evaluation, pair.scope, ['last'], [ratio])
    assert shape_of(pair.scope, 'last')[0] == kept


def test_all_ratios_zero_change_nothing(pair: Pair) -> None:
    before = values(pair.train, pair.scope)
    pruned, backup, _ = Pruner().prune(pair.evaluation, pair.scope, ['stem', 'last'], [0.0, 0.0], param_backup=True)
    assert backup == {}
    assert describe(pruned) == describe(pair.evaluation)
    assert same(values(pair.train, pair.scope), before)


def test_programs_are_pruned_again_and_again(pair: Pair) -> None:
    program = pair.evaluation
    for name, ratio, left in (('last', 0.5, 6), ('stem', 0.25, 6), ('last', 0.5, 3), ('stem', 0.5, 3)):
        pruner = Pruner()
        program, _, _ = pruner.prune(program, pair.scope, [name], [ratio])
        assert shape_of(pair.scope, name)[0] == left
        assert pruner.report.equivalence is not None
    assert evaluate(pair, program).shape == (4, 3, 6, 6)


def test_the_check_runs_where_it_should(pair: Pair) -> None:
    def figures(program: Any, **options: Any) -> Any:
        pruner = Pruner()
        _, backup, _ = pruner.prune(program, pair.scope, ['last'], [0.25], param_backup=True, **options)
        for name, array in (backup or {}).items():
            store_array(pair.scope, name, array)
        return pruner.report.equivalence

    assert figures(pair.evaluation).outputs
    assert figures(pair.train) is None
    assert figures(pair.train, verify=True).effect > 0
    assert figures(pair.evaluation, verify=False) is None
    assert figures(pair.evaluation, verify=0.5).max_relative < 1e-5
    assert figures(pair.evaluation, lazy=True) is None
    assert figures(pair.evaluation, only_graph=True) is None
    assert figures(pair.evaluation, feeds=pair.feed).max_relative < 1e-5
    assert figures(pair.evaluation, outputs=[pair.output]).outputs == (GraphWrapper.name_of(pair.output),)


def test_the_check_needs_feeds_that_fit(pair: Pair) -> None:
    before = values(pair.train, pair.scope)
    with pytest.raises(GraphError, match='pass feeds='):
        Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5], feeds={'x': np.zeros((2, 5, 6, 6), 'float32')})
    with pytest.raises(GraphError, match=r"no inputs \['image'\]"):
        Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5], feeds={'image': np.zeros((2, 3, 6, 6), 'float32')})
    assert same(values(pair.train, pair.scope), before)
    assert not has_array(pair.scope, 'last@kept_positions_0')


def _careless_add(analysis: Analysis, op: Any) -> None:
    """A wrong rule: claims that adding 1 to what was removed still gives zero, and unites nothing."""
    x, y = op.inputs('X')[0], op.inputs('Y')[0]
    layout = analysis.layout(x) or analysis.layout(y)
    analysis.set(op.outputs('Out')[0], {axis: Mark(mark.labels[::-1].copy(), True) for axis, mark in layout.items()})


def test_a_wrong_rule_is_found_out_and_the_scope_restored(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('paddleslim_ng.prune.rules.RULES', {**RULES, 'elementwise_add': _careless_add})
    before = values(pair.train, pair.scope)
    with pytest.raises((EquivalenceError, GraphError)):
        Pruner().prune(pair.evaluation, pair.scope, ['stem', 'last'], [0.5, 0.5])
    assert same(values(pair.train, pair.scope), before)
    assert not has_array(pair.scope, 'last@kept_positions_0')


def _careless_sigmoid(analysis: Analysis, op: Any) -> None:
    analysis.set(op.outputs('Out')[0], analysis.layout(op.inputs('X')[0]))


def _summed(x: Any) -> Any:
    h = paddle.nn.functional.hardsigmoid(convolution(x, 'last', 8))
    return convolution(paddle.mean(h, axis=1, keepdim=True) + 0.0 * x[:, :1], 'classes', 2)


def test_a_wrong_claim_of_zero_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = build(_summed)
    with pytest.raises(NotPrunableError, match='not zero'):
        Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5])
    monkeypatch.setattr('paddleslim_ng.prune.rules.RULES', {**RULES, 'hard_sigmoid': _careless_sigmoid})
    before = values(pair.train, pair.scope)
    with pytest.raises(EquivalenceError, match='differs from the masked original'):
        Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5])
    assert same(values(pair.train, pair.scope), before)
    Pruner().prune(pair.evaluation, pair.scope, ['last'], [0.5], verify=False)


def test_verify_equivalence_by_hand(pair: Pair) -> None:
    pruned, backup, _ = Pruner().prune(
        pair.evaluation, pair.scope, ['stem', 'last'], [0.5, 0.5], param_backup=True, verify=False
    )
    figures = verify_equivalence(pair.evaluation, pruned, pair.scope, backup)
    assert figures.max_relative < 1e-5 < figures.effect
    with paddle.static.scope_guard(pair.scope):
        assert verify_equivalence(pair.evaluation, pruned, original_values=backup, feeds=pair.feed).effect > 0
    with pytest.raises(GraphError, match='original_values='):
        verify_equivalence(pair.evaluation, pruned, pair.scope)
    store_array(pair.scope, 'classes', load_array(pair.scope, 'classes') * 1.01)
    with pytest.raises(EquivalenceError, match='differs from the masked original'):
        verify_equivalence(pair.evaluation, pruned, pair.scope, backup)
    assert verify_equivalence(pair.evaluation, pruned, pair.scope, backup, tolerance=0.1).max_relative > 1e-4
    pair.scope.erase(['last@kept_positions_0'])
    with pytest.raises(GraphError, match='footprint='):
        verify_equivalence(pair.evaluation, pruned, pair.scope, backup, tolerance=0.1)


def test_the_check_compares_evaluation_clones(pair: Pair) -> None:
    """Dropout and batch statistics would make two runs of a training program differ."""

    def network(x: Any) -> Any:
        h = paddle.nn.functional.dropout(convolution(x, 'stem', 8), 0.5)
        h = paddle.nn.BatchNorm2D(8)(h)
        return convolution(h, 'classes', 3, 1)

    noisy = build(network)
    pruner = Pruner()
    pruner.prune(noisy.train, noisy.scope, ['stem'], [0.5], verify=True)
    assert pruner.report.equivalence is not None
    assert pruner.report.equivalence.max_relative < 1e-5


def test_several_outputs_and_dynamic_sizes() -> None:
    def network(x: Any) -> Any:
        h = paddle.nn.functional.relu(convolution(x, 'stem', 8))
        convolution(h, 'side', 4, 1)
        return convolution(h, 'classes', 3, 1)

    pair = build(network, (-1, 3, -1, -1))
    pruner = Pruner()
    pruned, _, _ = pruner.prune(pair.evaluation, pair.scope, ['stem', 'side'], [0.5, 0.5])
    assert pruner.report.equivalence is not None
    assert len(pruner.report.equivalence.outputs) == 2
    assert [entry.name for entry in pruner.report.skipped] == ['side']
    assert evaluate(pair, pruned).shape == (4, 3, 4, 4)


def test_outputs_named_by_the_caller_stay_whole(pair: Pair) -> None:
    middle: list[Any] = []

    def network(x: Any) -> Any:
        middle.append(convolution(x, 'stem', 8))
        return convolution(middle[0], 'classes', 3, 1)

    pair = build(network)
    with pytest.raises(NotPrunableError, match='output of the program'):
        Pruner().prune(pair.evaluation, pair.scope, ['stem'], [0.5], outputs=[middle[0], pair.output])
    with pytest.raises(GraphError, match='no variable'):
        Pruner().prune(pair.evaluation, pair.scope, ['stem'], [0.5], outputs=['nothing'])
    Pruner().prune(pair.evaluation, pair.scope, ['stem'], [0.5])


def test_a_criterion_may_be_a_function(pair: Pair) -> None:
    seen: dict[str, Any] = {}

    def highest_index_first(group: Any, arrays: Any, graph: Any) -> Any:
        name, axis, _ = group[0]
        seen[name] = (axis, {member.name for member in group}, set(arrays))
        return {name: {axis: -np.arange(arrays[name].shape[axis])}}

    weight = load_array(pair.scope, 'last')
    Pruner(criterion=highest_index_first).prune(pair.evaluation, pair.scope, ['last'], [0.25])
    assert np.array_equal(load_array(pair.scope, 'last'), weight[:9])
    assert seen['last'][0] == 0
    assert {'last', 'classes'} <= seen['last'][1] == seen['last'][2]


def test_a_selector_may_be_a_function(pair: Pair) -> None:
    def first_two(group: Any, scores: Any, ratios: Any) -> Any:
        name, axis, transforms = group[0]
        assert len(scores[name][axis]) == 12
        assert ratios == {'last': 0.9}
        return [(name, axis, [0, 1], transforms)]

    weight = load_array(pair.scope, 'last')
    Pruner(idx_selector=first_two).prune(pair.evaluation, pair.scope, ['last'], [0.9])
    assert np.array_equal(load_array(pair.scope, 'last'), weight[2:])


@pytest.mark.parametrize(
    'options',
    [
        {'criterion': 'l3_norm'},
        {'criterion': 3},
        {'idx_selector': 'best'},
        {'idx_selector': 3},
        {'round_to': 0},
        {'heads': 'x'},
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Pruner(**options)


def test_explain_names_the_group_and_its_obstacles(pair: Pair) -> None:
    free = Pruner().explain(pair.evaluation, 'last')
    assert (free.axis, free.channels, free.free, free.obstacles) == (0, 12, 12, ())
    assert ('classes', 1) in free.coupled
    kept = Pruner().explain(pair.evaluation, 'classes')
    assert kept.free == 0
    assert 'output of the program' in str(kept)
    with pytest.raises(GraphError):
        Pruner().explain(pair.evaluation, 'nothing')


def test_clones_of_the_pruned_program_work(pair: Pair) -> None:
    pruned, _, _ = Pruner().prune(pair.train, pair.scope, ['last'], [0.5])
    assert evaluate(pair, clone_program(pruned, for_test=True)).shape == (4, 3, 6, 6)
