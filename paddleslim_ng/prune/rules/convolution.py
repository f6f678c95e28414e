"""Convolutions: plain, depthwise, grouped, transposed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Layout, Mark, Rule
from paddleslim_ng.prune.rules.common import (
    channel_axis,
    follow_vector,
    follow_weight,
    fresh_frozen,
    input_of,
    output_of,
    set_with_gradient,
    tie_rows,
    weight_channels,
)

__all__ = ['RULES']


def convolution(analysis: Analysis, op: OpWrapper) -> None:
    """Filter axis 1 follows the input's channels; filter axis 0 makes the output's."""
    x, weight, y = input_of(op, 'Input'), input_of(op, 'Filter'), output_of(op, 'Output')
    groups = int(op.attr('groups') or 1)
    axis = _channels_only(analysis, op, x)
    if groups > 1 and weight.shape()[1] == 1:
        analysis.set(y, {**_batch(analysis, x), axis: _depthwise(analysis, op, x, axis, weight, groups)})
        return
    mark = analysis.mark(x, axis)
    labels = mark.labels if mark is not None else None
    if labels is not None and groups > 1:
        labels = tie_rows(analysis, labels, groups)
    follow_weight(analysis, op, weight, 1, x, axis, labels)
    out = weight_channels(analysis, weight, 0)
    if out is not None and groups > 1:
        tie_rows(analysis, out.labels, groups)
    analysis.set(y, {**_batch(analysis, x), **({axis: out} if out is not None else {})})


def transposed(analysis: Analysis, op: OpWrapper) -> None:
    """Filter axis 0 follows the input's channels; filter axis 1 makes the output's, the same in every group."""
    x, weight, y = input_of(op, 'Input'), input_of(op, 'Filter'), output_of(op, 'Output')
    groups = int(op.attr('groups') or 1)
    axis = _channels_only(analysis, op, x)
    if groups > 1 and weight.shape()[0] == groups:
        made = _depthwise(analysis, op, x, axis, weight, groups, weight.shape()[1])
        analysis.set(y, {**_batch(analysis, x), axis: made})
        return
    mark = analysis.mark(x, axis)
    if mark is not None and groups > 1:
        tie_rows(analysis, mark.labels, groups)
    follow_weight(analysis, op, weight, 0, x, axis, mark.labels if mark is not None else None)
    out = weight_channels(analysis, weight, 1)
    if out is not None and groups > 1:
        out = Mark(np.tile(out.labels, groups), out.zero)
    analysis.set(y, {**_batch(analysis, x), **({axis: out} if out is not None else {})})


def _channels_only(analysis: Analysis, op: OpWrapper, x: VarWrapper) -> int:
    """Freeze labels on axes that a convolution mixes, and return the channel axis."""
    rank = len(x.shape())
    axis = channel_axis(op, rank)
    analysis.freeze_axes(op, x, [a for a in range(1, rank) if a != axis], 'channels lie along a spatial axis')
    return axis


def _batch(analysis: Analysis, x: VarWrapper) -> Layout:
    """Return the labels of the batch axis, where it has any: samples are independent of each other."""
    mark = analysis.mark(x, 0)
    return {0: mark} if mark is not None else {}


def _depthwise(
    analysis: Analysis, op: OpWrapper, x: VarWrapper, axis: int, weight: VarWrapper, groups: int, repeat: int = 1
) -> Mark:
    """Each input channel has filters of its own along filter axis 0; return the output's channels.

    Args:
        analysis: labels so far.
        op: the convolution.
        x: its input.
        axis: channel axis of the input.
        weight: the filter.
        groups: number of input channels.
        repeat: outputs that each position of filter axis 0 makes (transposed convolution with a multiplier).
    """
    mark = analysis.mark(x, axis)
    labels = (
        mark.labels if mark else fresh_frozen(analysis, op, x, axis, 'a depthwise filter reads an input of fixed size')
    )
    multiplier = weight.shape()[0] // groups
    out = np.repeat(labels, multiplier) if multiplier > 1 else labels
    zero = True
    if weight.is_parameter():
        analysis.adopt(weight, 0, out)
        analysis.out_axes.setdefault(weight, 0)
    else:
        own = weight_channels(analysis, weight, 0)
        zero = bool(mark and mark.zero) or bool(own and own.zero)
        follow_vector(analysis, op, weight, out)
    analysis.on_cut(op, [labels], lambda cut: set_with_gradient(analysis, op, 'groups', cut.count(labels)))
    return Mark(np.repeat(out, repeat) if repeat > 1 else out, zero)


RULES: Mapping[str, Rule] = {
    'conv2d': convolution,
    'conv3d': convolution,
    'depthwise_conv2d': convolution,
    'conv2d_transpose': transposed,
    'conv3d_transpose': transposed,
    'depthwise_conv2d_transpose': transposed,
}
