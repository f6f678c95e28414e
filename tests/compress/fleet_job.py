"""A compression job on several ranks, whole, and interrupted and resumed: fleet_job.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle

import paddleslim_ng as slim
from tests.compress.job_net import same
from tests.compress.resume_job import job, outcome


class Interrupted(Exception):
    pass


def _interrupt() -> None:
    raise Interrupted


def main() -> None:
    folder = Path(sys.argv[1])
    paddle.enable_static()
    ranks = slim.distributed.init().ranks
    compressor = job(folder / 'whole', ranks=ranks)[1]
    paddle.seed(5)
    whole = outcome(compressor)
    compressor = job(folder / 'parts', ('batch_end', 1, 2), _interrupt, ranks=ranks)[1]
    paddle.seed(5)
    try:
        compressor.run()
    except Interrupted:
        compressor = job(folder / 'parts', ranks=ranks)[1]
        paddle.seed(6)
        same(outcome(compressor), whole)
        np.savez(folder / f'rank-{ranks.rank}.npz', **whole)


if __name__ == '__main__':
    main()
