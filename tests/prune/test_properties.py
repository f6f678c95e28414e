"""Random networks, random requests: pruned equals masked, or an obstacle is named; never a wrong number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, has_array, load_array, store_array
from paddleslim_ng.core.paddle_compat import new_scope
from paddleslim_ng.errors import GraphError, NotPrunableError
from paddleslim_ng.prune import Pruner
from tests.prune.random_nets import BLOCKS, Built, Spec, build, request, specs

Values = dict[str, npt.NDArray[Any]]
TOLERANCE = 1e-7
# Building a network costs too much for hundreds of attempts to make a failing one smaller.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


def _values(program: Any, scope: Any) -> Values:
    names = [var.name() for var in GraphWrapper(program).vars() if var.persistable()]
    return {name: load_array(scope, name) for name in names if has_array(scope, name)}


def _run(
    program: Any, values: Mapping[str, npt.NDArray[Any]], feed: Mapping[str, Any], fetches: list[Any]
) -> tuple[Any, Any]:
    scope = new_scope()
    for name, array in values.items():
        store_array(scope, name, array)
    results = Executor().run(program, feed=dict(feed), fetch_list=fetches, scope=scope)
    return [np.asarray(result) for result in results], scope


def _kept(scope: Any, name: str, old: npt.NDArray[Any], new: npt.NDArray[Any]) -> dict[int, npt.NDArray[Any]]:
    """Read which positions stayed, and check that the parameter holds exactly their values."""
    kept = {}
    for axis, (before, after) in enumerate(zip(old.shape, new.shape)):
        if before != after:
            record = load_array(scope, f'{name}@kept_positions_{axis}')
            kept[axis] = record[record[:, 0] == before][0, 1:]
            assert len(kept[axis]) == after
            old = np.take(old, kept[axis], axis=axis)
    assert np.array_equal(old, new), name
    return kept


def _mask(values: Values, kept: Mapping[str, Mapping[int, npt.NDArray[Any]]]) -> Values:
    masked = dict(values)
    for name, axes in kept.items():
        array = values[name].copy()
        for axis, positions in axes.items():
            gone = np.setdiff1d(np.arange(array.shape[axis]), positions)
            array[(slice(None),) * axis + (gone,)] = 0
        masked[name] = array
    return masked


def _assert_same(got: list[Any], want: list[Any], what: str) -> None:
    for one, other in zip(got, want):
        assert one.shape == other.shape, what
        scale = max(1.0, float(np.abs(other).max()))
        assert np.abs(one - other).max() <= TOLERANCE * scale, what


def check_pruning(spec: Spec, tally: Counter[str]) -> None:
    """Prune the training program and compare everything that can be compared."""
    net = build(spec)
    wanted = request(spec, net)
    before = _values(net.train, net.scope)
    pruner = Pruner()
    # Without the outputs of the evaluation program being named, nothing but the loss has to keep its shape.
    outputs = None if spec.seed % 8 == 0 else net.outputs
    try:
        pruned, _, _ = pruner.prune(net.train, net.scope, list(wanted), list(wanted.values()), outputs=outputs)
    except NotPrunableError as error:
        tally['not prunable'] += 1
        assert all(name in str(error) for name in wanted)
        assert all(np.array_equal(load_array(net.scope, name), array) for name, array in before.items())
        return
    after = _values(pruned, net.scope)
    kept = {
        name: _kept(net.scope, name, old, after[name]) for name, old in before.items() if old.shape != after[name].shape
    }
    _check_report(pruner, wanted, before)
    tally['cut' if kept else 'nothing removed'] += 1
    masked = _mask(before, kept)
    _check_training_step(net, pruned, masked, after, kept)
    if outputs is None:
        return
    small_evaluation = clone_program(pruned, for_test=True)
    plain, _ = _run(net.evaluation, before, net.feed, net.outputs)
    want, _ = _run(net.evaluation, masked, net.feed, net.outputs)
    got, _ = _run(small_evaluation, after, net.feed, net.outputs)
    _assert_same(got, want, 'pruned training program, evaluated, against the masked original')
    if kept and not any(np.abs(one - other).max() > 0 for one, other in zip(plain, want)):
        tally['without effect'] += 1
    _check_only_graph(net, wanted, after, want)


def _check_report(pruner: Pruner, wanted: Mapping[str, float], before: Values) -> None:
    said = {entry.name for entry in pruner.report.pruned} | {entry.name for entry in pruner.report.skipped}
    assert said == set(wanted)
    assert all(entry.reasons for entry in pruner.report.skipped)
    for entry in pruner.report.pruned:
        asked = min(int(np.floor(entry.channels * wanted[entry.name] + 0.5)), entry.channels - 1)
        assert entry.removed == asked or any(note.startswith(entry.name) for note in pruner.report.notes), entry
        assert 0 <= entry.removed < entry.channels


def _check_training_step(net: Built, pruned: Any, masked: Values, after: Values, kept: Mapping[str, Any]) -> None:
    """One step of the pruned program moves what is left as one step of the masked original does."""
    (loss,), big = _run(net.train, masked, net.feed, [net.loss])
    (small_loss,), small = _run(pruned, after, net.feed, [net.loss])
    _assert_same([small_loss], [loss], 'loss in training mode')
    for name in after:
        want = load_array(big, name)
        for axis, positions in kept.get(name, {}).items():
            want = np.take(want, positions, axis=axis)
        _assert_same([load_array(small, name)], [want.reshape(after[name].shape)], f'{name} after a training step')


def _check_only_graph(net: Built, wanted: Mapping[str, float], after: Values, want: list[Any]) -> None:
    """The evaluation program follows the scope, with the record of what was kept and, where it can, without."""
    follower, _, _ = Pruner().prune(net.evaluation, net.scope, list(wanted), list(wanted.values()), only_graph=True)
    _assert_same(_run(follower, after, net.feed, net.outputs)[0], want, 'evaluation program pruned with only_graph')
    assert all(np.array_equal(load_array(net.scope, name), array) for name, array in after.items())
    bare = new_scope()
    for name, array in after.items():
        store_array(bare, name, array)
    try:
        follower, _, _ = Pruner().prune(net.evaluation, bare, list(wanted), list(wanted.values()), only_graph=True)
    except GraphError as error:
        assert 'leaves open' in str(error)
        return
    _assert_same(_run(follower, after, net.feed, net.outputs)[0], want, 'only_graph from a scope without records')


def _check_many(strategy: st.SearchStrategy[Spec], examples: int) -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=examples, phases=_PHASES)
    @given(strategy)
    def run(spec: Spec) -> None:
        check_pruning(spec, tally)

    run()
    # A dead or saturated unit may hide what was removed; were it the rule, the comparisons would show nothing.
    assert tally['without effect'] <= 0.15 * tally['cut'], tally
    assert tally['cut'] >= 0.4 * sum(tally[kind] for kind in ('cut', 'not prunable', 'nothing removed')), tally


def test_pruned_equals_masked() -> None:
    _check_many(specs(), 25)


def test_attention_and_norms_over_channels() -> None:
    _check_many(specs(['plain', 'attention', 'squeezed', 'shuffled', 'grouped', 'scaled'], most=3), 10)


def test_feature_pyramids_with_several_outputs() -> None:
    _check_many(specs(['plain', 'residual', 'pooled', 'pyramid', 'joined']), 10)


@pytest.mark.full
def test_pruned_equals_masked_at_length() -> None:
    _check_many(specs(list(BLOCKS), most=8), 400)
