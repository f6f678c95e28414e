"""A training job that resumes: train_job.py FOLDER STEPS [SIGNAL@STEP ...]

Weights are pruned on a schedule. Rank 1 sends itself each signal at the step given, once. In the end every rank writes
the digest of its parameters, masks, optimizer and statistics to FOLDER/end-RANK.txt.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddle
from paddle.distributed import fleet

import paddleslim_ng as slim
from tests.distributed import nets


def main() -> None:
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    faults = {int(step): name for name, step in (item.split('@') for item in sys.argv[3:])}
    paddle.enable_static()
    ranks = slim.distributed.init().ranks
    fleet.init(is_collective=True)
    scheduler = paddle.optimizer.lr.StepDecay(0.1, step_size=3, gamma=0.7)
    net = nets.build(lambda loss: fleet.distributed_optimizer(nets.momentum(scheduler)).minimize(loss), norm=True)
    schedule = slim.sparse.Polynomial(2, 12, interval=3)
    pruner = slim.sparse.UnstructuredPruner(net.main, ratio=0.75, scope=net.scope, schedule=schedule)
    nets.start(net, nets.initial())
    checks = slim.distributed.RankChecks(net.main, net.scope)
    states = {'pruner': pruner}
    checkpoints = slim.distributed.Checkpoints(folder / 'checkpoints', net.main, net.scope, states=states)
    restored = checkpoints.restore()
    for step in range(restored.step if restored else 0, steps):
        nets.run(net, step, ranks.rank, ranks.size)
        scheduler.step()
        pruner.step()
        checks.after_step()
        if step % 2 == 1:
            checkpoints.save(step + 1)
        mark = folder / f'fault-{step}'
        if ranks.rank == 1 and step in faults and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), getattr(signal, faults[step]))
    names = checkpoints._training.names()
    (folder / f'end-{ranks.rank}.txt').write_text(nets.digest(nets.arrays(net, names)))


if __name__ == '__main__':
    main()
