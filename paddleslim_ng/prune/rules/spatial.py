"""Pooling, interpolation, padding and pixel shuffles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Layout, Mark, Rule
from paddleslim_ng.prune.rules.common import (
    channel_axis,
    first_input,
    first_output,
    input_of,
    output_of,
    tie_rows,
    tie_runs,
    without_zero,
)
from paddleslim_ng.prune.rules.elementwise import broadcast

__all__ = ['RULES']


def per_channel(analysis: Analysis, op: OpWrapper) -> None:
    """Work on each channel by itself; spatial axes may not carry channels."""
    x = input_of(op, 'X')
    out = (op.outputs('Out') or op.outputs('Output'))[0]
    layout, rank = analysis.layout(x), len(x.shape())
    axis = channel_axis(op, rank)
    mixed = [a for a in layout if a not in (0, axis)]
    analysis.freeze_axes(op, x, mixed, 'a window runs over channels')
    if mixed:
        layout = {a: m for a, m in layout.items() if a not in mixed}
    for mask in op.outputs('Mask'):
        analysis.auxiliary(mask)
        analysis.set(mask, without_zero(layout))
    analysis.set(out, layout)


def grid_sample(analysis: Analysis, op: OpWrapper) -> None:
    """Samples each channel at the same places; the grid is not a channel axis."""
    grid = input_of(op, 'Grid')
    analysis.freeze_axes(op, grid, range(len(grid.shape())), 'coordinates are fixed')
    per_channel(analysis, op)


def pad(analysis: Analysis, op: OpWrapper) -> None:
    """Padding along channels adds fixed ones; elsewhere it leaves them alone."""
    x, out = input_of(op, 'X'), output_of(op)
    layout, rank = analysis.layout(x), len(x.shape())
    widths, value = _padding(op, rank)
    if widths is None or (value is None and any(axis in layout for axis in widths)):
        axes = layout if widths is None else widths
        analysis.freeze_axes(op, x, axes, 'channels are padded with copies, or by a computed width')
        widths = {axis: width for axis, width in (widths or {}).items() if axis not in axes}
    result = layout if value is None or not value or not widths else without_zero(layout)
    touched = {axis: widths[axis] for axis in widths if axis in layout}
    if touched:
        result = {**result, **{axis: _padded(analysis, op, out, axis, layout[axis], touched[axis]) for axis in touched}}
    analysis.set(out, result)


def _padded(analysis: Analysis, op: OpWrapper, out: VarWrapper, axis: int, mark: Mark, width: tuple[int, int]) -> Mark:
    before, after = (analysis.space.fresh(n) for n in width)
    for added in (before, after):
        analysis.freeze(added, op, 'is added by padding', out, axis)
    return Mark(np.concatenate([before, mark.labels, after]), mark.zero)


def _padding(op: OpWrapper, rank: int) -> tuple[dict[int, tuple[int, int]] | None, float | None]:
    """Return what is added at both ends of each padded axis, and the value, None where borders are copied.

    The first is None where the widths are computed.
    """
    paddings = op.attr('paddings')
    if paddings is None or op.inputs('Paddings') or op.inputs('PaddingsTensor'):
        return None, None
    pairs = [(int(a), int(b)) for a, b in zip(paddings[::2], paddings[1::2])]
    if op.type() == 'pad':
        value = op.attr('pad_value')
        return {a: pair for a, pair in enumerate(pairs) if any(pair)}, 1.0 if value is None else float(value)
    if op.type() == 'pad3d':
        pairs.reverse()  # the last axis comes first
    first = 1 if channel_axis(op, rank) != 1 else 2
    constant = str(op.attr('mode') or 'constant') == 'constant'
    value = float(op.attr('value') or op.attr('pad_value') or 0.0) if constant else None
    return {first + index: pair for index, pair in enumerate(pairs) if any(pair)}, value


def pixel_shuffle(analysis: Analysis, op: OpWrapper) -> None:
    """Each output channel is made of r*r input channels, which leave together."""
    x = input_of(op, 'X')
    layout = analysis.layout(x)
    axis = channel_axis(op, len(x.shape()))
    analysis.freeze_axes(op, x, [a for a in layout if a not in (0, axis)], 'channels lie along a spatial axis')
    mark = layout.get(axis)
    if mark is None:
        return
    blocks = tie_runs(analysis, mark.labels, int(op.attr('upscale_factor')) ** 2)
    analysis.set(output_of(op), {**_batch(layout), axis: Mark(blocks, mark.zero)})


def pixel_unshuffle(analysis: Analysis, op: OpWrapper) -> None:
    """Each input channel becomes r*r output channels."""
    x = input_of(op, 'X')
    layout = analysis.layout(x)
    axis = channel_axis(op, len(x.shape()))
    analysis.freeze_axes(op, x, [a for a in layout if a not in (0, axis)], 'channels lie along a spatial axis')
    mark = layout.get(axis)
    if mark is not None:
        square = int(op.attr('downscale_factor')) ** 2
        analysis.set(output_of(op), {**_batch(layout), axis: Mark(np.repeat(mark.labels, square), mark.zero)})


def _batch(layout: Layout) -> Layout:
    return {0: layout[0]} if 0 in layout else {}


def maxout(analysis: Analysis, op: OpWrapper) -> None:
    """Each output channel is the largest of ``groups`` neighbours, which leave together."""
    x, out = input_of(op, 'X'), output_of(op)
    layout = dict(analysis.layout(x))
    axis = int(op.attr('axis') if op.attr('axis') is not None else 1) % len(x.shape())
    mark = layout.get(axis)
    if mark is not None:
        layout[axis] = Mark(tie_runs(analysis, mark.labels, int(op.attr('groups'))), mark.zero)
    analysis.set(out, layout)


def unfold(analysis: Analysis, op: OpWrapper) -> None:
    """Windows become channels: every channel is repeated once for each position of the window."""
    x, out = first_input(op), first_output(op)
    layout = analysis.layout(x)
    analysis.freeze_axes(op, x, [a for a in layout if a > 1], 'a window runs over channels')
    mark = layout.get(1)
    if mark is not None:
        window = int(np.prod(op.attr('kernel_sizes')))
        analysis.set(out, {**_batch(layout), 1: Mark(np.repeat(mark.labels, window), mark.zero)})


def fold(analysis: Analysis, op: OpWrapper) -> None:
    """Channels become windows again: those of one window leave together."""
    x, out = first_input(op), first_output(op)
    layout = analysis.layout(x)
    analysis.freeze_axes(op, x, [a for a in layout if a > 1], 'positions are folded')
    mark = layout.get(1)
    if mark is not None:
        blocks = tie_runs(analysis, mark.labels, int(np.prod(op.attr('kernel_sizes'))))
        analysis.set(out, {**_batch(layout), 1: Mark(blocks, mark.zero)})


def unpool(analysis: Analysis, op: OpWrapper) -> None:
    """Values return to where their maximum was found, channel by channel."""
    x, indices = input_of(op, 'X'), input_of(op, 'Indices')
    layout = broadcast(analysis, op, [x, indices], 'first')
    analysis.freeze_axes(op, x, [a for a in layout if a > 1], 'positions are moved')
    analysis.set(output_of(op), layout)


def channel_shuffle(analysis: Analysis, op: OpWrapper) -> None:
    """Channels are dealt round the groups; the same index leaves from every group."""
    x = input_of(op, 'X')
    layout = analysis.layout(x)
    axis = channel_axis(op, len(x.shape()))
    mark = layout.get(axis)
    if mark is None:
        analysis.set(output_of(op), layout)
        return
    groups = int(op.attr('groups') if op.attr('groups') is not None else op.attr('group'))
    tie_rows(analysis, mark.labels, groups)
    shuffled = np.ascontiguousarray(mark.labels.reshape(groups, -1).T).reshape(-1)
    analysis.set(output_of(op), {**layout, axis: Mark(shuffled, mark.zero)})


_WINDOWS = ('pool2d', 'pool3d', 'lp_pool2d', 'max_pool2d_with_index', 'max_pool3d_with_index')
_INTERPOLATIONS = tuple(
    f'{kind}_interp{v}' for kind in ('nearest', 'bilinear', 'bicubic', 'linear', 'trilinear') for v in ('', '_v2')
)

RULES: Mapping[str, Rule] = {
    **dict.fromkeys((*_WINDOWS, *_INTERPOLATIONS), per_channel),
    'grid_sampler': grid_sample,
    'pad': pad,
    'pad2d': pad,
    'pad3d': pad,
    **dict.fromkeys(('unpool', 'unpool3d'), unpool),
    'maxout': maxout,
    'unfold': unfold,
    'fold': fold,
    'pixel_shuffle': pixel_shuffle,
    'pixel_unshuffle': pixel_unshuffle,
    'channel_shuffle': channel_shuffle,
    'shuffle_channel': channel_shuffle,
}
