"""Operators that pick positions along an axis: slices, strides, gathers, rolls, crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Mark, Rule
from paddleslim_ng.prune.rules.common import (
    first_input,
    first_output,
    input_of,
    output_of,
    ranges,
    set_entries,
    set_with_gradient,
    singles,
)
from paddleslim_ng.prune.rules.constants import constant_of
from paddleslim_ng.prune.rules.elementwise import broadcast
from paddleslim_ng.prune.rules.sizes import slice_sizes

__all__ = ['RULES']


def slice_(analysis: Analysis, op: OpWrapper) -> None:
    """Ranges of labels, with or without a step, among the channels that stay."""
    x, out = input_of(op, 'Input'), output_of(op)
    if slice_sizes(analysis, op):
        return
    layout, rank = analysis.layout(x), len(x.shape())
    axes = [int(a) % rank for a in op.attr('axes')]
    starts, ends = op.attr('starts'), op.attr('ends')
    strides = op.attr('strides') if op.type() == 'strided_slice' else [1] * len(axes)
    result = {a: m for a, m in layout.items() if a not in axes}
    for index, axis in enumerate(axes):
        mark = layout.get(axis)
        if mark is None:
            continue
        if starts is None or ends is None or strides is None:
            analysis.freeze(mark.labels, op, 'is sliced between computed bounds', x, axis)
            continue
        size = out.shape()[axis] if not op.attr('decrease_axis') else -1
        picks = _picks((int(starts[index]), int(ends[index]), int(strides[index])), len(mark.labels), size)
        if picks is None:
            analysis.freeze(mark.labels, op, 'is sliced between unknown bounds', x, axis)
            continue
        taken = _take(analysis, op, index, mark.labels, picks)
        if len(taken) == 1:
            analysis.freeze(taken, op, 'a single channel is taken out', x, axis)
        else:
            result[axis] = Mark(taken, mark.zero)
    dropped = sorted(int(a) % rank for a in op.attr('decrease_axis') or ())
    analysis.set(out, {a - sum(d < a for d in dropped): m for a, m in result.items() if a not in dropped})


def _picks(bounds: tuple[int, int, int], size: int, result: int) -> range | None:
    """Return the positions between Paddle's bounds, or None where they do not fit the ``result`` size (-1: open).

    Going backward, an end of -1 is the last position to some versions, and in front of the first one to others.
    """
    start, end, step = bounds
    ends: list[int | None] = [end]
    if step < 0:
        ends = [end if end >= 0 else end + size if end + size >= 0 else None, None]
    for candidate in ends:
        picks = range(size)[start:candidate:step]
        if len(picks) == result or (result < 0 and len(picks)):
            return picks
    return None


def _take(analysis: Analysis, op: OpWrapper, index: int, labels: LabelArray, picks: range) -> LabelArray:
    """Return the labels of ``picks``, and see to it that the slice takes those of them that stay."""
    if len(picks) == len(labels) and picks.step == 1:
        return labels
    if picks.step == 1:
        parts = [np.ascontiguousarray(labels[a:b]) for a, b in ranges([0, picks.start, picks.stop, len(labels)])]
        analysis.on_cut(op, parts, lambda cut: _renumber(analysis, op, index, parts, cut))
        return parts[1]
    taken = np.ascontiguousarray(labels[np.asarray(picks)])
    analysis.on_cut(op, singles(labels), lambda cut: _pick_first(analysis, op, index, labels, picks, cut))
    return taken


def _renumber(analysis: Analysis, op: OpWrapper, index: int, parts: Sequence[LabelArray], cut: Cut) -> None:
    start = cut.count(parts[0])
    for name, bound in (('starts', start), ('ends', start + cut.count(parts[1]))):
        _set_bound(analysis, op, name, index, bound)


def _pick_first(analysis: Analysis, op: OpWrapper, index: int, labels: LabelArray, picks: range, cut: Cut) -> None:
    """What stays of a slice with a step is no such slice any more: pick it by index, then take all of it."""
    keep = cut.keep(labels)
    place = np.cumsum(keep) - 1
    axis = int(op.attr('axes')[index]) % len(input_of(op, 'Input').shape())
    positions = [int(place[pick]) for pick in picks if keep[pick]]
    analysis.graph.editor.pick_before(op, 'Input', axis, cut.count(labels), positions, analysis.gradients(op))
    for name, bound in (('starts', 0), ('ends', len(positions)), ('strides', 1)):
        _set_bound(analysis, op, name, index, bound)


def _set_bound(analysis: Analysis, op: OpWrapper, name: str, index: int, bound: int) -> None:
    values = [int(v) for v in op.attr(name)]
    values[index] = bound
    set_with_gradient(analysis, op, name, values)


def gather(analysis: Analysis, op: OpWrapper) -> None:
    """Picks by index along one axis; along channels the index must be constant, and is renumbered."""
    x, index = input_of(op, 'X'), input_of(op, 'Index')
    rank = len(x.shape())
    axis = op.attr('dim') if op.type() == 'index_select' else op.attr('axis')
    if op.inputs('Axis'):
        value = constant_of(op.inputs('Axis')[0])
        axis = None if value is None else value.reshape(-1)[0]
        if axis is None:
            analysis.freeze_inputs(op, 'the axis is computed')
            return
    _pick(analysis, op, x, index, int(axis or 0) % rank, max(len(index.shape()), 1))


def gather_nd(analysis: Analysis, op: OpWrapper) -> None:
    """Picks by index along the leading axes; an index of width one picks along the first only."""
    x, index = input_of(op, 'X'), input_of(op, 'Index')
    width = index.shape()[-1]
    if width != 1:
        analysis.freeze_axes(op, x, range(max(width, 0) or len(x.shape())), 'positions are picked by index')
        if width > 1:
            _pass_behind(analysis, x, first_output(op), width, len(index.shape()) - 1)
        return
    _pick(analysis, op, x, index, 0, len(index.shape()) - 1)


def _pick(analysis: Analysis, op: OpWrapper, x: VarWrapper, index: VarWrapper, axis: int, index_rank: int) -> None:
    layout, out = analysis.layout(x), first_output(op)
    analysis.freeze_axes(op, index, range(len(index.shape())), 'indices are fixed')
    shift = index_rank - 1
    result = {a + (shift if a > axis else 0): m for a, m in layout.items() if a != axis}
    mark = layout.get(axis)
    if mark is not None:
        value = constant_of(index)
        if value is None or index_rank != 1:
            analysis.freeze(mark.labels, op, 'channels are picked by index that is not a constant vector', x, axis)
        else:
            picks = value.reshape(-1).astype(np.int64) % len(mark.labels)
            taken = mark.labels[picks]
            result[axis] = Mark(taken, mark.zero)
            if len(np.unique(taken)) == 1:
                analysis.freeze(taken, op, 'a single channel is picked', x, axis)
            analysis.on_cut(op, singles(mark.labels), lambda cut: _reindex(analysis, op, mark.labels, picks, cut))
    analysis.set(out, result)


def _reindex(analysis: Analysis, op: OpWrapper, labels: LabelArray, picks: npt.NDArray[np.int64], cut: Cut) -> None:
    keep = cut.keep(labels)
    place = np.cumsum(keep) - 1
    new = place[picks[keep[picks]]]
    old = input_of(op, 'Index')
    shape = [len(new) if size == len(picks) else size for size in old.shape()]
    analysis.graph.editor.feed_constant(op, 'Index', new.reshape(shape), analysis.gradients(op))


def _pass_behind(analysis: Analysis, x: VarWrapper, out: VarWrapper, width: int, index_rank: int) -> None:
    layout = analysis.layout(x)
    analysis.set(out, {a - width + index_rank: m for a, m in layout.items() if a >= width})


def take_along(analysis: Analysis, op: OpWrapper) -> None:
    """Indices pick positions of their own at every place: nothing it reads can leave."""
    analysis.freeze_inputs(op, 'positions are picked by index')


def scatter(analysis: Analysis, op: OpWrapper) -> None:
    """Rows are overwritten by index; the other axes meet."""
    x, updates = input_of(op, 'X'), input_of(op, 'Updates')
    for var in (x, updates):
        analysis.freeze_axes(op, var, [0], 'rows are written by index')
    layout = broadcast(analysis, op, [x, updates], 'all')
    analysis.set(first_output(op), layout)


def flip(analysis: Analysis, op: OpWrapper) -> None:
    """Labels are reversed along the flipped axes."""
    x, rank = first_input(op), len(first_input(op).shape())
    axes = {int(a) % rank for a in op.attr('axis')}
    layout = analysis.layout(x)
    reversed_ = {a: Mark(np.ascontiguousarray(m.labels[::-1]), m.zero) if a in axes else m for a, m in layout.items()}
    analysis.set(first_output(op), reversed_)


def roll(analysis: Analysis, op: OpWrapper) -> None:
    """Labels are rolled; the shift along channels becomes the number of those that stay behind the seam."""
    x, rank = first_input(op), len(first_input(op).shape())
    axes, shifts = op.attr('axis'), op.attr('shifts')
    layout = analysis.layout(x)
    if not axes or shifts is None or any(list(axes).count(a) > 1 for a in axes):
        analysis.freeze_axes(op, x, layout, 'is rolled as a whole, or by a computed shift')
        return
    result = dict(layout)
    for index, axis in enumerate(int(a) % rank for a in axes):
        mark = layout.get(axis)
        if mark is not None:
            seam = len(mark.labels) - int(shifts[index]) % len(mark.labels)
            parts = [np.ascontiguousarray(mark.labels[a:b]) for a, b in ranges([0, seam, len(mark.labels)])]
            result[axis] = Mark(np.concatenate(parts[::-1]), mark.zero)
            analysis.on_cut(op, parts, partial(_set_shift, analysis, op, index, parts[1]))
    analysis.set(first_output(op), result)


def _set_shift(analysis: Analysis, op: OpWrapper, index: int, behind: LabelArray, cut: Cut) -> None:
    _set_bound(analysis, op, 'shifts', index, cut.count(behind))


def crop(analysis: Analysis, op: OpWrapper) -> None:
    """A window of a tensor; labelled axes must be taken whole."""
    x, out = input_of(op, 'X'), output_of(op)
    layout, shape = analysis.layout(x), op.attr('shape')
    whole = [a for a in layout if shape is not None and out.shape()[a] == x.shape()[a]]
    analysis.freeze_axes(op, x, [a for a in layout if a not in whole], 'channels are cropped')
    analysis.set(out, {a: layout[a] for a in whole})
    arrays = {a: layout[a].labels for a in whole if int(shape[a]) > 0}
    if arrays:
        analysis.on_cut(op, arrays.values(), lambda cut: set_entries(analysis, op, 'shape', arrays, cut))


RULES: Mapping[str, Rule] = {
    'slice': slice_,
    'strided_slice': slice_,
    'gather': gather,
    'index_select': gather,
    'gather_nd': gather_nd,
    **dict.fromkeys(('take_along_axis', 'put_along_axis', 'index_sample'), take_along),
    'scatter': scatter,
    'flip': flip,
    'roll': roll,
    'crop_tensor': crop,
}
