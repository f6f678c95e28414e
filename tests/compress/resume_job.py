"""A job with strategies that change programs in every way; tests interrupt it and go on.

python -m tests.compress.resume_job FOLDER POINT
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleslim_ng.compress import Compressor, Context, Strategy
from paddleslim_ng.compress.strategies import UniformPruneStrategy, UnstructuredPruneStrategy
from paddleslim_ng.core import load_array, store_array
from paddleslim_ng.distributed import Ranks
from tests.compress.interruptions import NOWHERE, Interrupt, kill, kill_while_writing
from tests.compress.job_net import ALONE, JobNet, adam, batches, tensors

EPOCHS = 4
BATCHES = 5


class Shuffled:
    """Batches in an order of the epoch, drawn from a generator of its own, or from numpy's global one."""

    def __init__(self, own: bool, rank: int = 0) -> None:
        self.own, self.rank = own, rank
        self.epoch = 0

    def __call__(self) -> Any:
        rows = list(batches(BATCHES, self.rank))
        if self.own:
            order = np.random.default_rng(self.epoch).permutation(len(rows))
        else:
            order = np.random.permutation(len(rows))  # noqa: NPY002  # what Paddle's RandomSampler does
        return (rows[index] for index in order)


class Noise(Strategy):
    """Draws from the context's generator, counts, and leaves values behind."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_batch_end(self, context: Context) -> None:
        self.count += 1
        bias = load_array(context.scope, 'bias')
        store_array(context.scope, 'bias', bias + context.rng.normal(0, 1e-3, bias.shape).astype('float32'))
        context.put('count', self.count)

    def state_dict(self) -> Mapping[str, Any]:
        return {'count': self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state['count']


class Rebuild(Strategy):
    """Gives the training program another optimizer, as strategies with a loss of their own do; masks are lost."""

    def on_epoch_end(self, context: Context) -> None:
        if context.epoch_id == self.start_epoch:
            self._rebuild(context)

    def _rebuild(self, context: Context) -> None:
        program = context.forward_program()
        context.minimize(program, lambda: paddle.optimizer.Momentum(0.02, 0.9))
        context.replace_programs(self, program, note={'epoch': self.start_epoch})

    def restore_from_checkpoint(self, context: Context) -> None:
        assert context.replayed is not None and context.replayed.note == {'epoch': self.start_epoch}
        self._rebuild(context)


def job(
    folder: Path | None,
    point: tuple[str, int, int] = NOWHERE,
    action: Any = None,
    ranks: Ranks = ALONE,
) -> tuple[JobNet, Compressor]:
    """Return the network and its job, which stops at a point."""
    alone = ranks.size == 1
    net = JobNet(minimize=alone)
    compressor = net.compressor(
        train_reader=Shuffled(True, ranks.rank),
        train_optimizer=None if alone else adam,
        epoch=EPOCHS,
        checkpoint_path=folder,
        checkpoint_every=2,
        ranks=ranks,
    )
    compressor.add_strategy(UnstructuredPruneStrategy(0, 3, ratio=0.5))
    compressor.add_strategy(UniformPruneStrategy(1, target_ratio=0.4, pruned_params='conv.*', round_to=1))
    compressor.add_strategy(Noise())
    compressor.add_strategy(Rebuild(1))
    compressor.add_strategy(UniformPruneStrategy(3, target_ratio=0.2, pruned_params='conv.*', round_to=1), 'again')
    compressor.add_strategy(Interrupt(point, action))
    return net, compressor


def outcome(compressor: Compressor) -> dict[str, Any]:
    """Run a job and return everything that has to be the same."""
    result = compressor.run()
    found = tensors(result.train_program, result.scope)
    found.update({f'eval {name}': value for name, value in tensors(result.eval_program, result.scope).items()})
    for record in result.records:
        values = [*record.train.values(), *record.metrics.values(), record.learning_rate or 0.0, record.samples]
        found[f'record {record.epoch}'] = np.array(values)
    found['count'] = np.array(compressor.context.get('count'))
    found['random'] = compressor.context.rng.random(3)
    found['journal'] = np.array([entry.strategy for entry in result.journal])
    return found


if __name__ == '__main__':
    paddle.enable_static()
    what, first, second = sys.argv[2].split(':')
    compressor = job(Path(sys.argv[1]), (what, int(first), int(second)), kill)[1]
    np.random.seed(int(sys.argv[3]))  # noqa: NPY002
    paddle.seed(int(sys.argv[3]))
    if what == 'write':
        kill_while_writing(int(first))
    compressor.run()
