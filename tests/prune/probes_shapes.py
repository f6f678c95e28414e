"""Probes of operators that move, join, part, pick and pool."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F

from tests.prune.probe_net import CHANNELS, HEIGHT, WIDTH, Probe, append, conv, either

SPATIAL_AXES = [2, 3]


def _reduce(name: str, axes: list[int], keep: bool = True, **attrs: Any) -> Any:
    function = getattr(paddle, name)
    call = either(lambda y: function(y, axis=axes, keepdim=keep), f'reduce_{name}', dim=axes, keep_dim=keep, **attrs)
    return lambda h: h * call(h) if keep else call(h)


def _logsumexp(axes: list[int]) -> Any:
    call = either(lambda y: paddle.logsumexp(y, axes, keepdim=True), 'logsumexp', axis=axes, keepdim=True)
    return lambda h: h * call(h)


def _roll(shifts: list[int], axes: list[int]) -> Any:
    return either(lambda h: paddle.roll(h, shifts, axes), 'roll', shifts=shifts, axis=axes)


def _expand_as(h: Any) -> Any:
    call = either(paddle.expand_as, 'expand_as_v2', target_shape=[-1, CHANNELS, HEIGHT, WIDTH])
    return call(F.adaptive_avg_pool2d(h, 1), h) + h


def _grid_sample(h: Any) -> Any:
    theta = paddle.tile(paddle.full([1, 2, 3], 0.2), [4, 1, 1])
    grid = F.affine_grid(theta, [4, CHANNELS, HEIGHT, WIDTH])
    if paddle.framework.in_pir_mode():
        return F.grid_sample(h, grid)
    attrs = {'mode': 'bilinear', 'padding_mode': 'zeros', 'align_corners': True}
    return append('grid_sampler', {'X': h, 'Grid': grid}, attrs, 'Output')


def _interpolate(mode: str, scale: Any = None, **options: Any) -> Any:
    if scale is None and 'size' not in options:
        scale = 2
    return lambda h: F.interpolate(h, scale_factor=scale, mode=mode, **options)


def _as_sequence(h: Any) -> Any:
    return paddle.flatten(h, 2)


def _as_volume(h: Any) -> Any:
    return paddle.reshape(h, [-1, CHANNELS, 2, 3, WIDTH])


def _back(h: Any, channels: int = CHANNELS) -> Any:
    return paddle.reshape(h, [-1, channels, h.shape[2] // 10, 10])


POOLS = [
    Probe('max_pool', lambda h: F.max_pool2d(h, 2)),
    Probe('avg_pool', lambda h: F.avg_pool2d(h, 3, 1, 1)),
    Probe('max_pool_mask', lambda h: F.max_pool2d(h, 2, return_mask=True)[0]),
    Probe('max_unpool', lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_mask=True), 2)),
    Probe('lp_pool', lambda h: F.lp_pool2d(h * h, 2, 2)),
    Probe('adaptive_avg_pool', lambda h: F.adaptive_avg_pool2d(h, [3, 5])),
    Probe('adaptive_max_pool', lambda h: F.adaptive_max_pool2d(h, [3, 5])),
    Probe('global_pool', lambda h: F.adaptive_avg_pool2d(h, 1)),
    Probe('avg_pool_1d', lambda h: _back(F.avg_pool1d(_as_sequence(h), 2))),
    Probe('max_pool_1d', lambda h: _back(F.max_pool1d(_as_sequence(h), 2))),
    Probe('adaptive_pool_1d', lambda h: _back(F.adaptive_avg_pool1d(_as_sequence(h), 30))),
    Probe('avg_pool_3d', lambda h: F.avg_pool3d(_as_volume(h), [1, 3, 2])),
    Probe('max_pool_3d', lambda h: F.max_pool3d(_as_volume(h), [2, 3, 2])),
    Probe('adaptive_pool_3d', lambda h: F.adaptive_avg_pool3d(_as_volume(h), 1)),
    Probe('mean_spatial', lambda h: paddle.mean(h, SPATIAL_AXES)),
    Probe('mean_spatial_kept', _reduce('mean', SPATIAL_AXES)),
    Probe('sum_spatial', _reduce('sum', SPATIAL_AXES)),
    Probe('max_spatial', _reduce('max', SPATIAL_AXES)),
    Probe('min_spatial', _reduce('min', SPATIAL_AXES)),
    Probe('amax_spatial', _reduce('amax', SPATIAL_AXES)),
    Probe('prod_spatial', _reduce('prod', [3])),
    Probe('logsumexp_spatial', _logsumexp(SPATIAL_AXES)),
    Probe('std_spatial', lambda h: h * paddle.std(h, SPATIAL_AXES, keepdim=True), trains='not smooth at zero'),
    Probe('var_spatial', lambda h: h * paddle.var(h, SPATIAL_AXES, keepdim=True)),
    Probe('norm_spatial', lambda h: h * paddle.norm(h, axis=3, keepdim=True), trains='not smooth at zero'),
    Probe('mean_channels', _reduce('mean', [1])),
    Probe('sum_channels', _reduce('sum', [1])),
    Probe('mean_channels_of_sigmoid', lambda h: _reduce('mean', [1])(either(F.sigmoid, 'sigmoid')(h)), 'not zero once'),
    Probe('sum_channels_of_sigmoid', lambda h: _reduce('sum', [1])(either(F.sigmoid, 'sigmoid')(h)), 'not zero once'),
    Probe('max_channels', _reduce('max', [1]), 'could decide'),
    Probe('prod_channels', _reduce('prod', [1]), 'could decide'),
    Probe('logsumexp_channels', _logsumexp([1]), 'logsumexp'),
    Probe('norm_channels', lambda h: h * paddle.norm(h, axis=1, keepdim=True)),
    Probe('normalize_channels', lambda h: F.normalize(h, axis=1)),
    Probe('normalize_width', lambda h: F.normalize(h, axis=3)),
    Probe('cosine_similarity', lambda h: h * F.cosine_similarity(h, conv(h, CHANNELS), axis=1).unsqueeze(1)),
    Probe('frobenius', lambda h: h * paddle.norm(h, p='fro', axis=[2, 3], keepdim=True)),
    Probe('var_channels', lambda h: h * paddle.var(h, 1, keepdim=True), 'not zero once'),
    Probe('cumsum_channels', lambda h: paddle.cumsum(h, 1)),
    Probe('cumsum_width', lambda h: paddle.cumsum(h, 3)),
    Probe('cumprod_channels', lambda h: paddle.cumprod(h, 1), 'cumprod'),
    Probe('cumprod_width', lambda h: paddle.cumprod(h, 3), trains='divides by its input'),
    Probe('softmax_channels', lambda h: F.softmax(h, axis=1), 'softmax'),
    Probe('softmax_width', lambda h: F.softmax(h, axis=3)),
    Probe('log_softmax_width', lambda h: F.log_softmax(h, axis=3)),
    Probe(
        'argmax_channels',
        lambda h: (
            h
            * paddle.cast(
                either(lambda y: paddle.argmax(y, 1, keepdim=True), 'arg_max', axis=1, keepdims=True)(h), 'float32'
            )
        ),
        'arg_max',
    ),
    Probe('topk_channels', lambda h: paddle.topk(h, 3, axis=1)[0], 'top_k_v2'),
    Probe('topk_width', lambda h: paddle.topk(h, 3, axis=3)[0]),
    Probe('sort_width', lambda h: paddle.sort(h, axis=3)),
    Probe('kthvalue_width', lambda h: h * paddle.kthvalue(h, 2, 3)[0].unsqueeze(3)),
]
RESIZING = [
    Probe('nearest', _interpolate('nearest')),
    Probe('bilinear', _interpolate('bilinear')),
    Probe('bilinear_size', _interpolate('bilinear', size=[9, 7], align_corners=True)),
    Probe('bicubic', _interpolate('bicubic')),
    Probe('area', _interpolate('area', size=[3, 5])),
    Probe(
        'linear_interpolation',
        lambda h: _back(F.interpolate(_as_sequence(h), scale_factor=2, mode='linear', data_format='NCW')),
    ),
    Probe('trilinear', lambda h: F.interpolate(_as_volume(h), scale_factor=2, mode='trilinear', data_format='NCDHW')),
    Probe('nearest_3d', lambda h: F.interpolate(_as_volume(h), scale_factor=2, mode='nearest', data_format='NCDHW')),
    Probe('pad', lambda h: F.pad(h, [1, 2, 0, 1])),
    Probe('pad_reflect', lambda h: F.pad(h, [1, 2, 0, 1], mode='reflect')),
    Probe('pad_value', lambda h: F.pad(h, [1, 2, 0, 1], value=1.0)),
    Probe('pad_batchless', lambda h: F.pad(h, [0, 0, 0, 0, 1, 1, 2, 2])),
    Probe('pad_channels', lambda h: F.pad(h, [0, 0, 1, 3, 0, 0, 0, 0])),
    Probe('grid_sample', _grid_sample),
    Probe('pixel_shuffle', lambda h: F.pixel_shuffle(h, 2)),
    Probe('pixel_shuffle_small_ratio', lambda h: F.pixel_shuffle(h, 2), 'groups', ratio=0.3),
    Probe('pixel_unshuffle', lambda h: F.pixel_unshuffle(h, 2)),
    Probe('channel_shuffle', lambda h: F.channel_shuffle(h, 2)),
    Probe('channel_shuffle_4', lambda h: F.channel_shuffle(h, 4)),
    Probe('unfold', lambda h: F.unfold(h, 3, paddings=1).reshape([-1, CHANNELS * 9, HEIGHT, WIDTH])),
    Probe('fold', lambda h: F.fold(paddle.reshape(h, [4, CHANNELS, HEIGHT * WIDTH]), [12, 20], 2, 2)),
    Probe('temporal_shift', lambda h: F.temporal_shift(h, 2, 0.25), 'temporal_shift'),
    Probe('maxout', lambda h: F.maxout(h, 2)),
    Probe('maxout_4', lambda h: F.maxout(h, 4)),
]


def _shuffle(groups: int) -> Any:
    def op(h: Any) -> Any:
        y = paddle.reshape(h, [0, groups, CHANNELS // groups, HEIGHT, WIDTH])
        return paddle.reshape(paddle.transpose(y, [0, 2, 1, 3, 4]), [0, CHANNELS, HEIGHT, WIDTH])

    return op


def _computed_shape(h: Any) -> Any:
    batch = paddle.shape(h)[0]
    return paddle.transpose(paddle.reshape(h, [batch, CHANNELS, HEIGHT * WIDTH]), [0, 2, 1])


def _computed_channels(h: Any) -> Any:
    sizes = paddle.shape(h)
    flat = paddle.reshape(h, [sizes[0], sizes[1], HEIGHT * WIDTH])
    return paddle.reshape(flat, [-1, CHANNELS, HEIGHT, WIDTH])


def _noise(h: Any) -> Any:
    sizes = paddle.shape(h)
    return h * paddle.full([sizes[0], sizes[1], 1, 1], 1.5)


SHAPES = [
    Probe('flatten_linear', lambda h: paddle.flatten(h, 1)),
    Probe('flatten_spatial', lambda h: paddle.transpose(_as_sequence(h), [0, 2, 1])),
    Probe('reshape_minus_one', lambda h: paddle.reshape(h, [-1, CHANNELS * HEIGHT * WIDTH])),
    Probe('reshape_explicit', lambda h: paddle.reshape(h, [-1, CHANNELS, HEIGHT * WIDTH]).transpose([0, 2, 1])),
    Probe('reshape_split', lambda h: paddle.reshape(h, [-1, 2, 4 * HEIGHT, WIDTH]), kept=None),
    Probe('reshape_channels_rows', lambda h: paddle.reshape(paddle.reshape(h, [0, 4, 2, 60]), [0, 8, 6, 10])),
    Probe('reshape_merge_split', lambda h: paddle.reshape(paddle.reshape(h, [0, 8 * 6, 10]), [0, 8, 6, 10])),
    Probe('reshape_computed', _computed_shape),
    Probe('reshape_computed_channels', _computed_channels),
    Probe('full_of_computed_shape', _noise),
    Probe(
        'channels_as_number', lambda h: h * paddle.cast(paddle.shape(h)[1], 'float32'), 'reads the number of channels'
    ),
    Probe(
        'view_batch_merge',
        lambda h: paddle.reshape(conv(paddle.reshape(h, [-1, 1, 6, 10]), 1), [-1, 8, 6, 10]),
        'dynamic',
    ),
    Probe('shuffle_2', _shuffle(2)),
    Probe('shuffle_4', _shuffle(4)),
    Probe('squeeze', lambda h: paddle.squeeze(F.adaptive_avg_pool2d(h, 1), [2, 3])),
    Probe('unsqueeze', lambda h: paddle.squeeze(paddle.unsqueeze(h, 2), 2)),
    Probe('unsqueeze_3d', lambda h: paddle.unsqueeze(h, 2)),
    Probe('transpose', lambda h: paddle.transpose(paddle.transpose(h, [0, 2, 3, 1]), [0, 3, 2, 1])),
    Probe('expand', lambda h: paddle.expand(F.adaptive_avg_pool2d(h, 1), [-1, CHANNELS, HEIGHT, WIDTH]) + h),
    Probe('expand_as', _expand_as),
    Probe('expand_channels', lambda h: h + paddle.expand(conv(h, 1), [-1, CHANNELS, HEIGHT, WIDTH])),
    Probe(
        'broadcast_to', lambda h: h * paddle.broadcast_to(paddle.mean(h, [2, 3], True), [4, CHANNELS, HEIGHT, WIDTH])
    ),
    Probe('tile_spatial', lambda h: paddle.tile(h, [1, 1, 2, 1])),
    Probe('tile_channels', lambda h: paddle.tile(h, [1, 2, 1, 1])),
    Probe('repeat_interleave', lambda h: paddle.repeat_interleave(h, 2, 1)),
    Probe('repeat_interleave_width', lambda h: paddle.repeat_interleave(h, 2, 3)),
    Probe('roll_channels', _roll([3], [1])),
    Probe('roll_width', _roll([1, -2], [2, 3])),
    Probe('roll_both', _roll([2, -3], [2, 1])),
    Probe('flip_channels', lambda h: paddle.flip(h, [1])),
    Probe('flip_width', lambda h: paddle.flip(h, [3])),
    Probe('rot90', lambda h: paddle.rot90(h, 1, [2, 3])),
    Probe('tril_spatial', either(paddle.tril, 'tril_triu', lower=True, diagonal=0)),
]


def _split_halves(h: Any) -> Any:
    a, b = paddle.split(h, 2, 1)
    return paddle.concat([conv(a, 4), b], 1)


def _product_of(parts: Any) -> Any:
    def op(h: Any) -> Any:
        a, b = parts(h)
        return a * b

    return op


def _dense(h: Any) -> Any:
    y = paddle.concat([h, conv(h, 4)], 1)
    return paddle.concat([y, conv(y, 4)], 1)


def _gather(index: list[int], axis: int = 1) -> Any:
    return lambda h: paddle.gather(h, paddle.to_tensor(index), axis=axis)


def _index_select(index: list[int], axis: int = 1) -> Any:
    return lambda h: paddle.index_select(h, paddle.to_tensor(index), axis=axis)


def _fed_index(h: Any) -> Any:
    return paddle.gather(h, paddle.static.data('picked', [3], 'int64'), axis=1)


def _sum(x: Any, axis: int) -> Any:
    return either(lambda y: paddle.sum(y, axis=axis), 'reduce_sum', dim=[axis], keep_dim=False)(x)


JOINTS = [
    Probe('concat', lambda h: paddle.concat([h, conv(h, 4)], 1)),
    Probe('concat_self', lambda h: paddle.concat([h, h * 2.0], 1)),
    Probe('concat_spatial', lambda h: paddle.concat([h, conv(h, CHANNELS)], 2)),
    Probe('concat_fixed', lambda h: paddle.concat([h, paddle.static.data('y', [-1, 2, HEIGHT, WIDTH])], 1)),
    Probe('dense', _dense),
    Probe('stack', lambda h: _sum(paddle.stack([h, conv(h, CHANNELS)], 1), 1)),
    Probe('stack_volume', lambda h: paddle.stack([h, conv(h, CHANNELS)], 2)),
    Probe('split', _split_halves, kept=None),
    Probe('split_sections', lambda h: conv(paddle.split(h, [3, 5], 1)[1], 4)),
    Probe('split_product', _product_of(lambda h: paddle.split(h, 2, 1))),
    Probe('split_spatial', _product_of(lambda h: paddle.split(h, 2, 3))),
    Probe('split_unread_part', lambda h: paddle.split(h, 2, 1)[0], kept=5),
    Probe('chunk', lambda h: paddle.add_n(paddle.chunk(h, 4, 1))),
    Probe('unbind_spatial', _product_of(lambda h: paddle.unbind(_as_volume(h), 2))),
    Probe('unstack_spatial', _product_of(lambda h: paddle.unstack(_as_volume(h), 2))),
    Probe('unbind_channels', lambda h: paddle.unbind(h, 1)[1].unsqueeze(1), 'single'),
    Probe('slice', lambda h: h[:, 2:7]),
    Probe('slice_one', lambda h: h[:, 2:3] + h),
    Probe('slice_index', lambda h: h[:, 2].unsqueeze(1) + h),
    Probe('slice_negative', lambda h: h[:, :-3]),
    Probe('slice_spatial', lambda h: h[:, :, 1:5, ::2]),
    Probe('slice_parts', lambda h: paddle.concat([h[:, 4:], h[:, :4]], 1)),
    Probe('strided', lambda h: h[:, ::2]),
    Probe('strided_offset', lambda h: h[:, 1::3]),
    Probe('strided_both', lambda h: h[:, ::2, 1::2, ::-1]),
    Probe('strided_parts', lambda h: h[:, ::2] * h[:, 1::2]),
    Probe('strided_backward', lambda h: h[:, ::-1]),
    Probe('strided_backward_2', lambda h: h[:, 6:0:-2]),
    Probe('gather', _gather([0, 2, 5, 5, 7])),
    Probe('gather_width', _gather([0, 2, 5], 3)),
    Probe('index_select', _index_select([6, 1, 3])),
    Probe('index_select_width', _index_select([1, 3], 2)),
    Probe('index_list', lambda h: h[:, [0, 3, 5]]),
    Probe('gather_fed', _fed_index, 'picked by index'),
    Probe('gather_shared_index', lambda h: _shared_index(h)),
    Probe('crop', lambda h: paddle.crop(h, [4, CHANNELS, 4, 4], [0, 0, 1, 1]), kept=None),
    Probe('scatter_rows', lambda h: paddle.scatter(h, paddle.to_tensor([0, 1]), h[:2]), kept=None),
    Probe('masked_fill', lambda h: paddle.masked_fill(h, h > 0.5, 0.3)),
    Probe('meshed', lambda h: paddle.moveaxis(h, 1, 2).moveaxis(2, 1)),
    Probe('output', lambda h: (h, _name_output(h)), 'output of the program'),
]


def _shared_index(h: Any) -> Any:
    index = paddle.to_tensor([0, 2, 5])
    return paddle.gather(h, index, axis=1) + paddle.gather(conv(h, CHANNELS), index, axis=1)


def _name_output(h: Any) -> Any:
    paddle.scale(h, 3.0)
    return h


PROBES = [*POOLS, *RESIZING, *SHAPES, *JOINTS]
