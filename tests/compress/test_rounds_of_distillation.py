"""Pruning and distillation in rounds, and steps that are taken back while a teacher trains the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.analysis import flops
from paddleslim_ng.compress import L2Distiller
from paddleslim_ng.compress.strategies import (
    AlternationStrategy,
    DistillationStrategy,
    GreedyPruneStrategy,
    UniformPruneStrategy,
)
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.teachers import teacher_prefixes
from tests.compress.job_net import same, tensors
from tests.compress.prune_net import PruneNet
from tests.compress.resume_job import NOWHERE, Interrupt


class Interrupted(Exception):
    pass


def _interrupt() -> None:
    raise Interrupted


def _adam() -> Any:
    return paddle.optimizer.Adam(1e-4)


def _rounds(folder: Path | None, point: tuple[str, int, int] = NOWHERE) -> tuple[dict[str, Any], Any]:
    """Two rounds: a cut, then distillation from what the round began with; plain training; the second is taken back."""
    net = PruneNet()
    compressor = net.compressor(epoch=5, checkpoint_path=folder, checkpoint_every=1, train_optimizer=_adam)
    rounds = AlternationStrategy(
        [
            DistillationStrategy([L2Distiller(net.out_name)], teacher='original'),
            UniformPruneStrategy(target_ratio=0.2, round_to=1, pruned_params='conv.*'),
        ],
        rounds=2, round_epochs=2, metric_name='agree', max_loss=0.9,
    )  # fmt: skip
    measure = net.agree

    def agree(program: Any, scope: Any) -> float:
        present = compressor.context
        second = any(entry.note['round'] == 1 for entry in present.journal)
        bad = second and present.epoch_id == 3 and rounds._snapshot is None
        return 0.01 if bad else measure(program, scope)

    compressor.context.eval_func['agree'] = agree
    for one in (rounds, Interrupt(point, _interrupt)):
        compressor.add_strategy(one)
    return _outcome(compressor, net)


def _outcome(compressor: Any, net: PruneNet) -> tuple[dict[str, Any], Any]:
    result = compressor.run()
    found = tensors(result.train_program, result.scope)
    found['metrics'] = np.array(compressor.context.eval_results['agree'])
    found['watched'] = np.array([' '.join(record.train) for record in result.records])
    found['flops'] = np.array(flops(result.eval_program) / flops(net.main))
    for program in (result.train_program, result.eval_program):
        assert not teacher_prefixes(GraphWrapper(program))
    return found, result


@pytest.fixture(scope='module')
def rounds() -> tuple[dict[str, Any], Any]:
    paddle.enable_static()
    return _rounds(None)


def test_each_round_learns_from_what_it_began_with(rounds: tuple[dict[str, Any], Any]) -> None:
    found, result = rounds
    # The labels are what the network computed at first, and so the teacher says the same, in the first round alone.
    losses = [(record.train.get('task_loss'), record.train.get('distillation_1')) for record in result.records]
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-4) and losses[2][0] > 1.2 * losses[2][1]
    assert losses[4] == (None, None) and result.records[4].train['loss'] < result.records[0].train['task_loss']
    # The second round was taken back, and plain training went on with what the first had left.
    assert found['flops'] == pytest.approx(0.8, abs=0.02)
    assert {entry.note['round'] for entry in result.journal} == {0}
    assert result.records[3].metrics['agree'] == result.records[1].metrics['agree']


@pytest.mark.parametrize(
    'point',
    [
        ('batch_end', 3, 0),
        pytest.param(('batch_end', 1, 0), marks=pytest.mark.full),
        pytest.param(('batch_end', 4, 0), marks=pytest.mark.full),
    ],
    ids=lambda point: f'{point[0]}-{point[1]}-{point[2]}',
)
def test_rounds_go_on_to_the_same_bits(
    tmp_path: Path, rounds: tuple[dict[str, Any], Any], point: tuple[str, int, int]
) -> None:
    with pytest.raises(Interrupted):
        _rounds(tmp_path, point)
    same(_rounds(tmp_path)[0], rounds[0])


def _greedy(folder: Path | None, point: tuple[str, int, int] = NOWHERE) -> tuple[dict[str, Any], Any]:
    """A teacher trains all the time; the second of the steps is taken back."""
    net = PruneNet()
    compressor = net.compressor(epoch=4, checkpoint_path=folder, checkpoint_every=1, train_optimizer=_adam)
    steps = GreedyPruneStrategy(
        metric_name='agree', max_loss=0.9, round_to=1, step_ratio=0.2, retrain_epochs=1, pruned_params='conv.*'
    )
    measure = net.agree

    def agree(program: Any, scope: Any) -> float:
        bad = steps._trial is not None and compressor.context.epoch_id == 1
        return 0.01 if bad else measure(program, scope)

    compressor.context.eval_func['agree'] = agree
    teacher = DistillationStrategy([L2Distiller(net.out_name)], teacher='original')
    for one in (teacher, steps, Interrupt(point, _interrupt)):
        compressor.add_strategy(one)
    return _outcome(compressor, net)


def test_a_step_is_taken_back_while_a_teacher_trains(tmp_path: Path) -> None:
    found, result = _greedy(None)
    assert [entry.strategy for entry in result.journal] == [
        'DistillationStrategy', 'DistillationStrategy', 'GreedyPruneStrategy', 'DistillationStrategy',
    ]  # fmt: skip
    assert found['flops'] == pytest.approx(0.8, abs=0.03) and found['metrics'][1] == 0.01
    losses = [record.train['distillation_1'] for record in result.records]
    assert all(0 < loss < 0.1 for loss in losses)
    with pytest.raises(Interrupted):
        _greedy(tmp_path, ('batch_end', 1, 0))
    same(_greedy(tmp_path)[0], found)
