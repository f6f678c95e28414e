"""Half-precision parameters: the optimizer's single-precision copies are masked, too, where Paddle builds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.sparse import UnstructuredPruner
from tests.prune.optimizer_cases import configuration

REFUSALS = {'3.3.1 PIR': 'Check data type error for op', '3.3.1 legacy': 'must be Value, but got Variable'}


def _build(dtype: str, optimizer: str) -> tuple[Any, Any]:
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [4, 6], 'float32')
        w = paddle.create_parameter([6, 4], dtype, 'w', default_initializer=paddle.nn.initializer.Constant(0.5))
        y = paddle.matmul(x, paddle.cast(w, 'float32'))
        getattr(paddle.optimizer, optimizer)(0.1, multi_precision=True).minimize(paddle.mean(y * y))
    return main, startup


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
@pytest.mark.parametrize('optimizer', ['Momentum', 'Adam', 'AdamW'])
def test_copies_are_masked(dtype: str, optimizer: str) -> None:
    """No Paddle runs these updates on a CPU, so the program and the scope are looked at."""
    if configuration() in REFUSALS:
        with pytest.raises(TypeError, match=REFUSALS[configuration()]):
            _build(dtype, optimizer)
        return
    main, startup = _build(dtype, optimizer)
    scope = paddle.static.Scope()
    pruner = UnstructuredPruner(main, ratio=0.5, scope=scope)
    paddle.static.Executor(paddle.CPUPlace()).run(startup, scope=scope)
    master = next(var.name() for var in GraphWrapper(main).vars() if 'fp32_master' in var.name())
    tail = [op for op in GraphWrapper(main).ops() if op.is_opt_op()][-4:]
    assert [(op.type(), op.all_outputs()[0].dtype()) for op in tail] == [
        ('cast', dtype),
        ('elementwise_mul', dtype),
        ('cast', 'float32'),
        ('elementwise_mul', 'float32'),
    ]
    assert [op.all_outputs()[0].name() for op in tail][1::2] == ['w', master]
    values = np.random.default_rng(0).standard_normal((6, 4)).astype('float32')
    store_array(scope, master, values)
    pruner.step()
    mask = load_array(scope, 'w_mask')
    assert mask.sum() == 12
    np.testing.assert_array_equal(load_array(scope, master), values * mask)
    bits = load_array(scope, 'w').view(np.uint16)
    np.testing.assert_array_equal(bits != 0, mask != 0)
