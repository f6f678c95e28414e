"""Probes of operators that work position by position, and of broadcasting."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F

from tests.prune.probe_net import CHANNELS, HEIGHT, WIDTH, Probe, append, attr, conv, either

FLAT = 'its gradient is zero or jumps: two steps tell nothing'
NOT_FINITE = 'is not finite'


def _positive(h: Any) -> Any:
    return h * h + 0.5


def _small(h: Any) -> Any:
    return either(paddle.tanh, 'tanh')(h) * 0.8


def _unary(name: str, kind: str | None = None, before: Any = None, after: Any = None, **options: Any) -> Probe:
    function = getattr(F, name, None) or getattr(paddle, name)
    apply = either(function, kind or name)

    def op(h: Any) -> Any:
        y = apply(before(h) if before else h)
        return after(y) if after else y

    return Probe(f'unary_{name}', op, **options)


def _as_float(h: Any) -> Any:
    return paddle.cast(h, 'float32')


ZERO_AT_ZERO = [
    *map(_unary, ['celu', 'elu', 'erf', 'expm1', 'gelu', 'hardshrink', 'hardswish', 'hardtanh', 'leaky_relu']),
    *map(_unary, ['mish', 'relu', 'relu6']),
    *map(_unary, ['selu', 'sin', 'sinh', 'square', 'softshrink', 'softsign', 'stanh', 'swish', 'tanh', 'tanhshrink']),
    *map(_unary, ['thresholded_relu', 'abs', 'asinh', 'atan', 'silu', 'neg']),
    _unary('log1p', before=_positive, expect='exact'),
    _unary('sqrt', before=_positive),
    *(_unary(name, before=_small) for name in ('asin', 'atanh', 'erfinv', 'tan')),
    *(_unary(name, trains=FLAT) for name in ('ceil', 'floor', 'round', 'sign', 'trunc', 'frac')),
    *(_unary(name) for name in ('deg2rad', 'rad2deg', 'i1', 'i1e')),
    _unary('nan_to_num'),
    _unary('angle', trains=FLAT),
    _unary('rrelu', trains='random'),
    _unary('sgn', trains=FLAT),
]
OTHER_UNARY = [
    *map(_unary, ['cos', 'cosh', 'exp', 'hardsigmoid', 'log_sigmoid', 'sigmoid', 'softplus', 'i0', 'i0e']),
    _unary('acos', before=_small),
    _unary('acosh', before=lambda h: h * h + 1.5),
    *(_unary(name, before=_positive) for name in ('log', 'log2', 'log10', 'reciprocal', 'rsqrt', 'digamma', 'lgamma')),
    _unary('logit', before=lambda h: _small(h) * 0.5 + 0.5),
    Probe('unary_isnan', lambda h: h + _as_float(either(paddle.isnan, 'isnan_v2')(h)), trains=FLAT),
    Probe('unary_isinf', lambda h: h + _as_float(either(paddle.isinf, 'isinf_v2')(h)), trains=FLAT),
    Probe('unary_isfinite', lambda h: h * _as_float(either(paddle.isfinite, 'isfinite_v2')(h)), trains=FLAT),
    Probe('logical_not', lambda h: h * _as_float(either(paddle.logical_not, 'logical_not')(h > 0.0)), trains=FLAT),
    Probe('bitwise_not', lambda h: h * _as_float(paddle.bitwise_not(h > 0.0)), trains=FLAT),
]
SINGULAR = [
    Probe('reciprocal_of_square', lambda h: either(paddle.reciprocal, 'reciprocal')(h * h), NOT_FINITE),
    Probe('log_of_square', lambda h: either(paddle.log, 'log')(h * h), NOT_FINITE),
    Probe('rsqrt_of_square', lambda h: either(paddle.rsqrt, 'rsqrt')(h * h), NOT_FINITE),
    Probe('negative_power', lambda h: (h * h) ** -1.0, NOT_FINITE),
    Probe('acosh_of_square', lambda h: either(paddle.acosh, 'acosh')(h * h), NOT_FINITE),
]


def _parameter(shape: list[int], name: str = 'extra') -> Any:
    return paddle.create_parameter(shape, 'float32', attr=attr(name))


def _prelu(weight_shape: list[int], mode: str) -> Any:
    def op(h: Any) -> Any:
        alpha = _parameter(weight_shape)
        if paddle.framework.in_pir_mode():
            return paddle._C_ops.prelu(h, alpha, 'NCHW', mode)
        return append('prelu', {'X': h, 'Alpha': alpha}, {'mode': mode, 'data_format': 'NCHW'})

    return op


def _two(h: Any) -> tuple[Any, Any]:
    return conv(h, 4), conv(h, 4)


def _squeeze_excite(h: Any) -> Any:
    pooled = F.adaptive_avg_pool2d(h, 1)
    gate = either(F.sigmoid, 'sigmoid')(conv(F.relu(conv(pooled, 4, 1)), CHANNELS, 1))
    return h * gate


def _broadcast_axis(h: Any) -> Any:
    if paddle.framework.in_pir_mode():
        return h + paddle.reshape(_parameter([CHANNELS]), [1, CHANNELS, 1, 1])
    return append('elementwise_add', {'X': h, 'Y': _parameter([CHANNELS])}, {'axis': 1})


def _maximum(x: Any, y: Any) -> Any:
    return either(paddle.maximum, 'elementwise_max')(x, y)


MAPS = [
    Probe('scale', lambda h: paddle.scale(h, 2.0)),
    Probe('scale_with_bias', lambda h: paddle.scale(h, 2.0, 0.5)),
    Probe('scale_before_bias', lambda h: paddle.scale(h, 2.0, 0.5, bias_after_scale=False)),
    Probe('add_constant', lambda h: h + 1.0),
    Probe('power', lambda h: h**2.0),
    Probe('power_zero', lambda h: (h * h + 1.0) ** 0.0 + h),
    Probe('cast', lambda h: paddle.cast(paddle.cast(h, 'float64'), 'float32')),
    Probe('clip', lambda h: paddle.clip(h, -0.5, 0.5)),
    Probe('clip_off_zero', lambda h: paddle.clip(h, 0.1, 0.5)),
    Probe('dropout', lambda h: F.dropout(h, 0.5, training=False)),
    Probe('dropout_in_training', lambda h: F.dropout(h, 0.5), trains='random'),
    Probe('dropout_downscale', lambda h: F.dropout(h, 0.3, mode='downscale_in_infer'), trains='random'),
    Probe('dropout2d', lambda h: F.dropout2d(h, 0.5, training=False)),
    Probe('alpha_dropout', lambda h: F.alpha_dropout(h, 0.5, training=False)),
    Probe('prelu_all', _prelu([1], 'all')),
    Probe('prelu_channel', _prelu([CHANNELS], 'channel')),
    Probe('prelu_element', _prelu([1, CHANNELS, HEIGHT, WIDTH], 'element')),
    Probe('assign', lambda h: paddle.assign(h)),
    Probe('zeros_like', lambda h: h + paddle.zeros_like(h)),
    Probe('ones_like', lambda h: h + paddle.ones_like(h)),
    Probe('full_like', lambda h: h * paddle.full_like(h, 1.5)),
]
PAIRS = [
    Probe('add_branch', lambda h: h + conv(h, CHANNELS)),
    Probe('subtract_branch', lambda h: h - conv(h, CHANNELS)),
    Probe('multiply_branch', lambda h: h * conv(h, CHANNELS)),
    Probe('divide_by_positive', lambda h: h / (h * h + 1.0)),
    Probe('divide_by_branch', lambda h: h / conv(h, CHANNELS), 'divisor'),
    Probe('maximum_branch', lambda h: _maximum(h, conv(h, CHANNELS))),
    Probe('minimum_branch', lambda h: either(paddle.minimum, 'elementwise_min')(h, conv(h, CHANNELS))),
    Probe('fmax_branch', lambda h: paddle.fmax(h, conv(h, CHANNELS))),
    Probe('fmin_branch', lambda h: paddle.fmin(h, conv(h, CHANNELS))),
    Probe('power_of_tensor', lambda h: (h * h + 0.5) ** (h * 0.1 + 1.0)),
    Probe('remainder', lambda h: either(paddle.remainder, 'elementwise_mod')(h, _positive(h)), trains=FLAT),
    Probe('floor_divide', lambda h: paddle.cast(h, 'float32') // _positive(h), trains=FLAT),
    Probe('atan2', lambda h: paddle.atan2(h, _positive(h))),
    Probe('add_scalar_parameter', lambda h: h + _parameter([1])),
    Probe('add_per_channel', lambda h: h + _parameter([1, CHANNELS, 1, 1])),
    Probe('multiply_per_channel', lambda h: h * _parameter([CHANNELS, 1, 1])),
    Probe('add_per_position', lambda h: h + _parameter([1, 1, HEIGHT, WIDTH])),
    Probe('add_per_column', lambda h: h + _parameter([WIDTH])),
    Probe('add_per_element', lambda h: h + _parameter([CHANNELS, HEIGHT, WIDTH])),
    Probe('legacy_axis', _broadcast_axis),
    Probe('add_n', lambda h: paddle.add_n([h, conv(h, CHANNELS), h])),
    Probe('broadcast_one_channel', lambda h: h * conv(h, 1)),
    Probe('compare', lambda h: h * _as_float(h > conv(h, CHANNELS)), trains=FLAT),
    Probe('compare_equal', lambda h: h + _as_float(h == conv(h, CHANNELS)), trains=FLAT),
    Probe(
        'logical_and', lambda h: h * _as_float(either(paddle.logical_and, 'logical_and')(h > 0.0, h < 1.0)), trains=FLAT
    ),
    Probe('where', lambda h: paddle.where(h > 0.0, h, h * 0.1)),
    Probe('where_scalar', lambda h: paddle.where(h > 0.0, h, paddle.full([1], 0.3))),
    Probe('lerp', lambda h: paddle.lerp(h, conv(h, CHANNELS), 0.3)),
    Probe('add_constant_map', lambda h: h + paddle.full([1, CHANNELS, HEIGHT, WIDTH], 0.3)),
    Probe('squeeze_excite', _squeeze_excite),
    Probe('two_outputs', lambda h: (h, h * 2.0)),
    Probe('two_heads', _two),
    Probe('glu', lambda h: F.glu(h, axis=1)),
]
PROBES = [*ZERO_AT_ZERO, *OTHER_UNARY, *SINGULAR, *MAPS, *PAIRS]
