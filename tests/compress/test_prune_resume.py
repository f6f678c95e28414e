"""Jobs of the pruning strategies that end anywhere go on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
import pytest

from paddleslim_ng.compress import Compressor, Strategy
from paddleslim_ng.compress.strategies import (
    GMPStrategy,
    GreedyPruneStrategy,
    SensitivePruneStrategy,
    UniformPruneStrategy,
)
from paddleslim_ng.prune import save_model
from tests.compress.interruptions import NOWHERE, Interrupted, Point, at_points, run_until, whole_runs
from tests.compress.job_net import JobNet, batches, same
from tests.compress.prune_net import PruneNet


def adam() -> Any:
    return paddle.optimizer.Adam(paddle.optimizer.lr.StepDecay(1e-4, step_size=2))


def sensitive(folder: Path) -> tuple[Compressor, list[Strategy]]:
    net = PruneNet(optimizer=adam())
    strategy = SensitivePruneStrategy(
        num_steps=2, end_epoch=3, target_ratio=0.5, metric_name='agree', round_to=1, delta_rate=0.4, convergence=1e-9,
        sensitivities_file=folder / 'sensitivities.json',
    )  # fmt: skip
    return net.compressor(epoch=4), [strategy]


def greedy(folder: Path) -> tuple[Compressor, list[Strategy]]:
    """A step is kept, and the second taken back, in the presence of masks."""
    net = PruneNet(optimizer=adam())
    strategy = GreedyPruneStrategy(
        metric_name='agree', max_loss=0.3, round_to=1, step_ratio=0.2, retrain_epochs=2, pruned_params='conv.*'
    )
    compressor = net.compressor(epoch=5)
    measure = net.agree

    def agree(program: Any, scope: Any) -> float:
        late = strategy._trial is not None and compressor.context.epoch_id == 3
        return 0.1 if late else measure(program, scope)

    compressor.context.eval_func['agree'] = agree
    return compressor, [GMPStrategy(pruned_params='conv_b|fc', pruning_iterations=11, ratio=0.3), strategy]


def gmp(folder: Path) -> tuple[Compressor, list[Strategy]]:
    compressor = JobNet().compressor(epoch=4, train_reader=list(batches()))
    cut = SensitivePruneStrategy(2, metric_name='acc', round_to=1, delta_rate=0.5, target_ratio=0.3)
    return compressor, [GMPStrategy(ratio=0.8, pruning_steps=1, pruning_iterations=14, regrowth=False), cut]


def pruned_before(folder: Path) -> tuple[Compressor, list[Strategy]]:
    """It begins with a model that has lost channels, and groups of a convolution, and loses more."""
    if not (folder / 'start').exists():
        first = PruneNet(optimizer=adam(), depthwise=True)
        cut = UniformPruneStrategy(channel_ratios={'conv_a': 0.5}, round_to=1)
        save_model(None, first.run(cut, epoch=1).train_program, folder / 'start', scope=first.scope)
    net = PruneNet(seed=4, optimizer=adam(), depthwise=True)
    cut = UniformPruneStrategy(1, channel_ratios={'conv_a': 0.25, 'conv_b': 0.25}, round_to=1)
    return net.compressor(epoch=3, init_model=folder / 'start'), [cut]


JOBS: dict[str, tuple[Callable[[Path], tuple[Compressor, list[Strategy]]], list[Point]]] = {
    'sensitive': (sensitive, [('batch_begin', 2, 1), ('batch_end', 0, 0)]),
    'greedy': (greedy, [('batch_begin', 3, 1), ('batch_end', 1, 0), ('batch_end', 4, 0)]),
    'pruned before': (pruned_before, [('batch_begin', 2, 1), ('batch_end', 0, 0)]),
    'gmp': (gmp, [('batch_begin', 3, 1), ('batch_end', 1, 2)]),
}


def _run(name: str, folder: Path, point: Point = NOWHERE, seed: int = 5) -> dict[str, Any]:
    compressor, strategies = JOBS[name][0](folder)
    compressor.checkpoint_path, compressor.checkpoint_every = folder / 'checkpoints', 1
    return run_until(compressor, strategies, point, seed)


whole = whole_runs(_run)


@at_points(JOBS)
def test_an_interrupted_job_ends_with_the_same_bits(
    tmp_path: Path, whole: Callable[[str], dict[str, Any]], name: str, point: Point
) -> None:
    with pytest.raises(Interrupted):
        _run(name, tmp_path, point)
    same(_run(name, tmp_path, seed=6), whole(name))


def test_what_the_jobs_do(whole: Callable[[str], dict[str, Any]]) -> None:
    found = whole('sensitive')
    assert found['journal'].tolist() == ['SensitivePruneStrategy 0', 'SensitivePruneStrategy 2']
    found = whole('greedy')
    assert found['journal'].tolist() == ['GMPStrategy 0', 'GreedyPruneStrategy 0']
    assert (found['conv_b'] == 0).mean() > 0.1 and 0.1 in found['metric agree']
    found = whole('pruned before')
    assert [found[name].shape[0] for name in ('conv_a', 'conv_groups', 'conv_b')] == [12, 12, 36]
    found = whole('gmp')
    assert found['journal'].tolist() == ['GMPStrategy 0', 'SensitivePruneStrategy 2']
    assert found['conv1_mask'].shape == found['conv1'].shape and found['conv1'].shape[0] < 16
    assert (found['conv2'] == 0).mean() > 0.6
