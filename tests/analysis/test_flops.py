"""FLOPs against counts by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.analysis import flops, layer_costs, model_size, numel
from paddleslim_ng.errors import ConfigError, GraphError, UnsupportedOpError

nn = paddle.nn
F = paddle.nn.functional


def data(*shape: int | None, name: str = 'x', dtype: str = 'float32') -> Any:
    return paddle.static.data(name, list(shape), dtype)


def legacy_only(ir: str) -> bool:
    """Paddle 3.3 cannot build everything on the legacy IR; 2.6 can."""
    return ir == 'legacy' and paddle.__version__.startswith('3')


def appended_matmul(x: Any, y: Any, **attrs: Any) -> Any:
    """Append ``matmul_v2`` or use the API, whichever the IR can build."""
    if not legacy_only('pir' if paddle.framework.in_pir_mode() else 'legacy'):
        return paddle.matmul(x, y, attrs.get('trans_x', False), attrs.get('trans_y', False))
    block = paddle.static.default_main_program().global_block()
    out = block.create_var(dtype=x.dtype, shape=[-1])
    block.append_op(type='matmul_v2', inputs={'X': [x], 'Y': [y]}, outputs={'Out': [out]}, attrs=attrs)
    return out


def windowed(x: Any) -> Any:
    """Cut [N, 8, 8, C] into [N * 4, 16, C] windows, whose leading axis is more than the batch."""
    x = paddle.transpose(paddle.reshape(x, [0, 2, 4, 2, 4, 6]), [0, 1, 3, 2, 4, 5])
    return paddle.reshape(x, [-1, 16, 6])


CASES: dict[str, tuple[Callable[[], Any], int]] = {
    'conv2d': (lambda: nn.Conv2D(3, 8, 3)(data(None, 3, 10, 12)), 8 * 10 * 8 * 3 * 9),
    'strided': (lambda: nn.Conv2D(3, 8, 3, stride=2, padding=1)(data(None, 3, 9, 9)), 5 * 5 * 8 * 3 * 9),
    'dilated': (lambda: nn.Conv2D(3, 8, 3, dilation=2)(data(None, 3, 9, 9)), 5 * 5 * 8 * 3 * 9),
    'grouped': (lambda: nn.Conv2D(6, 8, 3, groups=2)(data(None, 6, 10, 10)), 64 * 8 * 3 * 9),
    'depthwise': (lambda: nn.Conv2D(6, 12, 3, groups=6)(data(None, 6, 10, 10)), 64 * 12 * 9),
    'channels_last': (lambda: nn.Conv2D(3, 8, 3, data_format='NHWC')(data(None, 10, 12, 3)), 8 * 10 * 8 * 3 * 9),
    'conv1d': (lambda: nn.Conv1D(4, 8, 3)(data(None, 4, 16)), 14 * 8 * 4 * 3),
    'conv3d': (lambda: nn.Conv3D(2, 4, 3)(data(None, 2, 6, 7, 8)), 4 * 5 * 6 * 4 * 2 * 27),
    'transposed': (lambda: nn.Conv2DTranspose(4, 6, 2, stride=2)(data(None, 4, 8, 8)), 64 * 4 * 6 * 4),
    'transposed_grouped': (
        lambda: nn.Conv2DTranspose(4, 6, 4, stride=2, groups=2)(data(None, 4, 8, 8)),
        64 * 4 * 3 * 16,
    ),
    'transposed_1d': (lambda: nn.Conv1DTranspose(4, 6, 3)(data(None, 4, 8)), 8 * 4 * 6 * 3),
    'transposed_3d': (lambda: nn.Conv3DTranspose(2, 3, 2)(data(None, 2, 4, 4, 4)), 64 * 2 * 3 * 8),
    'deformable': (
        lambda: paddle.vision.ops.DeformConv2D(4, 8, 3)(data(None, 4, 6, 6), data(None, 18, 4, 4, name='offset')),
        16 * 8 * 4 * 9,
    ),
    'fixed_batch': (lambda: nn.Conv2D(3, 8, 3)(data(5, 3, 10, 12)), 8 * 10 * 8 * 3 * 9),
    # The batch merged with frames must not pass for the batch.
    'frames': (
        lambda: nn.Conv2D(3, 8, 3)(paddle.reshape(data(None, 4, 3, 5, 5), [-1, 3, 5, 5])),
        4 * 9 * 8 * 3 * 9,
    ),
    'linear': (lambda: nn.Linear(64, 128)(data(None, 64)), 64 * 128),
    'linear_of_three_axes': (lambda: nn.Linear(64, 128)(data(1, 16, 64)), 131072),
    'linear_fixed_batch': (lambda: nn.Linear(64, 128)(data(16, 64)), 64 * 128),
    'tokens': (lambda: nn.Linear(8, 3)(paddle.reshape(data(None, 5, 8), [-1, 8])), 5 * 8 * 3),
    'windows': (
        lambda: nn.Linear(6, 3)(F.relu(windowed(data(None, 8, 8, 6)))),
        4 * 16 * 6 * 3,
    ),
    'static_fc': (lambda: paddle.static.nn.fc(data(None, 5, 4), 7, num_flatten_dims=2), 5 * 4 * 7),
    'static_fc_flattening': (lambda: paddle.static.nn.fc(data(None, 5, 4), 7), 5 * 4 * 7),
    'embedding': (lambda: nn.Embedding(100, 16)(data(None, 6, dtype='int64')), 0),
    'bilinear': (lambda: nn.Bilinear(5, 6, 7)(data(None, 5), data(None, 6, name='y')), 7 * 5 * 6 + 7 * 6),
    'addmm': (lambda: paddle.addmm(data(6, 5, name='i'), data(6, 8, name='a'), data(8, 5, name='b')), 6 * 8 * 5),
    'lstm': (
        lambda: nn.LSTM(8, 16, 2, direction='bidirect')(data(None, 6, 8)),
        6 * (2 * 64 * (8 + 16) + 2 * 64 * (32 + 16)),
    ),
    'gru': (lambda: nn.GRU(8, 16)(data(None, 6, 8)), 6 * 48 * (8 + 16)),
}


@pytest.mark.parametrize('name', CASES)
def test_counts_by_hand(fresh: Any, ir: str, name: str) -> None:
    build, macs = CASES[name]
    build()
    assert flops(fresh.main) == macs


MATMULS = {
    'matrices': ((None, 5, 8), (None, 8, 3), {}, 5 * 8 * 3),
    'heads': ((None, 4, 6, 8), (None, 4, 6, 8), {'trans_y': True}, 4 * 6 * 8 * 6),
    'transposed': ((None, 8, 5), (None, 3, 8), {'trans_x': True, 'trans_y': True}, 5 * 8 * 3),
    'broadcast': ((None, 4, 5, 8), (8, 3), {}, 4 * 5 * 8 * 3),
    'broadcast_left': ((5, 8), (None, 4, 8, 3), {}, 4 * 5 * 8 * 3),
    'matrix_vector': ((None, 5, 8), (8,), {}, 5 * 8),
}


@pytest.mark.parametrize('name', MATMULS)
def test_matmul_of_any_rank(fresh: Any, name: str) -> None:
    x, y, attrs, macs = MATMULS[name]
    appended_matmul(data(*x), data(*y, name='y'), **attrs)
    assert flops(fresh.main) == macs


def test_matrix_times_kept_vector_and_products_of_parameters(fresh: Any, ir: str) -> None:
    if legacy_only(ir):
        pytest.skip('Paddle 3.3 builds no matmul on the legacy IR')
    x = data(4, 8)
    w = paddle.create_parameter([8, 6], 'float32')
    v = paddle.create_parameter([6, 5], 'float32')
    paddle.matmul(x, paddle.matmul(w, v))
    assert flops(fresh.main) == 8 * 6 * 5 + 8 * 5


@pytest.mark.parametrize(
    ('equation', 'shapes', 'macs'),
    [
        ('bij,bjk->bik', [(None, 6, 8), (None, 8, 5)], 6 * 8 * 5),
        ('...ij,jk->...ik', [(None, 3, 6, 8), (8, 5)], 3 * 6 * 8 * 5),
        ('bqhd,bkhd->bhqk', [(None, 6, 2, 4), (None, 5, 2, 4)], 2 * 6 * 5 * 4),
        ('bij,bk->bk', [(None, 3, 4), (None, 7)], 7),
    ],
)
def test_einsum(fresh: Any, equation: str, shapes: list[tuple[int | None, ...]], macs: int) -> None:
    operands = [data(*shape, name=f'x{index}') for index, shape in enumerate(shapes)]
    if not paddle.framework.in_pir_mode() and equation == 'bij,bk->bk':
        pytest.skip('one IR is enough')
    paddle.einsum(equation, *operands)
    assert flops(fresh.main) == macs


def test_attention_counts_projections_and_both_products(fresh: Any, ir: str) -> None:
    if legacy_only(ir):
        pytest.skip('Paddle 3.3 builds no attention on the legacy IR')
    nn.MultiHeadAttention(16, 4)(data(None, 6, 16))
    assert flops(fresh.main) == 4 * 6 * 16 * 16 + 2 * 6 * 6 * 16
    q = [data(None, 6, 2, 8, name=name) for name in 'qkv']
    F.scaled_dot_product_attention(*q)
    assert flops(fresh.main) == 4 * 6 * 16 * 16 + 2 * 6 * 6 * 16 + 2 * 2 * 6 * 6 * 8


def test_mobilenet_of_the_tutorial() -> None:
    _, train, val, _, _ = slim.models.image_classification('MobileNet', [1, 28, 28], 10)
    assert flops(train) == flops(val) == 10_896_832
    assert isinstance(flops(train), int)
    total, table = flops(train, detail=True)
    assert total == sum(table.values()) == 10_896_832
    assert table['conv1_weights'] == 14 * 14 * 32 * 9
    assert table['fc7_weights'] == 10_240
    assert flops(slim.GraphWrapper(train)) == total
    assert flops(val, input_shapes={'image': [None, 1, 28, 28]}) == total
    assert flops(val, input_shapes={'image': [None, 1, 56, 56]}) > 3 * total
    assert flops(val, only_conv=False) > total


def test_training_program_counts_forward_operators(fresh: Any, ir: str) -> None:
    y = nn.Linear(12, 3)(paddle.flatten(nn.Conv2D(1, 3, 3)(data(None, 1, 4, 4)), 1))
    loss = paddle.mean(F.cross_entropy(y, data(None, 1, name='label', dtype='int64')))
    before = flops(fresh.main), flops(fresh.main, only_conv=False)
    paddle.optimizer.Adam(0.1).minimize(loss)
    assert (flops(fresh.main), flops(fresh.main, only_conv=False)) == before
    assert before[0] == 4 * 3 * 9 + 12 * 3


def test_everything_else_by_the_convention(fresh: Any) -> None:
    x = data(None, 4, 8, 8)
    y = nn.Conv2D(4, 4, 1, bias_attr=False)(x)
    y = F.relu(nn.BatchNorm2D(4)(y))
    y = F.max_pool2d(y, 2)
    y = F.interpolate(y, scale_factor=2, mode='nearest')
    y = F.adaptive_avg_pool2d(y, 1)
    paddle.reshape(y, [-1, 4])
    elements = 4 * 8 * 8
    assert flops(fresh.main) == elements * 4
    other = elements + elements + 4 * elements // 4 + elements + elements
    assert flops(fresh.main, only_conv=False) == elements * 4 + other


def test_rows_name_parameters_and_shapes(fresh: Any) -> None:
    conv = nn.Conv2D(3, 8, 3, weight_attr='w', bias_attr='b')
    y = nn.BatchNorm2D(8)(conv(conv_input := data(None, 3, 6, 6)))
    assert conv_input is not None and y is not None
    nn.Conv1D(4, 2, 3, weight_attr='w1', bias_attr=False)(data(None, 4, 5, name='z'))
    rows = {row.name: row for row in layer_costs(fresh.main)}
    assert rows['w'].macs == 16 * 8 * 27 and rows['w'].params == 216 + (8 if rows['w'].params > 216 else 0)
    assert rows['w'].output_shape == (1, 8, 4, 4) and rows['w'].type == 'conv2d'
    assert rows['w1'].macs == 3 * 2 * 12 and rows['w1'].params == 24
    assert sum(row.params for row in rows.values()) == 216 + 8 + 4 * 8 + 24


def test_shared_weights_add_up(fresh: Any) -> None:
    layer = nn.Linear(4, 4, weight_attr='w')
    layer(layer(data(None, 4)))
    assert flops(fresh.main, detail=True) == (32, {'w': 32})


def test_open_sizes_ask_for_input_shapes(fresh: Any) -> None:
    y = nn.Conv2D(3, 8, 3, padding=1)(data(None, 3, None, None))
    paddle.static.nn.fc(F.adaptive_avg_pool2d(F.max_pool2d(y, 2), 1), 5)
    with pytest.raises(GraphError, match=r"'x' \[-1, 3, -1, -1\].*input_shapes="):
        flops(fresh.main)
    assert flops(fresh.main, input_shapes={'x': [None, 3, 16, 20]}) == 16 * 20 * 8 * 27 + 8 * 5
    assert flops(fresh.main, input_shapes={'x': (4, 3, 8, 8)}) == 64 * 8 * 27 + 8 * 5
    program = fresh.main
    before = [var.shape() for var in slim.GraphWrapper(program).vars()]
    flops(program, only_conv=False, input_shapes={'x': [1, 3, 16, 16]})
    assert [var.shape() for var in slim.GraphWrapper(program).vars()] == before
    with pytest.raises(GraphError, match="'y'.*no data input"):
        flops(program, input_shapes={'y': [1, 3, 8, 8]})
    with pytest.raises(ConfigError, match='must give all sizes'):
        flops(program, input_shapes={'x': [1, 3, None, 8]})
    with pytest.raises(ConfigError, match='must give all sizes'):
        flops(program, input_shapes={'x': [1, 3, 8]})
    with pytest.raises(GraphError, match='cannot run'):
        flops(program, input_shapes={'x': [1, 4, 8, 8]})


def test_open_sequence_length(fresh: Any) -> None:
    nn.LSTM(8, 16)(data(None, None, 8))
    with pytest.raises(GraphError, match='input_shapes'):
        flops(fresh.main)
    assert flops(fresh.main, input_shapes={'x': [None, 9, 8]}) == 9 * 64 * 24


def test_time_major_input(fresh: Any) -> None:
    nn.SimpleRNN(8, 16, time_major=True)(data(6, None, 8))
    with pytest.raises(GraphError, match='input_shapes'):
        flops(fresh.main)
    assert flops(fresh.main, input_shapes={'x': [6, 1, 8]}) == 6 * 16 * 24


def test_shapes_beyond_the_rules_are_found_by_running(fresh: Any) -> None:
    x = data(None, 4, 6)
    windows = paddle.concat(paddle.unbind(paddle.reshape(x, [-1, 2, 2, 6]), 1), axis=0)
    nn.Linear(6, 5)(windows)
    assert flops(fresh.main) == 4 * 6 * 5


def test_hidden_products_are_errors(fresh: Any, ir: str) -> None:
    if legacy_only(ir):
        pytest.skip('Paddle 3.3 builds no loops on the legacy IR')
    nn.RNN(nn.SimpleRNNCell(4, 4))(data(None, 3, 4))
    with pytest.raises(UnsupportedOpError, match='matmul_v2') as caught:
        flops(fresh.main)
    assert caught.value.op == 'while'


def test_harmless_branches_cost_nothing(fresh: Any, ir: str, caplog: pytest.LogCaptureFixture) -> None:
    if legacy_only(ir):
        pytest.skip('Paddle 3.3 builds no branches on the legacy IR')
    x = data(None, 4)
    nn.Linear(4, 4)(x)
    paddle.static.nn.cond(paddle.mean(x) < 0, lambda: paddle.tanh(x), lambda: x * 2)
    assert flops(fresh.main) == 16
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        flops(fresh.main, only_conv=False)
    assert any('if' in r.getMessage() or 'conditional_block' in r.getMessage() for r in caplog.records)


def test_unknown_operators_are_named(fresh: Any, ir: str, caplog: pytest.LogCaptureFixture) -> None:
    if legacy_only(ir):
        pytest.skip('one program of each IR is enough')
    paddle.diff(data(None, 4))
    paddle.renorm(data(None, 4, name='y'), 1.0, 0, 1.0)
    with caplog.at_level(logging.WARNING, 'paddleslim_ng'):
        assert flops(fresh.main) == 0
    assert 'renorm' in caplog.text


def test_a_fixed_batch_that_does_not_divide(fresh: Any) -> None:
    x = data(4, 6)
    nn.Linear(6, 3)(paddle.mean(x, axis=0, keepdim=True))
    with pytest.raises(GraphError, match='fixed batch 4'):
        flops(fresh.main)


def test_model_size_and_numel(fresh: Any, tmp_path: Any) -> None:
    x = data(None, 3, 6, 6)
    y = nn.BatchNorm2D(8)(nn.Conv2D(3, 8, 3, weight_attr='w')(x))
    y = nn.Linear(128, 2)(paddle.flatten(y, 1))
    loss = paddle.mean(y)
    learnt = 216 + 8 + 16 + 258
    assert numel(fresh.main) == learnt
    assert numel(fresh.main, ['w']) == 216
    assert model_size(fresh.main) == learnt + 16
    paddle.optimizer.Momentum(0.1, 0.9).minimize(loss)
    assert model_size(fresh.main) == learnt + 16
    assert numel(fresh.main) == learnt
    fresh.exe.run(fresh.startup)
    slim.runtime.save_inference_model(fresh.main, tmp_path / 'net', [x], [y])
    loaded = slim.runtime.load_inference_model(tmp_path / 'net', scope=paddle.static.Scope()).program
    assert model_size(loaded) == learnt + 16
    assert numel(loaded) == learnt
    assert flops(loaded) == flops(fresh.main) == 16 * 216 + 256
    with pytest.raises(GraphError):
        numel(fresh.main, ['none'])


def test_recurrent_layers_have_their_weights_once(fresh: Any) -> None:
    nn.LSTM(8, 16)(data(None, 6, 8))
    assert model_size(fresh.main) == 64 * 24 + 2 * 64
