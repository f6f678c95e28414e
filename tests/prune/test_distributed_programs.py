"""Pruning a program that reduces gradients over ranks is distributing the pruned program."""

from __future__ import annotations

from typing import Any

import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.core.packed_gradients import COLLECTIVES
from paddleslim_ng.distributed import Ranks, distribute
from paddleslim_ng.errors import GraphError
from paddleslim_ng.prune import Pruner
from paddleslim_ng.sparse import UnstructuredPruner

TWO = Ranks(0, 2)


def _net() -> tuple[Any, Any]:
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 2, 6, 6], 'float32')
        h = F.relu(nn.BatchNorm2D(8)(nn.Conv2D(2, 8, 3, weight_attr=paddle.ParamAttr(name='conv'))(x)))
        paddle.optimizer.Momentum(0.1, 0.9).minimize(paddle.mean(nn.Linear(8 * 16, 4)(paddle.flatten(h, 1))))
    Executor().run(startup, scope=scope)
    return main, scope


def _copied(scope: Any, program: Any) -> Any:
    copy = paddle.static.Scope()
    for var in GraphWrapper(program).vars():
        if var.persistable():
            store_array(copy, var.name(), load_array(scope, var.name()))
    return copy


def _constants(program: Any) -> list[Any]:
    """Return the offsets and shapes behind the first collective, in the order of the operators."""
    ops = GraphWrapper(program).ops()
    first = next(op.idx() for op in ops if op.type() in COLLECTIVES)
    behind = [op for op in ops if op.idx() > first]
    found = [(op.attr('starts'), op.attr('ends')) for op in behind if op.type() == 'slice']
    return found + [op.attr('shape') for op in behind if op.type().startswith('reshape')]


@pytest.mark.parametrize('bucket_bytes', [1 << 20, 64])
def test_the_order_of_pruning_and_distributing_does_not_matter(bucket_bytes: int) -> None:
    main, scope = _net()
    first = clone_program(main)
    distribute(first, ranks=TWO, bucket_bytes=bucket_bytes)
    first, _, _ = Pruner().prune(first, _copied(scope, main), ['conv'], [0.25])
    second, _, _ = Pruner().prune(main, _copied(scope, main), ['conv'], [0.25])
    distribute(second, ranks=TWO, bucket_bytes=bucket_bytes)
    assert _constants(first) == _constants(second) and len(_constants(first)) >= 10


def test_vectors_of_what_masks_keep_are_refused() -> None:
    main, scope = _net()
    UnstructuredPruner(main, scope=scope)
    distribute(main, ranks=TWO, kept_only=True)
    with pytest.raises(GraphError, match='kept_only'):
        Pruner().prune(main, scope, ['conv'], [0.25])
    assert load_array(scope, 'conv').shape == (8, 2, 3, 3)
