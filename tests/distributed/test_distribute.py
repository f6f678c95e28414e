"""Collectives in programs, without running them, and what is refused."""

from __future__ import annotations

from typing import Any

import paddle
import pytest

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.gradients import gradient_of
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.distributed import DistributedOptimizer, Ranks, distribute, require_all_reduce
from paddleslim_ng.distributed.collectives import COLLECTIVES, all_reduce
from paddleslim_ng.distributed.strategy import bucket_bytes_of
from paddleslim_ng.distributed.synchronize import unreduced_parameters
from paddleslim_ng.errors import ConfigError, DistributedError, GraphError, UnsupportedOpError
from tests.distributed import nets

TWO = Ranks(0, 2)
NAMES = ['conv', 'bias', 'fc', 'fc_bias']
BYTES = {'conv': 4 * 36, 'bias': 4 * 4, 'fc': 4 * 320, 'fc_bias': 4 * 5}


def sums(program: Any) -> list[Any]:
    return [op for op in GraphWrapper(program).ops() if op.type() in COLLECTIVES]


def types(program: Any) -> list[str]:
    return [op.type() for op in GraphWrapper(program).ops()]


@pytest.mark.parametrize(('limit', 'expected'), [(0, 4), (BYTES['conv'] + BYTES['bias'], 3), (1 << 20, 1)])
def test_gradients_travel_in_vectors_up_to_the_limit(limit: int, expected: int) -> None:
    net = nets.build(nets.momentum().minimize)
    assert unreduced_parameters(net.main) == NAMES
    assert distribute(net.main, net.startup, ranks=TWO, bucket_bytes=limit) == expected
    assert len(sums(net.main)) == expected
    assert unreduced_parameters(net.main) == []
    require_all_reduce(net.main, ranks=TWO)


def test_the_vector_holds_every_gradient_once() -> None:
    net = nets.build(nets.momentum().minimize)
    distribute(net.main, net.startup, ranks=TWO)
    (vector,) = [op for op in GraphWrapper(net.main).ops() if op.type() == 'concat']
    assert len(vector.inputs('X')) == len(NAMES)


def test_the_sum_stands_between_backward_and_update() -> None:
    net = nets.build(nets.momentum().minimize)
    distribute(net.main, net.startup, ranks=TWO)
    ops = GraphWrapper(net.main).ops()
    (place,) = [op.idx() for op in sums(net.main)]
    assert max(op.idx() for op in ops if op.type() == 'conv2d_grad') < place
    assert min(op.idx() for op in ops if op.type() == 'momentum') > place


def test_one_rank_changes_nothing() -> None:
    net = nets.build(nets.momentum().minimize)
    before = types(net.main), types(net.startup)
    assert distribute(net.main, net.startup, ranks=Ranks(0, 1)) == 0
    assert (types(net.main), types(net.startup)) == before
    require_all_reduce(net.main, ranks=Ranks(0, 1))


def test_the_startup_program_sends_the_parameters() -> None:
    net = nets.build(nets.momentum().minimize)
    distribute(net.main, net.startup, ranks=TWO)
    assert {'broadcast', 'c_broadcast'} & set(types(net.startup))


def test_kept_only_needs_masks() -> None:
    net = nets.build(nets.momentum().minimize)
    before = types(net.main), types(net.startup)
    with pytest.raises(GraphError, match='kept_only needs masks'):
        distribute(net.main, net.startup, ranks=TWO, kept_only=True)
    assert (types(net.main), types(net.startup)) == before
    nets.add_masks(net)
    assert distribute(net.main, net.startup, ranks=TWO, kept_only=True) == 2
    assert unreduced_parameters(net.main) == []


def test_a_program_is_distributed_once() -> None:
    net = nets.build(DistributedOptimizer(nets.momentum(), ranks=TWO).minimize)
    before = types(net.main), types(net.startup)
    with pytest.raises(DistributedError, match='reduces gradients already'):
        distribute(net.main, net.startup, ranks=TWO)
    assert (types(net.main), types(net.startup)) == before


def test_a_program_that_updates_nothing_is_an_error() -> None:
    net = nets.build(lambda loss: None)
    with pytest.raises(GraphError, match='call minimize before'):
        distribute(net.main, net.startup, ranks=TWO)


def test_parameters_whose_gradients_are_left_out_are_named() -> None:
    net = nets.build(nets.momentum().minimize)
    graph = GraphWrapper(net.main)
    gradient = gradient_of(graph, graph.var('bias'))
    assert gradient is not None
    all_reduce(Insertion(graph, after=gradient.inputs()[-1], role='backward'), gradient)
    assert unreduced_parameters(net.main) == ['conv', 'fc', 'fc_bias']
    with pytest.raises(DistributedError, match="2 ranks train 'conv', 'fc', 'fc_bias' each for itself"):
        require_all_reduce(net.main, ranks=TWO)


@pytest.mark.parametrize('last', ['apply_gradients', 'apply_optimize'])
def test_minimize_in_two_parts_is_distributed_too(last: str) -> None:
    def minimize(loss: Any) -> None:
        optimizer = DistributedOptimizer(nets.momentum(), ranks=TWO)
        gradients = optimizer.backward(loss)
        if last == 'apply_gradients':
            optimizer.apply_gradients(gradients)
        else:
            optimizer.apply_optimize(loss, None, gradients)

    net = nets.build(minimize)
    require_all_reduce(net.main, ranks=TWO)
    assert {'broadcast', 'c_broadcast'} & set(types(net.startup))


def test_loss_scaling_is_refused() -> None:
    net = nets.build(nets.momentum().minimize)
    graph = GraphWrapper(net.main)
    op = next(op for op in graph.ops() if op.type() == 'momentum')
    op._type = 'check_finite_and_unscale'
    from paddleslim_ng.distributed import synchronize

    with pytest.raises(UnsupportedOpError, match='train without loss scaling'):
        synchronize._gradients(graph)


def test_sparse_gradients_are_refused_where_there_are_any(ir: str) -> None:
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        ids = paddle.static.data('ids', [4], 'int64')
        loss = paddle.mean(paddle.nn.Embedding(7, 3, sparse=True)(ids))
        paddle.optimizer.SGD(0.1).minimize(loss)
    before = types(main)
    if ir == 'pir':  # its gradients are dense whatever the layer asks for
        assert distribute(main, startup, ranks=TWO) == 1
        return
    with pytest.raises(UnsupportedOpError, match='sparse gradient'):
        distribute(main, startup, ranks=TWO)
    assert types(main) == before


def test_strategies() -> None:
    from paddle.distributed import fleet

    strategy = fleet.DistributedStrategy()
    assert bucket_bytes_of(None) == bucket_bytes_of(strategy) == 32 << 20
    strategy.fuse_all_reduce_ops = False
    assert bucket_bytes_of(strategy) == 0
    strategy.localsgd = True
    strategy.gradient_merge = True
    with pytest.raises(ConfigError, match='this one sets gradient_merge, localsgd'):
        bucket_bytes_of(strategy)
    strategy = fleet.DistributedStrategy()
    strategy.gradient_scale_configs = {'scale_strategy': 'sum'}
    with pytest.raises(ConfigError, match="'sum'"):
        bucket_bytes_of(strategy)


def test_a_rank_outside_the_job_is_an_error() -> None:
    with pytest.raises(DistributedError, match='rank 2 is outside a job of 2'):
        Ranks(2, 2)
