"""Probes of layers with parameters: convolutions, norms, matrix products, attention, recurrent layers."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from tests.prune.probe_net import CHANNELS, HEIGHT, WIDTH, Probe, append, attr, conv, either

_softmax = F.softmax


def _matmul(x: Any, y: Any, trans_x: bool = False, trans_y: bool = False) -> Any:
    call = either(lambda a, b: paddle.matmul(a, b, trans_x, trans_y), 'matmul_v2', trans_x=trans_x, trans_y=trans_y)
    return call(x, y)


def _sequence(h: Any) -> Any:
    """[N, C, H, W] -> [N, H*W, C]."""
    return paddle.transpose(paddle.flatten(h, 2), [0, 2, 1])


def _transposed(**options: Any) -> Any:
    return lambda h: nn.Conv2DTranspose(CHANNELS, 12, 3, padding=1, **options)(h)


def _depthwise(multiplier: int = 1) -> Any:
    return lambda h: nn.Conv2D(CHANNELS, CHANNELS * multiplier, 3, padding=1, groups=CHANNELS)(h)


def _depthwise_transposed(h: Any) -> Any:
    return nn.Conv2DTranspose(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)(h)


def _nhwc(h: Any) -> Any:
    y = paddle.transpose(h, [0, 2, 3, 1])
    y = conv(y, 12, data_format='NHWC')
    y = nn.BatchNorm2D(12, data_format='NHWC')(y)
    y = F.avg_pool2d(y, 2, data_format='NHWC')
    return paddle.transpose(y, [0, 3, 1, 2])


def _nhwc_depthwise(h: Any) -> Any:
    y = paddle.transpose(h, [0, 2, 3, 1])
    y = nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, data_format='NHWC')(y)
    return paddle.transpose(y, [0, 3, 1, 2])


def _shared(h: Any) -> Any:
    layer = nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1)
    return layer(layer(h))


def _shared_input(h: Any) -> Any:
    layer = nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1)
    return layer(h) + layer(h * 2.0)


def _shared_by_name(h: Any) -> Any:
    return conv(conv(h, CHANNELS, name='shared'), CHANNELS, name='shared')


def _shared_fixed(h: Any) -> Any:
    layer = nn.Conv2D(CHANNELS, 4, 3, padding=1)
    other = paddle.static.data('other', [-1, CHANNELS, HEIGHT, WIDTH], 'float32')
    return layer(other) + layer(h)


def _weight_norm(h: Any) -> Any:
    """A filter of given lengths and directions."""
    direction = paddle.create_parameter([12, CHANNELS, 3, 3], 'float32', attr=attr('w2'))
    length = paddle.create_parameter([12, 1, 1, 1], 'float32')
    total = either(lambda v: paddle.sum(v, [1, 2, 3], keepdim=True), 'reduce_sum', dim=[1, 2, 3], keep_dim=True)
    norm = either(paddle.sqrt, 'sqrt')(total(direction * direction) + 1e-4)
    return F.conv2d(h, direction / norm * length, padding=1)


def _computed_filter(h: Any) -> Any:
    weight = paddle.create_parameter([12, CHANNELS, 3, 3], 'float32', attr=attr('w2'))
    return F.conv2d(h, weight * 0.5, padding=1)


CONVOLUTIONS = [
    Probe('conv', lambda h: conv(h, 12)),
    Probe('conv_no_bias', lambda h: conv(h, 12, bias_attr=False)),
    Probe('conv_stride', lambda h: nn.Conv2D(CHANNELS, 12, 3, stride=2, dilation=2, padding=2)(h)),
    Probe('conv_coupled', lambda h: h + conv(h, CHANNELS, name='w2'), params=('w1', 'w2')),
    Probe('depthwise', _depthwise()),
    Probe('depthwise_multiplier', _depthwise(2)),
    Probe('depthwise_multiplier_3', _depthwise(3)),
    Probe('grouped', lambda h: conv(h, 12, groups=2)),
    Probe('grouped_4', lambda h: conv(h, 12, groups=4)),
    Probe('grouped_output', lambda h: conv(conv(h, CHANNELS, groups=2, name='w2'), 4), params=('w2',)),
    Probe('transposed', _transposed()),
    Probe('transposed_stride', _transposed(stride=2)),
    Probe('transposed_grouped', _transposed(groups=2)),
    Probe(
        'transposed_grouped_output', lambda h: _transposed(groups=2, weight_attr=attr('w2'))(h), kept=3, params=('w2',)
    ),
    Probe('transposed_depthwise', _depthwise_transposed),
    Probe('transposed_multiplier', lambda h: nn.Conv2DTranspose(CHANNELS, 16, 3, padding=1, groups=CHANNELS)(h)),
    Probe('conv1d', lambda h: nn.Conv1D(CHANNELS, 6, 3, padding=1)(paddle.flatten(h, 2)).reshape([-1, 6, 6, 10])),
    Probe('conv3d', lambda h: nn.Conv3D(CHANNELS, 6, 3, padding=1)(paddle.reshape(h, [-1, CHANNELS, 2, 3, WIDTH]))),
    Probe('conv3d_transposed', lambda h: nn.Conv3DTranspose(CHANNELS, 6, 3)(paddle.reshape(h, [-1, 8, 2, 3, 10]))),
    Probe('nhwc', _nhwc),
    Probe('nhwc_depthwise', _nhwc_depthwise),
    Probe('shared_filter', _shared),
    Probe('shared_input', _shared_input),
    Probe('shared_by_name', _shared_by_name),
    Probe('shared_with_fixed', _shared_fixed, 'whose size is fixed'),
    Probe('weight_norm', _weight_norm),
    Probe('weight_norm_output', _weight_norm, kept=6, params=('w2',)),
    Probe('computed_filter', _computed_filter, kept=6, params=('w2',)),
    Probe('channels_as_height', lambda h: conv(paddle.transpose(h, [0, 2, 1, 3]), 4), 'spatial axis'),
]


def _rms(h: Any) -> Any:
    y = _sequence(h)
    mean = paddle.mean(y * y, axis=-1, keepdim=True)
    return y * either(paddle.rsqrt, 'rsqrt')(mean + 1e-5) * paddle.create_parameter([CHANNELS], 'float32')


def _fused_rms(h: Any) -> Any:
    y = _sequence(h)
    weight = paddle.create_parameter([CHANNELS], 'float32')
    return paddle._C_ops.rms_norm(y, weight, [CHANNELS], 1e-3)[0]


def _l2_normalize(axis: int) -> Any:
    def op(h: Any) -> Any:
        total = either(lambda y: paddle.sum(y, axis=axis, keepdim=True), 'reduce_sum', dim=[axis], keep_dim=True)(h * h)
        return h / either(paddle.sqrt, 'sqrt')(total + 1e-5)

    return op


NORMS = [
    Probe('batch_norm', lambda h: nn.BatchNorm2D(CHANNELS)(h)),
    Probe('batch_norm_global', lambda h: nn.BatchNorm2D(CHANNELS, use_global_stats=True)(h)),
    Probe('batch_norm_relu', lambda h: F.relu(nn.BatchNorm2D(CHANNELS)(h))),
    Probe('batch_norm_1d', lambda h: nn.BatchNorm1D(CHANNELS)(paddle.flatten(h, 2)).reshape([-1, CHANNELS, 6, 10])),
    Probe('batch_norm_3d', lambda h: nn.BatchNorm3D(CHANNELS)(paddle.reshape(h, [-1, CHANNELS, 2, 3, WIDTH]))),
    Probe('sync_batch_norm', lambda h: nn.SyncBatchNorm(CHANNELS)(h)),
    Probe('instance_norm', lambda h: nn.InstanceNorm2D(CHANNELS)(h)),
    Probe('group_norm', lambda h: nn.GroupNorm(4, CHANNELS)(h)),
    Probe('group_norm_one', lambda h: nn.GroupNorm(1, CHANNELS)(h), 'group_norm'),
    Probe('group_norm_relu', lambda h: F.relu(nn.GroupNorm(2, CHANNELS)(h))),
    Probe('layer_norm_all', lambda h: nn.LayerNorm([CHANNELS, HEIGHT, WIDTH])(h), 'layer_norm'),
    Probe('layer_norm_channels', lambda h: nn.LayerNorm(CHANNELS)(_sequence(h)), 'layer_norm'),
    Probe('layer_norm_width', lambda h: nn.LayerNorm(WIDTH)(h)),
    Probe('rms_norm', _rms),
    Probe('fused_rms_norm', _fused_rms, trains='no gradient rule for this operator'),
    Probe('l2_normalize_channels', _l2_normalize(1)),
    Probe('l2_normalize_width', _l2_normalize(3)),
    Probe('local_response_norm', lambda h: F.local_response_norm(h, 3), 'window'),
]


def _bmm(h: Any) -> Any:
    a = paddle.flatten(conv(h, CHANNELS), 2)
    b = paddle.flatten(h, 2)
    return either(paddle.bmm, 'bmm')(paddle.transpose(a, [0, 2, 1]), b).reshape([-1, 1, 60, 60])


def _fluid_mul(h: Any) -> Any:
    if paddle.framework.in_pir_mode():
        return nn.Linear(CHANNELS * HEIGHT * WIDTH, 7)(paddle.flatten(h, 1))
    weight = paddle.create_parameter([CHANNELS * HEIGHT * WIDTH, 7], 'float32')
    return append('mul', {'X': h, 'Y': weight}, {'x_num_col_dims': 1, 'y_num_col_dims': 1})


def _old_matmul(h: Any) -> Any:
    weight = paddle.create_parameter([7, CHANNELS], 'float32')
    if paddle.framework.in_pir_mode():
        return _matmul(_sequence(h), weight, trans_y=True)
    return append('matmul', {'X': _sequence(h), 'Y': weight}, {'transpose_X': False, 'transpose_Y': True, 'alpha': 1.0})


def _linear_free(h: Any) -> Any:
    return nn.Linear(12, 7)(nn.Linear(CHANNELS, 12, weight_attr=attr('w2'))(_sequence(h)))


def _gram(h: Any) -> Any:
    flat = paddle.flatten(h, 2)
    return _matmul(flat, flat, trans_y=True).unsqueeze(1)


def _non_local(activation: Any = None) -> Any:
    def op(h: Any) -> Any:
        q, k = conv(h, CHANNELS), conv(h, CHANNELS, name='w2')
        if activation:
            q, k = activation(q), activation(k)
        scores = _matmul(_sequence(q), paddle.flatten(k, 2))
        values = _matmul(_softmax(scores), _sequence(h))
        return paddle.reshape(paddle.transpose(values, [0, 2, 1]), [-1, CHANNELS, HEIGHT, WIDTH])

    return op


def _sigmoid(x: Any) -> Any:
    return either(F.sigmoid, 'sigmoid')(x)


def _attention(fused: bool, heads: int = 4) -> Any:
    """Multi-head self-attention over 16 features, pruned at the weights of queries (or of all three)."""

    def op(h: Any) -> Any:
        y = nn.Linear(CHANNELS, 16)(_sequence(h))
        if fused:
            qkv = nn.Linear(16, 48, weight_attr=attr('w2'))(y)
            qkv = paddle.transpose(paddle.reshape(qkv, [0, 60, 3, heads, 16 // heads]), [2, 0, 3, 1, 4])
            q, k, v = qkv[0], qkv[1], qkv[2]
        else:
            parts = [nn.Linear(16, 16, weight_attr=attr(name))(y) for name in ('w2', 'w3', 'w4')]
            q, k, v = (
                paddle.transpose(paddle.reshape(part, [0, 60, heads, 16 // heads]), [0, 2, 1, 3]) for part in parts
            )
        scores = _softmax(_matmul(q * 0.5, k, trans_y=True))
        out = paddle.reshape(paddle.transpose(_matmul(scores, v), [0, 2, 1, 3]), [0, 60, 16])
        return nn.Linear(16, 7)(out)

    return op


def _multi_head_layer(h: Any) -> Any:
    y = nn.Linear(CHANNELS, 16)(_sequence(h))
    layer = nn.MultiHeadAttention(16, 4)
    layer.q_proj = nn.Linear(16, 16, weight_attr=attr('w2'))
    return layer(y, y, y)


def _embedding(h: Any) -> Any:
    ids = paddle.cast(paddle.mean(h, axis=1) > 0.0, 'int64')
    table = nn.Embedding(2, 12, weight_attr=attr('w2'))
    return paddle.transpose(table(ids), [0, 3, 1, 2])


def _embedding_of_channels(h: Any) -> Any:
    ids = paddle.cast(h > 0.0, 'int64')
    return paddle.mean(nn.Embedding(2, 12)(ids), axis=2)


def _einsum(equation: str, *shape: int) -> Any:
    def op(h: Any) -> Any:
        operands = [h] + ([paddle.create_parameter(list(shape), 'float32')] if shape else [])
        return paddle.einsum(equation, *operands)

    return op


def _einsum_gram(h: Any) -> Any:
    return paddle.einsum('nchw,nckl->nhwkl', h, conv(h, CHANNELS)).reshape([-1, 1, 60, 60])


def _recurrent(kind: str, **options: Any) -> Any:
    def op(h: Any) -> Any:
        layer = getattr(nn, kind)(CHANNELS, 6, **options)
        return layer(_sequence(h))[0]

    return op


PRODUCTS = [
    Probe('linear', lambda h: nn.Linear(CHANNELS, 7)(_sequence(h))),
    Probe('linear_chain', _linear_free, kept=6, params=('w2',)),
    Probe(
        'matmul_weight_left', lambda h: _matmul(paddle.create_parameter([7, CHANNELS], 'float32'), paddle.flatten(h, 2))
    ),
    Probe('matmul_transposed_weight', _old_matmul),
    Probe('mul_flattening', _fluid_mul),
    Probe('bmm', _bmm),
    Probe('gram', _gram, 'spatial axis'),
    Probe('non_local', _non_local()),
    Probe('non_local_sigmoid', _non_local(_sigmoid), 'not zero once removed', params=('w2',)),
    Probe(
        'addmm',
        lambda h: paddle.addmm(
            paddle.full([1, 7], 0.1), paddle.mean(h, [2, 3]), paddle.create_parameter([CHANNELS, 7], 'float32')
        ),
    ),
    Probe('attention', _attention(False), kept=None, params=('w2',)),
    Probe('attention_values', _attention(False), kept=None, params=('w4',)),
    Probe('attention_fused', _attention(True), kept=None, params=('w2',)),
    Probe('multi_head_layer', _multi_head_layer, kept=None, trains='random', params=('w2',)),
    Probe('embedding', _embedding, kept=6, trains=False, params=('w2',)),
    Probe('embedding_of_channels', _embedding_of_channels, trains=False),
    Probe('einsum_weight', _einsum('nchw,oc->nohw', 12, CHANNELS)),
    Probe('einsum_sum', _einsum('nchw->nhw')),
    Probe('einsum_permute', lambda h: paddle.transpose(paddle.einsum('nchw->nhwc', h), [0, 3, 1, 2])),
    Probe('einsum_gram', _einsum_gram),
    Probe('einsum_ellipsis', _einsum('nc...,co->no...', CHANNELS, 12)),
    Probe('lstm', _recurrent('LSTM')),
    Probe('gru', _recurrent('GRU')),
    Probe('simple_rnn', _recurrent('SimpleRNN')),
    Probe('lstm_bidirectional', _recurrent('LSTM', direction='bidirect', num_layers=2)),
]
PROBES = [*CONVOLUTIONS, *NORMS, *PRODUCTS]
