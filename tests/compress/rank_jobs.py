"""Compression jobs on several ranks: rank_jobs.py FOLDER NAME [POINT].

With a point, the job is killed there. Without one it runs as a whole in FOLDER/whole, and goes on in FOLDER/parts from
where it was killed; what both end with is left in FOLDER/whole-RANK.npz and FOLDER/parts-RANK.npz.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle
from paddle.distributed import fleet

import paddleslim_ng as slim
from paddleslim_ng.compress import Compressor, L2Distiller, Strategy, TrainerOptions
from paddleslim_ng.compress.strategies import (
    AlternationStrategy,
    DistillationStrategy,
    GreedyPruneStrategy,
    QuantizationStrategy,
    SensitivePruneStrategy,
    UniformPruneStrategy,
    UnstructuredPruneStrategy,
)
from paddleslim_ng.distributed import Ranks
from tests.compress.interruptions import NOWHERE, Point, kill, kill_while_writing, run_until
from tests.compress.job_net import JobNet, adam
from tests.compress.prune_net import PruneNet
from tests.compress.resume_job import Noise, Rebuild, Shuffled

Job = tuple[Compressor, list[Strategy]]


def momentum() -> Any:
    return paddle.optimizer.Momentum(1e-3, 0.9)


def of_fleet(make: Callable[[], Any], ranks: Ranks) -> Callable[[], Any]:
    """Return a function that makes Fleet's optimizer, or the plain one on one rank."""
    return (lambda: fleet.distributed_optimizer(make())) if ranks.size > 1 else make


def _job(ranks: Ranks, make: Callable[[], Any] = adam, **options: Any) -> Compressor:
    """Return a job whose ranks have data of their own, dropout and batch norms."""
    given = {'train_reader': Shuffled(True, ranks.rank), 'train_optimizer': make, 'epoch': 4, 'ranks': ranks}
    return JobNet(minimize=False).compressor(**{**given, **options})


def masks(folder: Path, ranks: Ranks) -> Job:
    """Masks, cuts, noise, and an optimizer that is built anew."""
    return _job(ranks), [
        UnstructuredPruneStrategy(0, 3, ratio=0.5),
        UniformPruneStrategy(1, target_ratio=0.4, pruned_params='conv.*', round_to=1),
        Noise(),
        Rebuild(1),
    ]


def measured(folder: Path, ranks: Ranks) -> Job:
    """Cuts by metrics that all ranks measure together."""
    options = {'metric_name': 'acc', 'round_to': 1, 'eval_rate': 0.6}
    file = folder / 'sensitivities.json'
    return _job(ranks), [
        SensitivePruneStrategy(target_ratio=0.3, delta_rate=0.5, sensitivities_file=file, **options),
        GreedyPruneStrategy(1, accuracy_floor=0.0, max_loss=None, **options),
    ]


def rounds(folder: Path, ranks: Ranks) -> Job:
    """The second round learns from what the first has left, statistics of batch norms among it."""
    strategies = [
        DistillationStrategy([L2Distiller()], teacher='original'),
        UniformPruneStrategy(target_ratio=0.2, pruned_params='conv.*', round_to=1),
    ]
    return _job(ranks), [AlternationStrategy(strategies, rounds=2, round_epochs=2, metric_name='acc', max_loss=0.9)]


def quantized(folder: Path, ranks: Ranks, make: Callable[[], Any] = adam) -> Job:
    """A measured cut, a teacher, quantizers, and every kind of file."""
    paths = {f'{kind}_model_save_path': str(folder / kind / 'model') for kind in ('float', 'int8')}
    options = TrainerOptions(metrics_file=folder / 'metrics.jsonl', monitor='acc', best_path=folder / 'best')
    return _job(ranks, make, epoch=3, options=options), [
        SensitivePruneStrategy(
            target_ratio=0.3, metric_name='acc', round_to=1, delta_rate=0.5, eval_rate=0.6,
            sensitivities_file=folder / 'sensitivities.json',
        ),
        DistillationStrategy([L2Distiller()], 0, 2, teacher='original'),
        QuantizationStrategy(1, freeze_bn_delay=7, **paths),
    ]  # fmt: skip


def under_fleet(folder: Path, ranks: Ranks) -> Job:
    """The same by Fleet's optimizer."""
    return quantized(folder, ranks, of_fleet(adam, ranks))


def divisible(folder: Path, ranks: Ranks) -> Job:
    """Nothing in it depends on how a batch is divided: Fleet's program, a teacher, a measured cut, plain training."""
    net = PruneNet(optimizer=of_fleet(momentum, ranks)())

    def part() -> Iterator[tuple[Any, ...]]:
        for image, wanted in net.data():
            yield image[ranks.rank :: ranks.size], wanted[ranks.rank :: ranks.size]

    compressor = net.compressor(train_reader=part, train_optimizer=of_fleet(momentum, ranks), epoch=4, ranks=ranks)
    return compressor, [
        SensitivePruneStrategy(1, target_ratio=0.4, metric_name='agree', round_to=1, delta_rate=0.4),
        DistillationStrategy([L2Distiller(net.out_name)], 0, 3, teacher='original', task_weight=0.5),
    ]


JOBS: Mapping[str, Callable[[Path, Ranks], Job]] = {
    job.__name__: job for job in (masks, measured, rounds, quantized, under_fleet, divisible)
}


def run(name: str, folder: Path, ranks: Ranks, point: Point = NOWHERE, seed: int = 5) -> dict[str, Any]:
    """Run a job, or go on with it, and return everything that it ends with."""
    folder.mkdir(parents=True, exist_ok=True)
    compressor, strategies = JOBS[name](folder, ranks)
    compressor.checkpoint_path, compressor.checkpoint_every = folder / 'checkpoints', 2
    return run_until(compressor, strategies, point, seed, kill)


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    paddle.enable_static()
    ranks = slim.distributed.init().ranks
    fleet.init(is_collective=True)
    if len(sys.argv) > 3:
        what, first, second = sys.argv[3].split(':')
        if (what, int(second)) == ('write', ranks.rank):
            kill_while_writing(int(first))
        run(name, folder / 'parts', ranks, (what, int(first), int(second)))
    # Where it was killed before both ranks had a checkpoint, it starts over as it had started.
    goes_on = len(list((folder / 'parts' / 'checkpoints').glob('step-*'))) >= ranks.size
    for part, seed in (('whole', 5), ('parts', 6 if goes_on else 5)):
        np.savez(folder / f'{part}-{ranks.rank}.npz', **run(name, folder / part, ranks, seed=seed))


if __name__ == '__main__':
    main()
