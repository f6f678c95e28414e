"""What two ranks do in the tests; run by Paddle's launcher. Each scenario returns what JSON can hold.

rank_scenarios.py FOLDER: results go to FOLDER/rank-N.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle
from paddle.distributed import fleet

import paddleslim_ng as slim
from paddleslim_ng.compress.common_batches import common_batches
from paddleslim_ng.core import GraphWrapper, load_array
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.distributed.collectives import all_reduce, together
from paddleslim_ng.errors import DataError, DistributedError, SlimError
from tests.distributed import nets

FOLDER = Path(sys.argv[1])
STEPS = 50


def message(kind: type[BaseException], call: Any) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    return ''


def exchange(ranks: Any) -> Any:
    return {
        'gather': ranks.gather([ranks.rank, 7 * ranks.rank - 2**60]).tolist(),
        'broadcast': ranks.broadcast(bytes(range(256)) * 3 + b'x' if ranks.rank == 0 else None).hex(),
        'mean': ranks.mean(np.array([[1.0 + ranks.rank, 0.1]])).tolist(),
        'nothing': [ranks.broadcast(b'' if ranks.rank == 0 else None).hex(), ranks.stack(np.zeros([0, 3])).shape],
    }


def uneven(ranks: Any) -> Any:
    """Readers of the same length, of different lengths, and one that fails on rank 1 alone."""

    def read(count: int, fails: bool = False) -> Any:
        taken = 0

        def feeds() -> Iterator[Any]:
            yield from ({'x': np.zeros(1)} for _ in range(count))
            if fails:
                raise DataError('the disk of rank 1 is gone')

        try:
            for _ in common_batches(feeds(), ranks, 'train_reader'):
                taken += 1
        except SlimError as error:
            return [taken, f'{type(error).__name__}: {error}']
        return [taken, '']

    return [read(3), read(2 + ranks.rank), read(2, ranks.rank == 1)]


def fleet_exchange(ranks: Any) -> Any:
    """Fleet's own exchanges, which do nothing in stock Paddle, and arrays that do not fit together."""
    if ranks.rank == 1:
        time.sleep(0.5)
    came = time.time()
    fleet.barrier_worker()
    left = time.time()
    last = float(ranks.stack(np.array([came])).max())
    numbers = np.array([[1.5 + ranks.rank, -1.0 - ranks.rank]], 'float32')
    strategy = fleet.DistributedStrategy()
    strategy.localsgd = True
    fleet.init(is_collective=True, strategy=strategy)
    refused = message(SlimError, lambda: fleet.distributed_optimizer(nets.momentum()))
    fleet.init(is_collective=True)
    return {
        'refused': refused,
        'waited': left >= last,
        **{mode: fleet.util.all_reduce(numbers, mode).tolist() for mode in ('sum', 'max', 'min')},
        'gather': fleet.util.all_gather(ranks.rank + 0.5),
        'differ': message(DistributedError, lambda: ranks.stack(np.zeros(2 + ranks.rank))),
        'mode': message(SlimError, lambda: fleet.util.all_reduce(numbers, 'median')),
    }


def half_precision(ranks: Any) -> Any:
    """Two collectives in a chain, of half-precision numbers, whose sums Paddle 3 gets wrong."""
    found = {}
    for dtype in ('float16', 'bfloat16'):
        program = paddle.static.Program()
        with paddle.static.program_guard(program):
            paddle.static.data('x', [2, 3], 'float32')
        here = Insertion(GraphWrapper(program))
        halves = [here.op('cast', {'X': 'x'}, {'out_dtype': dtype}) for _ in range(2)]
        first = together(here, halves[:1], all_reduce, 0.5)
        together(here, halves[1:], all_reduce, 0.5, first)
        fetches = [here.op('cast', {'X': half}, {'out_dtype': 'float32'}).raw for half in halves]
        feed = {'x': np.arange(6, dtype='float32').reshape(2, 3) + ranks.rank}
        found[dtype] = [array.tolist() for array in slim.Executor().run(program, feed=feed, fetch_list=fetches)]
    return found


def masked_training(ranks: Any) -> Any:
    """Fleet's public interface, masks put in by hand, different initial parameters on each rank."""
    strategy = fleet.DistributedStrategy()
    strategy.without_graph_optimization = False

    def minimize(loss: Any) -> None:
        fleet.distributed_optimizer(nets.momentum(), strategy).minimize(loss)

    net = nets.build(minimize)
    masks = nets.add_masks(net)
    nets.start(net)
    nets.start(net, {**nets.initial(), **masks})
    checks = slim.distributed.RankChecks(net.main, net.scope)
    zeros = []
    for step in range(STEPS):
        nets.run(net, step, ranks.rank, ranks.size)
        checks.after_step()
        zeros.append(int((load_array(net.scope, 'fc') == 0).sum()))
    names = [*nets.initial(), 'fc_mask']
    np.savez(FOLDER / f'masked-{ranks.rank}.npz', **nets.arrays(net, names))
    return {'digest': nets.digest(nets.arrays(net, names)), 'zeros': sorted(set(zeros))}


def pruned_training(ranks: Any) -> Any:
    """A pruner whose masks change on the way; then one mask, and one parameter at a change, is made to differ."""
    net = nets.build(slim.distributed.DistributedOptimizer(nets.momentum()).minimize)
    schedule = slim.sparse.Polynomial(2, 12, interval=3)
    pruner = slim.sparse.UnstructuredPruner(net.main, ratio=0.75, scope=net.scope, schedule=schedule)
    nets.start(net, nets.initial())
    checks = slim.distributed.RankChecks(net.main, net.scope)
    compared: list[int] = []
    checked = slim.distributed.consistency.check_ranks

    def spy(*given: Any, **named: Any) -> None:
        compared.append(checks._steps)
        checked(*given, **named)

    slim.distributed.consistency.check_ranks = spy
    shares = []
    for step in range(20):
        nets.run(net, step, ranks.rank, ranks.size)
        pruner.step()
        checks.after_step()
        shares.append(pruner.sparsity().prunable)
    slim.distributed.consistency.check_ranks = checked
    names = [*nets.initial(), *pruner.masks.values()]
    np.savez(FOLDER / f'pruned-{ranks.rank}.npz', **nets.arrays(net, names))
    mask = load_array(net.scope, 'fc_mask')
    if ranks.rank == 1:
        slim.core.store_array(net.scope, 'fc_mask', 1 - mask)
    by_mask = message(DistributedError, checks.after_step)
    slim.core.store_array(net.scope, 'fc_mask', mask)
    checks.after_step()
    if ranks.rank == 1:
        slim.core.store_array(net.scope, 'bias', load_array(net.scope, 'bias') + 1e-7)
    unseen = message(DistributedError, checks.after_step)
    slim.core.store_array(net.scope, 'fc_mask', 1 - mask)
    by_parameter = message(DistributedError, checks.after_step)
    return {
        'compared': compared,
        'shares': shares,
        'by_mask': by_mask,
        'unseen': unseen,
        'by_parameter': by_parameter,
    }


def kept_only(ranks: Any) -> Any:
    """Sending the gradients of kept weights alone ends with the same bits, on vectors of any size."""
    found = {}
    for name, options in {
        'all': {},
        'kept': {'kept_only': True},
        'kept by one': {'kept_only': True, 'bucket_bytes': 0},
    }.items():
        net = nets.build(nets.momentum().minimize)
        pruner = slim.sparse.UnstructuredPruner(net.main, ratio=0.75, scope=net.scope)
        slim.distributed.distribute(net.main, net.startup, ranks=ranks, **options)
        nets.start(net, nets.initial())
        for step in range(10):
            nets.run(net, step, ranks.rank, ranks.size)
            pruner.step()
        slim.distributed.check_ranks(net.main, net.scope)
        found[name] = nets.digest(nets.arrays(net))
    return found


def broadcast_start(ranks: Any) -> Any:
    """Parameters are rank 0's after the startup program, whatever the seeds; vectors of any size do the same."""
    found = {}
    for size in (0, 100, 32 << 20):
        net = nets.build(slim.distributed.DistributedOptimizer(nets.momentum(), bucket_bytes=size).minimize)
        net.startup.random_seed = 1 + ranks.rank
        paddle.seed(1 + ranks.rank)
        nets.start(net)
        first = nets.digest(nets.arrays(net))
        nets.start(net, nets.initial())
        for step in range(5):
            nets.run(net, step, ranks.rank, ranks.size)
        found[str(size)] = [first, nets.digest(nets.arrays(net))]
    return found


def unsynchronized(ranks: Any) -> Any:
    """A plain optimizer: the guard sees it in the program, and the checksums after one step."""
    net = nets.build(nets.momentum().minimize)
    nets.start(net, nets.initial())
    before = message(DistributedError, lambda: slim.distributed.check_ranks(net.main, net.scope))
    guard = message(DistributedError, lambda: slim.distributed.RankChecks(net.main, net.scope))
    nets.run(net, 0, ranks.rank, ranks.size)
    after = message(DistributedError, lambda: slim.distributed.check_ranks(net.main, net.scope, when='step 1'))
    return {'before': before, 'guard': guard, 'after': after}


def stock_fleet(ranks: Any) -> Any:
    """Paddle's own Fleet, after ``shutdown``: it refuses, or trains without synchronizing, and is caught."""
    slim.distributed.shutdown()
    strategy = fleet.DistributedStrategy()
    strategy.without_graph_optimization = False
    fleet.init(is_collective=True, strategy=strategy)
    try:
        net = nets.build(lambda loss: fleet.distributed_optimizer(nets.momentum(), strategy).minimize(loss))
    except TypeError:
        return {'refused': True}
    finally:
        slim.distributed.init()
    nets.start(net, nets.initial())
    guard = message(DistributedError, lambda: slim.distributed.require_all_reduce(net.main))
    nets.run(net, 0, ranks.rank, ranks.size)
    after = message(DistributedError, lambda: slim.distributed.check_ranks(net.main, net.scope))
    return {'refused': False, 'guard': guard, 'after': after}


def statistics(ranks: Any) -> Any:
    net = nets.build(slim.distributed.DistributedOptimizer(nets.momentum()).minimize, norm=True)
    nets.start(net)
    for step in range(3):
        nets.run(net, step, ranks.rank, ranks.size)
    slim.distributed.check_ranks(net.main, net.scope)
    with slim.distributed.shared_statistics(net.main, net.scope) as names:
        shared = {name: load_array(net.scope, name).tolist() for name in names}
    own = {name: load_array(net.scope, name).tolist() for name in names}
    with slim.distributed.shared_statistics(net.main, net.scope, keep=True):
        pass
    kept = {name: load_array(net.scope, name).tolist() for name in names}
    return {'own': own, 'shared': shared, 'kept': kept}


def checkpoints(ranks: Any) -> Any:
    """Rank 1 finds its newest file truncated: all go back to the one before, and on to the same end."""
    random = np.random.default_rng(ranks.rank)
    net = nets.build(slim.distributed.DistributedOptimizer(nets.momentum()).minimize, norm=True)
    nets.start(net)
    saved = slim.distributed.Checkpoints(FOLDER / 'ck', net.main, net.scope, generators={'data': random})

    def go_on(first: int) -> list[Any]:
        for step in range(first, 6):
            nets.run(net, step, ranks.rank, ranks.size)
            last = float(random.random())
            if step in (1, 3):
                saved.save(step + 1, {'epoch': step})
        names = [*nets.initial(), *(n for n in saved._training.names() if n not in nets.initial())]
        return [nets.digest(nets.arrays(net, names)), last]

    nothing = saved.restore()
    straight = go_on(0)
    ranks.barrier()
    if ranks.rank == 1:
        file = next((FOLDER / 'ck').glob('step-0000000004.rank-1-of-2.npz'))
        file.write_bytes(file.read_bytes()[:-100])
    restored = saved.restore()
    assert restored is not None
    found = {'nothing': nothing is None, 'straight': straight, 'restored': restored, 'again': go_on(restored.step)}
    return {**found, 'begun': begun(net, ranks)}


def begun(net: nets.Net, ranks: Any) -> list[Any]:
    """Rank 1 dies before its first checkpoint, which is no damage; then before its third, and has lost the others."""
    saved = slim.distributed.Checkpoints(FOLDER / 'begun', net.main, net.scope)

    def restore() -> Any:
        try:
            return saved.restore()
        except SlimError as error:
            return str(error)

    found = []
    for steps in ((1,), (1,), (2,)):
        for step in steps if ranks.rank == 0 else ():
            saved.save(step)
        ranks.barrier()
        found.append(restore())
    return found


def other_number(ranks: Any) -> Any:
    """Go on from the checkpoint of a single process, and leave one for a single process."""
    net = nets.build(slim.distributed.DistributedOptimizer(nets.momentum()).minimize)
    nets.start(net)
    restored = slim.distributed.Checkpoints(FOLDER / 'one', net.main, net.scope).restore()
    assert restored is not None
    digest = nets.digest(nets.arrays(net))
    for step in range(restored.step, restored.step + 5):
        nets.run(net, step, ranks.rank, ranks.size)
    saved = slim.distributed.Checkpoints(FOLDER / 'two', net.main, net.scope)
    saved.save(restored.step + 5)
    for step in range(restored.step + 5, restored.step + 10):
        nets.run(net, step, ranks.rank, ranks.size)
    if ranks.rank == 0:
        np.savez(FOLDER / 'two-end.npz', **nets.arrays(net))
    return {'step': restored.step, 'ranks': restored.ranks, 'digest': digest}


def main() -> None:
    paddle.enable_static()
    before = [fleet.distributed_optimizer, fleet.barrier_worker, fleet.save_persistables, fleet.util.all_reduce]
    context = slim.distributed.init()
    fleet.init(is_collective=True)
    ranks = context.ranks
    found: dict[str, Any] = {'fleet': [fleet.worker_index(), fleet.worker_num()]}
    for scenario in (
        exchange,
        uneven,
        fleet_exchange,
        half_precision,
        masked_training,
        pruned_training,
        kept_only,
        broadcast_start,
        unsynchronized,
        statistics,
        checkpoints,
        other_number,
        stock_fleet,
    ):
        try:
            found[scenario.__name__] = scenario(ranks)
        except SlimError as error:
            found[scenario.__name__] = f'{type(error).__name__}: {error}'
    slim.distributed.shutdown()
    after = [fleet.distributed_optimizer, fleet.barrier_worker, fleet.save_persistables, fleet.util.all_reduce]
    found['restored'] = after == before
    (FOLDER / f'rank-{ranks.rank}.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main()
