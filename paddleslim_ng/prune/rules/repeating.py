"""Operators that repeat values: expand, tile, repeat_interleave."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddleslim_ng.core import OpWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Mark, Rule, Size
from paddleslim_ng.prune.rules.common import (
    first_input,
    first_output,
    input_of,
    output_of,
    set_entries,
    set_with_gradient,
)
from paddleslim_ng.prune.rules.sizes import computed_shape, fit_shape

__all__ = ['RULES']


def expand(analysis: Analysis, op: OpWrapper) -> None:
    """Labelled axes pass; an axis grown from size one is elastic, since all its positions are equal."""
    x, out = input_of(op, 'X'), output_of(op)
    layout, shape, sizes = analysis.layout(x), op.attr('shape'), computed_shape(analysis, op)
    if sizes is None and shape is not None:
        sizes = [Size(int(n)) for n in shape]
    if sizes is None or len(sizes) != len(out.shape()):
        analysis.freeze_inputs(op, 'the new shape is computed')
        return
    offset = len(out.shape()) - len(x.shape())
    result = {axis + offset: mark for axis, mark in layout.items()}
    for axis, size in enumerate(sizes):
        if axis >= offset and x.shape()[axis - offset] != 1:
            continue
        if size.labels is not None:
            result[axis] = Mark(size.labels, False)
        elif size.value is not None and size.value > 1:
            result[axis] = Mark(analysis.space.fresh(size.value), False)
    analysis.set(out, result)
    if op.inputs('X') == op.all_inputs():
        arrays = {axis: mark.labels for axis, mark in result.items() if int(shape[axis]) > 0}
        if arrays:
            analysis.on_cut(op, arrays.values(), lambda cut: set_entries(analysis, op, 'shape', arrays, cut))
    else:
        fit_shape(analysis, op, sizes, result, out)


def expand_as(analysis: Analysis, op: OpWrapper) -> None:
    """Labelled axes meet those of the tensor that gives the shape."""
    x, out = input_of(op, 'X'), output_of(op)
    like = op.inputs('Y')
    if not like:
        analysis.freeze_inputs(op, 'the new shape is computed')
        return
    ours, theirs = analysis.layout(x), analysis.layout(like[0])
    offset = len(out.shape()) - len(x.shape())
    result: dict[int, Mark] = {axis + offset: mark for axis, mark in ours.items()}
    for axis, mark in theirs.items():
        if axis in result:
            analysis.unite(result[axis].labels, mark.labels)
        elif axis < offset or x.shape()[axis - offset] == 1:
            result[axis] = Mark(mark.labels, False)
        else:
            analysis.freeze(mark.labels, op, 'meets an axis of fixed size', like[0], axis)
    for axis, mark in result.items():
        if axis not in theirs:
            analysis.freeze(mark.labels, op, 'meets an axis of fixed size', out, axis)
    analysis.set(out, result)
    if op.attr('target_shape'):
        arrays = {a: m.labels for a, m in result.items() if int(op.attr('target_shape')[a]) > 0}
        if arrays:
            analysis.on_cut(
                op,
                arrays.values(),
                lambda cut: op.set_attr(
                    'target_shape',
                    [cut.count(arrays[a]) if a in arrays else int(n) for a, n in enumerate(op.attr('target_shape'))],
                ),
            )


def tile(analysis: Analysis, op: OpWrapper) -> None:
    """Labels are repeated with the values."""
    x, out = input_of(op, 'X'), output_of(op)
    layout, times = analysis.layout(x), op.attr('repeat_times')
    if times is None:
        analysis.freeze_axes(op, x, layout, 'the repetition is computed')
        return
    rank_in, rank = len(x.shape()), len(out.shape())
    times = [1] * (rank - len(times)) + [int(t) for t in times]
    result: dict[int, Mark] = {}
    for axis, mark in layout.items():
        place = axis + rank - rank_in
        result[place] = Mark(np.tile(mark.labels, times[place]), mark.zero) if times[place] > 1 else mark
    for axis in range(rank):
        grown = axis - (rank - rank_in) < 0 or x.shape()[axis - (rank - rank_in)] == 1
        if grown and axis not in result and out.shape()[axis] > 1:
            result[axis] = Mark(analysis.space.fresh(out.shape()[axis]), False)
    analysis.set(out, result)
    grown_arrays = {a: m.labels for a, m in result.items() if a - (rank - rank_in) not in layout}
    if grown_arrays:
        analysis.on_cut(op, grown_arrays.values(), lambda cut: _set_tile(analysis, op, rank, grown_arrays, cut))


def _set_tile(analysis: Analysis, op: OpWrapper, rank: int, arrays: Mapping[int, LabelArray], cut: Cut) -> None:
    times = [int(t) for t in op.attr('repeat_times')]
    times = [1] * (rank - len(times)) + times
    for axis, labels in arrays.items():
        times[axis] = cut.count(labels)
    set_with_gradient(analysis, op, 'repeat_times', times)


def repeat_interleave(analysis: Analysis, op: OpWrapper) -> None:
    """Every position is repeated in place."""
    x, out = first_input(op), first_output(op)
    repeats, axis = op.attr('Repeats'), op.attr('dim')
    layout = dict(analysis.layout(x))
    axis = int(axis or 0) % len(x.shape())
    mark = layout.pop(axis, None)
    if mark is not None and (repeats is None or len(op.all_inputs()) > 1):
        analysis.freeze(mark.labels, op, 'channels are repeated a computed number of times', x, axis)
    elif mark is not None:
        layout[axis] = Mark(np.repeat(mark.labels, int(repeats)), mark.zero)
    analysis.set(out, layout)


RULES: Mapping[str, Rule] = {
    'expand_v2': expand,
    'expand_as_v2': expand_as,
    'tile': tile,
    'repeat_interleave': repeat_interleave,
}
