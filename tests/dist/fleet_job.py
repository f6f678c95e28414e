"""Two ranks train a student beside its teacher: fleet_job.py FOLDER, run by Paddle's launcher."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle
from paddle.distributed import fleet

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.core.teachers import teacher_variables
from paddleslim_ng.errors import DistributedError
from tests.distributed import nets

STEPS = 8
TEACHER = {name: 2 * array for name, array in nets.initial(7).items()}


def teacher() -> nets.Net:
    """Build a network with batch norm, whose parameters and statistics do not depend on Paddle."""
    net = nets.build(lambda loss: None, norm=True)
    nets.start(net, TEACHER)
    random = np.random.RandomState(4)
    (norm,) = [op for op in GraphWrapper(net.main).ops() if op.type() == 'batch_norm']
    for slot in ('Mean', 'Variance'):
        store_array(net.scope, norm.inputs(slot)[0].name(), random.uniform(0.5, 1.5, 4).astype('float32'))
    return net


def student(optimizer: Any) -> nets.Net:
    """Build a student that learns from labels and from the teacher's logits."""
    known = teacher()
    scope = paddle.static.Scope()

    def minimize(loss: Any) -> None:
        graph = GraphWrapper(loss.block.program)
        merged = slim.dist.merge(known.main, graph.program, {'x': 'x'}, scope=scope, teacher_scope=known.scope)
        mine = logits_of(graph)
        soft = slim.dist.soft_label(merged.outputs[0], mine, graph.program, 2.0, 2.0)
        optimizer.minimize(loss + soft)

    return nets.build(minimize)._replace(scope=scope)


def logits_of(graph: GraphWrapper) -> str:
    (reader,) = [op for op in graph.ops() if op.type() == 'softmax_with_cross_entropy']
    return reader.inputs('Logits')[0].name()


def frozen(net: nets.Net) -> list[str]:
    return sorted(var.name() for var in teacher_variables(GraphWrapper(net.main))['teacher_'])


def train(net: nets.Net, rank: int, size: int, after: Any = None) -> nets.Arrays:
    """Train under masks, and return parameters and masks of the student, and the teacher."""
    pruner = slim.sparse.UnstructuredPruner(net.main, ratio=0.5, scope=net.scope)
    nets.start(net, nets.initial())
    for step in range(STEPS):
        nets.run(net, step, rank, size)
        pruner.step()
        if after is not None:
            after()
    return nets.arrays(net, [*nets.initial(), *pruner.masks.values(), *frozen(net)])


def main() -> None:
    folder = Path(sys.argv[1])
    paddle.enable_static()
    ranks = slim.distributed.init().ranks
    fleet.init(is_collective=True)
    net = student(fleet.distributed_optimizer(nets.momentum()))
    before = nets.arrays(net, frozen(net))
    checks = slim.distributed.RankChecks(net.main, net.scope)
    np.savez(folder / f'rank-{ranks.rank}.npz', **train(net, ranks.rank, ranks.size, checks.after_step))
    after = nets.arrays(net, frozen(net))
    with slim.distributed.shared_statistics(net.main, net.scope) as names:
        shared = list(names)
    if ranks.rank == 1:
        store_array(net.scope, 'teacher_bias', load_array(net.scope, 'teacher_bias') + 1)
    try:
        slim.distributed.check_ranks(net.main, net.scope)
        message = ''
    except DistributedError as error:
        message = str(error)
    slim.distributed.shutdown()
    found = {'frozen': nets.digest(before) == nets.digest(after), 'shared': shared, 'message': message}
    (folder / f'rank-{ranks.rank}.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main()
