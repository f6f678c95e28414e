"""Operators that change the axes and not the values: reshape and relatives, transpose, expand, tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Layout, Mark, Rule, Size
from paddleslim_ng.prune.rules.common import (
    input_of,
    output_of,
    set_entries,
    without_zero,
)
from paddleslim_ng.prune.rules.sizes import computed_shape, fit_shape, pass_sizes

__all__ = ['RULES']

# Stands for a dynamic size while shapes are factored; prime, so that it is never split.
_DYNAMIC = 1_000_003


def reshape(analysis: Analysis, op: OpWrapper) -> None:
    """Reshape, flatten, squeeze and unsqueeze: labels are rearranged block by block.

    Input and output shapes are cut into the smallest blocks of equal product. Within a block the labels of an axis are
    spread over all positions and folded into the output axes. Where they then vary along several axes, one of them
    stays free and the positions along the others are tied to it, since what remains must be a box again.
    """
    x, out = input_of(op, 'X'), output_of(op)
    for var in op.outputs('XShape'):
        analysis.auxiliary(var)
    layout = analysis.layout(x)
    if pass_sizes(analysis, op) or not layout:
        return
    sizes = computed_shape(analysis, op)
    before = [len(layout[a].labels) if a in layout else n for a, n in enumerate(x.shape())]
    shapes = _known_shapes(op, before, out) if sizes is None else _computed_shapes(sizes, before, out)
    if shapes is None:
        analysis.freeze_axes(op, x, layout, 'the new shape cannot be matched with the old one')
        return
    before, after = shapes
    result: dict[int, Mark] = {}
    for axes_in, axes_out in _blocks(before, after):
        labelled = [a for a in axes_in if a in layout]
        if not labelled:
            continue
        wide_in, wide_out = [a for a in axes_in if before[a] != 1], [a for a in axes_out if after[a] != 1]
        if len(wide_in) == 1 == len(wide_out):
            result[wide_out[0]] = layout[labelled[0]]
        elif any(before[a] == _DYNAMIC for a in axes_in):
            analysis.freeze_axes(op, x, labelled, 'channels are merged with a dynamic axis')
        else:
            analysis.freeze_axes(op, x, labelled[1:], 'channels are merged with other channels')
            _fold(analysis, op, layout[labelled[0]], (before, axes_in, labelled[0]), (after, axes_out), result)
    analysis.set(out, result)
    if sizes is None:
        _fix_shape(analysis, op, result)
    else:
        fit_shape(analysis, op, sizes, result, out)


def _computed_shapes(
    sizes: Sequence[Size], sizes_in: Sequence[int], out: VarWrapper
) -> tuple[list[int], list[int]] | None:
    """Return both shapes, taking what is computed from ``x`` itself to be the sizes that ``x`` has.

    An entry that nobody knows stands for the dynamic axis; where there are several, it must be in the same place.
    """
    before = [_DYNAMIC if n < 0 else n for n in sizes_in]
    after = [_DYNAMIC if size.value is None else size.value for size in sizes]
    after = [before[axis] if n == 0 and axis < len(before) else n for axis, n in enumerate(after)]
    return _filled(before, after) if len(after) == len(out.shape()) else None


def _known_shapes(op: OpWrapper, sizes_in: Sequence[int], out: VarWrapper) -> tuple[list[int], list[int]] | None:
    """Return both shapes with dynamic sizes filled in, or None where they cannot be told."""
    before = [_DYNAMIC if n < 0 else n for n in sizes_in]
    dynamic = before.count(_DYNAMIC)
    if op.type() in ('reshape2', 'reshape') and (dynamic > 1 or sum(n < 0 for n in out.shape()) > 1):
        return _from_target(op, before)
    after = list(out.shape())
    unknown = [a for a, n in enumerate(after) if n < 0]
    total, rest = (int(np.prod(shape, dtype=object)) for shape in (before, [n for n in after if n >= 0]))
    if dynamic == 1 and not unknown and rest % (total // _DYNAMIC) == 0:
        before[before.index(_DYNAMIC)] = rest // (total // _DYNAMIC)
    elif len(unknown) == 1 and rest and total % rest == 0:
        after[unknown[0]] = total // rest
    elif op.type() in ('squeeze2', 'unsqueeze2'):
        return _in_order(before, after)
    elif unknown or total != rest:
        return None
    return before, after


def _in_order(before: list[int], after: list[int]) -> tuple[list[int], list[int]] | None:
    """Fill dynamic sizes where axes of size one come and go: the other axes keep their order."""
    sizes = [n for n in before if n != 1]
    places = [a for a, n in enumerate(after) if n != 1]
    if len(sizes) != len(places) or any(after[a] not in (n, -1) for a, n in zip(places, sizes) if n != _DYNAMIC):
        return None
    for place, size in zip(places, sizes):
        after[place] = size
    return before, after


def _from_target(op: OpWrapper, before: list[int]) -> tuple[list[int], list[int]] | None:
    """Fill the shape attribute: zeros copy an axis of the input, and one -1 takes what is left."""
    target = op.attr('shape')
    if target is None:
        return None
    return _filled(before, [before[a] if n == 0 and a < len(before) else int(n) for a, n in enumerate(target)])


def _filled(before: list[int], after: list[int]) -> tuple[list[int], list[int]] | None:
    """Put what is left in the place of a -1; None where the shapes do not fit."""
    total, rest = (int(np.prod([n for n in shape if n != -1], dtype=object)) for shape in (before, after))
    if after.count(-1) == 1 and rest and total % rest == 0:
        after[after.index(-1)] = total // rest
    elif -1 in after or total != rest:
        return None
    return before, after


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of equal product into the smallest runs of axes of equal product."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        axes_in: list[int] = []
        axes_out: list[int] = []
        left = right = 1
        while True:
            if left == right and axes_in and axes_out:
                break
            if (left <= right and i < len(before)) or j >= len(after):
                if i >= len(before):
                    break
                left *= before[i]
                axes_in.append(i)
                i += 1
            else:
                right *= after[j]
                axes_out.append(j)
                j += 1
        # Axes of size one at the end belong to whatever block they follow.
        while i < len(before) and before[i] == 1 and j >= len(after):
            axes_in.append(i)
            i += 1
        while j < len(after) and after[j] == 1 and i >= len(before):
            axes_out.append(j)
            j += 1
        blocks.append((axes_in, axes_out))
    return blocks


def _fold(
    analysis: Analysis,
    op: OpWrapper,
    mark: Mark,
    source: tuple[list[int], list[int], int],
    target: tuple[list[int], list[int]],
    result: dict[int, Mark],
) -> None:
    before, axes_in, labelled = source
    after, axes_out = target
    sizes = [before[a] for a in axes_in]
    spread = [before[a] if a == labelled else 1 for a in axes_in]
    grid = np.broadcast_to(mark.labels.reshape(spread), sizes).reshape([after[a] for a in axes_out])
    roots = analysis.space.find(np.ascontiguousarray(grid).reshape(-1)).reshape(grid.shape)
    varying = [i for i in range(grid.ndim) if grid.shape[i] > 1 and (roots != np.take(roots, [0], axis=i)).any()]
    if not varying:
        varying = [int(np.argmax(grid.shape))]
    free = varying[-1] if len(varying) == 1 else _choose(analysis, op, varying, grid.shape)
    rows = np.moveaxis(grid, free, -1).reshape(-1, grid.shape[free])
    first = np.ascontiguousarray(rows[0])
    if len(varying) > 1:
        for row in rows[1:]:
            analysis.unite(first, np.ascontiguousarray(row))
    result[axes_out[free]] = Mark(first, mark.zero)


def _choose(analysis: Analysis, op: OpWrapper, varying: list[int], shape: tuple[int, ...]) -> int:
    """Pick the axis that stays free; note the alternatives for a caller who wants to try them."""
    signature = (op.type(), shape)
    analysis.choices[signature] = tuple(varying)
    if None in analysis.prefer:
        return varying[analysis.prefer[None]]
    return int(analysis.prefer.get(signature, varying[-1]))


def _fix_shape(analysis: Analysis, op: OpWrapper, result: Layout) -> None:
    if op.type() not in ('reshape2', 'reshape'):
        return
    target = op.attr('shape')
    if target is None:
        for axis, mark in result.items():
            analysis.freeze(mark.labels, op, 'the new shape is computed', output_of(op), axis)
        return
    arrays = {axis: mark.labels for axis, mark in result.items() if int(target[axis]) > 0}
    if arrays:
        analysis.on_cut(op, arrays.values(), lambda cut: set_entries(analysis, op, 'shape', arrays, cut))


def transpose(analysis: Analysis, op: OpWrapper) -> None:
    """Axes are permuted."""
    for var in op.outputs('XShape'):
        analysis.auxiliary(var)
    layout = analysis.layout(input_of(op, 'X'))
    order = [int(a) for a in op.attr('axis')]
    analysis.set(output_of(op), {new: layout[old] for new, old in enumerate(order) if old in layout})


def keeps_layout(analysis: Analysis, op: OpWrapper) -> None:
    """Lower and upper triangles: positions stay, some become zero."""
    x = input_of(op, 'X')
    rank = len(x.shape())
    analysis.freeze_axes(op, x, [rank - 1, rank - 2], 'the triangle counts these positions')
    analysis.set(output_of(op), without_zero(analysis.layout(x)))


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        (
            'reshape2',
            'reshape',
            'flatten_contiguous_range',
            'flatten2',
            'squeeze2',
            'squeeze',
            'unsqueeze2',
            'unsqueeze',
        ),
        reshape,
    ),
    'transpose2': transpose,
    'transpose': transpose,
    'tril_triu': keeps_layout,
}
