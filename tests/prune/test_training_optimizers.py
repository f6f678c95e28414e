"""Pruned training programs train as small networks that were built afresh with the same values."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.prune import Pruner
from tests.prune.optimizer_cases import CASES, append_update, configuration, table
from tests.prune.training_nets import (
    FULL,
    RATIOS,
    STEPS,
    Net,
    Values,
    Widths,
    build,
    expected_cut,
    fill,
    largest_difference,
    state,
    train,
)

WORKING = [name for name, case in CASES.items() if configuration() not in case.refused]
REFUSED = [name for name, case in CASES.items() if configuration() in case.refused]


def _build(name: str, widths: Widths = FULL) -> tuple[Net, Any]:
    optimizers = []
    net = build(lambda loss: optimizers.append(append_update(CASES[name], loss)), widths, CASES[name].dtype)
    return net, optimizers[0]


def _stepper(optimizer: Any) -> Any:
    """Return what advances the learning rate after a step."""
    schedule = getattr(optimizer, '_learning_rate', None)
    return schedule.step if isinstance(schedule, paddle.optimizer.lr.LRScheduler) else None


def _fresh_twin(
    name: str, widths: Widths, values: Values, warm: int, amount: float = 0.0
) -> tuple[list[float], Values]:
    """Train a small network, built without the library, from the given values on."""
    small, optimizer = _build(name, widths)
    rng = np.random.default_rng(0)
    moved = {
        key: array * (1 + amount * rng.standard_normal(array.shape)).astype(array.dtype)
        if array.dtype.kind == 'f'
        else array
        for key, array in values.items()
    }
    fill(small, moved)
    step = _stepper(optimizer)
    for _ in range(warm if step else 0):
        step()
    losses = train(small, small.main, small.scope, warm, after=step)
    return losses, state(small.main, small.scope)


@pytest.mark.parametrize('name', WORKING)
def test_pruned_training_program_equals_a_small_network_built_afresh(name: str) -> None:
    net, optimizer = _build(name)
    step = _stepper(optimizer)
    train(net, net.main, net.scope, 0, after=step)
    widths, values = expected_cut(state(net.main, net.scope))
    assert widths.left + widths.right < FULL.left + FULL.right
    assert widths.last < FULL.last

    pruned, _, _ = Pruner().prune(net.main, net.scope, list(RATIOS), list(RATIOS.values()))
    assert largest_difference(state(pruned, net.scope), values) == 0.0
    for var in GraphWrapper(pruned).vars():
        if var.persistable() and values[var.name()].size > 1:
            assert var.shape() == values[var.name()].shape, var

    losses = train(net, pruned, net.scope, STEPS, after=step)
    got = state(pruned, net.scope)
    want_losses, want = _fresh_twin(name, widths, values, STEPS)
    if CASES[name].dtype == 'float64':
        allowed = 1e-6
    else:
        moved_losses, moved = _fresh_twin(name, widths, values, STEPS, 1e-7)
        allowed = max(
            1e-6, 3 * largest_difference(want, moved), 3 * float(np.abs(np.subtract(want_losses, moved_losses)).max())
        )
        assert allowed < 1e-3
    assert np.abs(np.subtract(losses, want_losses)).max() <= allowed
    assert largest_difference(got, want) <= allowed
    assert (
        largest_difference({k: got[k] for k in ('w1', 'w2', 'w3')}, {k: values[k] for k in ('w1', 'w2', 'w3')}) > 1e-4
    )


@pytest.mark.parametrize('name', REFUSED)
def test_paddle_refuses_what_the_table_says_it_refuses(name: str) -> None:
    kind, _, message = CASES[name].refused[configuration()].partition(': ')
    with pytest.raises(getattr(builtins, kind), match=re.escape(message)):
        _build(name)


def test_the_documented_table_is_the_tested_one() -> None:
    page = Path(__file__).resolve().parents[2] / 'docs' / 'reference' / 'training-programs.md'
    assert '\n'.join(table()) in page.read_text(encoding='utf-8')


@pytest.mark.parametrize('name', ['Momentum', 'L2Decay with Adam', 'ClipGradByNorm'])
def test_static_shapes_equal_those_of_a_small_network_built_afresh(name: str) -> None:
    net, _ = _build(name)
    widths, _ = expected_cut(state(net.main, net.scope))
    pruned, _, _ = Pruner().prune(net.main, net.scope, list(RATIOS), list(RATIOS.values()))
    small, _ = _build(name, widths)
    ops, small_ops = GraphWrapper(pruned).ops(), GraphWrapper(small.main).ops()
    assert [op.type() for op in ops] == [op.type() for op in small_ops]
    for op, small_op in zip(ops, small_ops):
        assert [var.shape() for var in op.all_outputs()] == [var.shape() for var in small_op.all_outputs()], op
        assert op.attr('groups') == small_op.attr('groups'), op
