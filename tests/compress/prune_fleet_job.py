"""Pruning by measured metrics on several ranks, whole, and interrupted and resumed: prune_fleet_job.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle

import paddleslim_ng as slim
from paddleslim_ng.compress.strategies import GreedyPruneStrategy, SensitivePruneStrategy
from paddleslim_ng.distributed import Ranks
from tests.compress.job_net import JobNet, adam, same, tensors
from tests.compress.resume_job import NOWHERE, Interrupt, Shuffled


class Interrupted(Exception):
    pass


def _interrupt() -> None:
    raise Interrupted


def job(folder: Path, ranks: Ranks, point: tuple[str, int, int] = NOWHERE) -> dict[str, Any]:
    """Run a job and return its tensors and metrics."""
    net = JobNet(minimize=False)
    compressor = net.compressor(
        train_reader=Shuffled(True, ranks.rank), train_optimizer=adam, epoch=4, checkpoint_path=folder / 'checkpoints',
        checkpoint_every=2, ranks=ranks,
    )  # fmt: skip
    measured = {'metric_name': 'acc', 'round_to': 1, 'eval_rate': 0.6}
    file = folder / 'sensitivities.json'
    compressor.add_strategy(
        SensitivePruneStrategy(target_ratio=0.3, delta_rate=0.5, sensitivities_file=file, **measured)
    )
    compressor.add_strategy(GreedyPruneStrategy(1, accuracy_floor=0.0, max_loss=None, **measured))
    compressor.add_strategy(Interrupt(point, _interrupt))
    result = compressor.run()
    found = tensors(result.train_program, result.scope)
    found.update({f'metric {name}': np.array(values) for name, values in compressor.context.eval_results.items()})
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    paddle.enable_static()
    ranks = slim.distributed.init().ranks
    paddle.seed(5)
    whole = job(folder / 'whole', ranks)
    paddle.seed(5)
    try:
        job(folder / 'parts', ranks, ('batch_end', 2, 2))
    except Interrupted:
        paddle.seed(6)
        same(job(folder / 'parts', ranks), whole)
        np.savez(folder / f'rank-{ranks.rank}.npz', **whole)


if __name__ == '__main__':
    main()
