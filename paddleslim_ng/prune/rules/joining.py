"""Operators that join and part tensors along an axis: concat, stack, split, unbind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddleslim_ng.core import OpWrapper
from paddleslim_ng.prune.channels import Analysis, Mark, Rule
from paddleslim_ng.prune.rules.common import fresh_frozen, input_of, output_of
from paddleslim_ng.prune.rules.elementwise import broadcast
from paddleslim_ng.prune.rules.sizes import join_sizes

__all__ = ['RULES']


def concat(analysis: Analysis, op: OpWrapper) -> None:
    """Label arrays are joined along the axis and united along the others."""
    group, out = op.inputs('X'), output_of(op)
    if join_sizes(analysis, op):
        return
    axis = op.attr('axis')
    rank = len(group[0].shape())
    if axis is None:
        analysis.freeze_inputs(op, 'the axis is computed')
        return
    axis = int(axis) % rank
    layouts = [analysis.layout(var) for var in group]
    result: dict[int, Mark] = {}
    for other in sorted({a for layout in layouts for a in layout if a != axis}):
        marks = [layout.get(other) for layout in layouts]
        present = [mark for mark in marks if mark is not None]
        for mark in present[1:]:
            analysis.unite(present[0].labels, mark.labels)
        if len(present) != len(marks):
            analysis.freeze(present[0].labels, op, 'is joined to a tensor of fixed size', out, other)
        result[other] = Mark(present[0].labels, all(mark.zero for mark in present))
    if any(axis in layout for layout in layouts):
        parts = [
            layout[axis].labels
            if axis in layout
            else fresh_frozen(analysis, op, var, axis, 'is joined with a fixed size')
            for var, layout in zip(group, layouts)
        ]
        result[axis] = Mark(np.concatenate(parts), all(axis not in layout or layout[axis].zero for layout in layouts))
    analysis.set(out, result)


def stack(analysis: Analysis, op: OpWrapper) -> None:
    """Tensors meet position by position along a new axis."""
    out = op.all_outputs()[0]
    if join_sizes(analysis, op):
        return
    rank = len(out.shape())
    axis = int(op.attr('axis') or 0) % rank
    layout = broadcast(analysis, op, op.inputs('X'), 'all')
    analysis.set(out, {a + (a >= axis): mark for a, mark in layout.items()})


def unstack(analysis: Analysis, op: OpWrapper) -> None:
    """A tensor falls apart along an axis, which may not carry channels."""
    x = input_of(op, 'X')
    axis = int(op.attr('axis') or 0) % len(x.shape())
    analysis.freeze_axes(op, x, [axis], 'single channels are taken out')
    layout = analysis.layout(x)
    for out in op.all_outputs():
        analysis.set(out, {a - (a > axis): mark for a, mark in layout.items() if a != axis})


def split(analysis: Analysis, op: OpWrapper) -> None:
    """Label arrays are cut at the section bounds."""
    x, parts = input_of(op, 'X'), op.outputs('Out')
    layout, rank = analysis.layout(x), len(x.shape())
    axis = op.attr('axis')
    if axis is None:
        analysis.freeze_inputs(op, 'the axis is computed')
        return
    axis = int(axis) % rank
    mark = layout.get(axis)
    others = {a: m for a, m in layout.items() if a != axis}
    if mark is None:
        for part in parts:
            analysis.set(part, others)
        return
    sizes = [part.shape()[axis] for part in parts]
    bounds = np.cumsum([0, *sizes])
    arrays = [np.ascontiguousarray(mark.labels[a:b]) for a, b in zip(bounds[:-1], bounds[1:])]
    for part, labels in zip(parts, arrays):
        analysis.set(part, {**others, axis: Mark(labels, mark.zero)})
    analysis.on_cut(op, arrays, lambda cut: _set_sections(analysis, op, [cut.count(labels) for labels in arrays]))


def _set_sections(analysis: Analysis, op: OpWrapper, sizes: list[int]) -> None:
    by_number = not op.attr('sections')
    if by_number and len(set(sizes)) == 1:
        return
    analysis.graph.editor.split_into(op, sizes)


def meshgrid(analysis: Analysis, op: OpWrapper) -> None:
    """Each vector runs along its own axis of every result."""
    marks = [analysis.layout(var).get(0) for var in op.inputs('X')]
    layout = {axis: Mark(mark.labels, False) for axis, mark in enumerate(marks) if mark is not None}
    for out in op.all_outputs():
        analysis.set(out, layout)


RULES: Mapping[str, Rule] = {
    'concat': concat,
    'stack': stack,
    'unstack': unstack,
    'unbind': unstack,
    'split': split,
    'meshgrid': meshgrid,
}
