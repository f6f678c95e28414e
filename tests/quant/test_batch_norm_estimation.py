"""Statistics of batch norm that are estimated anew are numpy's averages over the batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import DataError, GraphError
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.batch_norm_estimation import reestimate_batch_norm
from tests.quant import training_nets as nets

F = paddle.nn.functional


def body(x: Any) -> Any:
    """Batch norm of the input itself, then of a convolution."""
    x = paddle.nn.BatchNorm2D(3)(x)
    x = F.relu(paddle.nn.BatchNorm2D(4)(paddle.nn.Conv2D(3, 4, 3)(x)))
    return paddle.nn.Linear(4, 5)(paddle.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def everything(net: nets.TrainingNet, program: Any) -> dict[str, Any]:
    vars = GraphWrapper(program).vars()
    return {v.name(): load_array(net.scope, v.name()) for v in vars if v.persistable() or v.is_parameter()}


@pytest.mark.parametrize('quantized', [False, True])
def test_statistics_are_averages_over_the_batches(quantized: bool) -> None:
    net = nets.build(body, optimizer=lambda: paddle.optimizer.Momentum(0.05, 0.9))
    program = quant_aware(net.program, paddle.CPUPlace(), None, net.scope) if quantized else net.program
    net.steps(2, program)
    before = everything(net, program)
    feeds = [nets.feed_of(step) for step in range(3, 7)]
    names = reestimate_batch_norm(program, feeds, net.scope, batch_nums=3)
    after = everything(net, program)
    assert len(names) == 4
    batches = [feed['x'].astype('float64') for feed in feeds[:3]]
    np.testing.assert_allclose(after[names[0]], np.mean([b.mean((0, 2, 3)) for b in batches], 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after[names[1]], np.mean([b.var((0, 2, 3)) for b in batches], 0), rtol=1e-4)
    assert not np.array_equal(after[names[2]], before[names[2]])
    for name, array in before.items():
        if name not in names:
            np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_what_is_refused_changes_nothing() -> None:
    net = nets.build(body)
    before = everything(net, net.program)
    with pytest.raises(GraphError, match='no batch norm in training mode'):
        reestimate_batch_norm(clone_program(net.program, for_test=True), [nets.feed_of(0)], net.scope)
    with pytest.raises(DataError):
        reestimate_batch_norm(net.program, [], net.scope)
    store_array(net.scope, 'conv2d_0.b_0', np.full(4, np.inf, 'float32'))
    with pytest.raises(DataError, match='is not finite'):
        reestimate_batch_norm(net.program, [nets.feed_of(0)], net.scope)
    store_array(net.scope, 'conv2d_0.b_0', before['conv2d_0.b_0'])
    for name, array in everything(net, net.program).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
