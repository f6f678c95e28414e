"""Quantization operators in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import (
    Executor,
    GraphWrapper,
    paddle_compat,
    store_array,
    translate_program,
    translate_to_pir,
)
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.errors import UnsupportedOpError

pytestmark = pytest.mark.skipif(not paddle_compat.has_pir(), reason='this Paddle has no PIR programs')
STATE = {
    'scale': np.array([0.8], 'float32'),
    'zero': np.array([0.0], 'float32'),
    'scales': np.array([1, 2, 3, 4], 'float32'),
    'zeros': np.zeros([4], 'float32'),
    'accumulated': np.array([1.0], 'float32'),
    'steps': np.array([1.0], 'float32'),
    'codes': np.arange(-6, 6).reshape(4, 3).astype('int8'),
}
MOVING = (
    {'X': 'x', 'InScale': 'scale', 'InAccum': 'accumulated', 'InState': 'steps'},
    {'OutScale': 'scale', 'OutAccum': 'accumulated', 'OutState': 'steps'},
    {'bit_length': 8, 'moving_rate': 0.9, 'is_test': True, 'round_type': 1},
)
# Without ``_dequantize`` Paddle's own kernel of this one fails in test mode.
BY_CHANNEL = ({'X': 'x'}, {'OutScale': 'found'}, {'bit_length': 8, 'quant_axis': 1, 'round_type': 1})
OPS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any]]] = {
    'fake_quantize_dequantize_moving_average_abs_max': MOVING,
    'fake_quantize_moving_average_abs_max': MOVING,
    'fake_quantize_range_abs_max': (
        {'X': 'x', 'InScale': 'scale'},
        {'OutScale': 'scale'},
        {'bit_length': 8, 'is_test': True, 'window_size': 10, 'round_type': 1},
    ),
    'fake_quantize_abs_max': ({'X': 'x'}, {'OutScale': 'found'}, {'bit_length': 8, 'round_type': 1}),
    'fake_quantize_dequantize_abs_max': ({'X': 'x'}, {'OutScale': 'found'}, {'bit_length': 8, 'round_type': 1}),
    'fake_channel_wise_quantize_dequantize_abs_max': BY_CHANNEL,
    'fake_dequantize_max_abs': ({'X': 'x', 'Scale': 'scale'}, {}, {'max_range': 127.0}),
    'fake_channel_wise_dequantize_max_abs': (
        {'X': 'x', 'Scales': 'scales'},
        {},
        {'quant_bits': [8], 'quant_axis': 1, 'x_num_col_dims': 1},
    ),
    'quantize_linear': (
        {'X': 'x', 'Scale': 'scale', 'ZeroPoint': 'zero'},
        {},
        {'quant_axis': -1, 'bit_length': 8, 'round_type': 0, 'is_test': True},
    ),
}


def program_of(kind: str, ins: dict[str, str], outs: dict[str, str], attrs: dict[str, Any]) -> tuple[Any, Any]:
    """Return a legacy program with one operator, and a scope."""
    scope = paddle.static.Scope()
    with ir_mode(pir=False):
        program = paddle.static.Program()
        block = program.global_block()
        with paddle.static.program_guard(program):
            paddle.static.data('x', [None, 4, 6])
        for name, value in STATE.items():
            store_array(scope, name, value)
            block.create_parameter(name=name, shape=list(value.shape), dtype=str(value.dtype), trainable=False)
        for name in ('y', 'found'):
            block.create_var(name=name, shape=[-1], dtype='float32')
        main = 'Y' if kind.endswith('linear') else 'Out'
        block.append_op(type=kind, inputs=ins, outputs={main: 'y', **outs}, attrs=attrs)
    return program, scope


def run(program: Any, scope: Any) -> Any:
    feed = {'x': np.random.default_rng(0).standard_normal((3, 4, 6)).astype('float32')}
    return Executor().run(program, feed, ['y'], scope=scope)[0]


@pytest.mark.parametrize('kind', OPS)
def test_there_and_back(kind: str) -> None:
    program, scope = program_of(kind, *OPS[kind])
    expected = run(program, scope)
    pir = translate_to_pir(program, ['x'], ['y'])
    np.testing.assert_array_equal(run(pir, scope), expected)
    again = translate_program(pir, ['x'], ['y'])
    assert [op.type for op in again.global_block().ops] == [kind]
    np.testing.assert_array_equal(run(again, scope), expected)
    assert np.unique(expected).size > 3


def test_dequantize_linear() -> None:
    """Paddle 3.3 runs this operator of PIR programs as its opposite, so that way is closed; from PIR it is open."""
    attrs = {'quant_axis': 0, 'bit_length': 8, 'is_test': True}
    ins = {'X': 'codes', 'Scale': 'scales', 'ZeroPoint': 'zeros'}
    program, scope = program_of('dequantize_linear', ins, {}, attrs)
    expected = run(program, scope)
    np.testing.assert_allclose(expected, STATE['codes'] * STATE['scales'][:, None] / 127, rtol=1e-6)
    with pytest.raises(UnsupportedOpError, match=r'dequantize_linear \(1x: Paddle 3 runs'):
        translate_to_pir(program, ['x'], ['y'])
    with ir_mode(pir=False):
        pir = paddle_compat.pir_from_legacy(program)
    (op,) = (op for op in GraphWrapper(pir).ops() if op.type() == 'dequantize_linear')
    name = op.outputs('Y')[0].name()
    again = translate_program(pir, [], [name])
    found = Executor().run(again, {}, [name], scope=scope)[0]
    np.testing.assert_array_equal(found, expected)
