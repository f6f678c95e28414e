"""Moving statistics of batch norm, estimated anew for the weights as they are at the end of training.

Rounded weights jump from step to step, and the statistics that batch norm has gathered on the way are those of
networks that are gone (Nagel et al. 2022). Averages over some batches with the final weights are not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, has_array, load_array, store_array, view_array
from paddleslim_ng.core.cloning import forward_program
from paddleslim_ng.errors import DataError, GraphError
from paddleslim_ng.quant.data_sources import read_feeds
from paddleslim_ng.runtime import data_inputs

__all__ = ['reestimate_batch_norm']

Array = npt.NDArray[Any]


def reestimate_batch_norm(program: Any, data: Any, scope: Any = None, *, batch_nums: int | None = None) -> list[str]:
    """Set the moving statistics of every batch norm to the averages of those of some batches.

    Nothing else in the scope changes, and nothing is trained. Batch norms in test mode or with fixed statistics are
    left alone.

    Args:
        program: the training program, of either IR, quantized or not; it stays as it is.
        data: feeds, as :func:`paddleslim_ng.quant.calibrate` takes them; labels are needed where the program has some.
        scope: parameters; Paddle's global scope where None. It gets the statistics.
        batch_nums: how many batches are looked at; all where None.

    Returns:
        The names of the statistics that were estimated.

    Raises:
        GraphError: the program has no batch norm in training mode.
        DataError: data that the program cannot run on, or a batch with which statistics are not finite.

    In case of an error, the scope is as it was.

    Example:
        >>> slim.quant.reestimate_batch_norm(train_program, train_loader)
    """
    scope = scope if scope is not None else paddle.static.global_scope()
    graph = GraphWrapper(forward_program(program.program if isinstance(program, GraphWrapper) else program))
    momentum = _momentum_by_statistic(graph)
    if not momentum:
        raise GraphError('the program has no batch norm in training mode: give the training program')
    kept = [var.name() for var in graph.vars() if var.persistable() or var.is_parameter()]
    own = paddle.static.Scope()
    for name in kept:
        if has_array(scope, name):
            store_array(own, name, view_array(scope, name))
    sums = {name: np.zeros(load_array(own, name).shape, np.float64) for name in momentum}
    count, executor = 0, Executor()
    for feed in read_feeds(data_inputs(graph.program), data, batch_nums=batch_nums):
        for name, total in sums.items():
            store_array(own, name, np.zeros(total.shape, np.float32))
        executor.run(graph.program, dict(feed), scope=own)
        for name, total in sums.items():
            total += load_array(own, name).astype(np.float64) / (1 - momentum[name])
        count += 1
    bad = [name for name, total in sums.items() if not np.all(np.isfinite(total))]
    if bad:
        raise DataError(f'batch norm cannot be estimated anew: {bad[0]!r} is not finite with this data')
    for name, total in sums.items():
        store_array(scope, name, (total / count).astype(np.float32))
    return list(sums)


def _momentum_by_statistic(graph: GraphWrapper) -> dict[str, float]:
    found = {}
    for op in graph.ops():
        if op.type() == 'batch_norm' and not (op.attr('is_test') or op.attr('use_global_stats')):
            for slot in ('Mean', 'Variance'):
                found[op.inputs(slot)[0].name()] = float(op.attr('momentum'))
    return found
