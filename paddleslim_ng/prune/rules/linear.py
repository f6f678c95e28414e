"""Matrix products and embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Layout, Mark, Rule
from paddleslim_ng.prune.rules.common import follow_weight, input_of, output_of, weight_channels, without_zero
from paddleslim_ng.prune.rules.elementwise import broadcast

__all__ = ['RULES', 'contract']


def matmul(analysis: Analysis, op: OpWrapper) -> None:
    """``X @ Y`` of any rank, either side possibly transposed or a parameter."""
    kind = op.type()
    names = ('transpose_X', 'transpose_Y') if kind == 'matmul' else ('trans_x', 'trans_y')
    flags = [bool(op.attr(name)) for name in names] if kind in ('matmul', 'matmul_v2') else [False, False]
    product(analysis, op, input_of(op, 'X'), input_of(op, 'Y'), *flags)


def product(analysis: Analysis, op: OpWrapper, x: VarWrapper, y: VarWrapper, trans_x: bool, trans_y: bool) -> None:
    """Unite the contracted axes, pass the free ones, and broadcast the leading ones."""
    rank_x, rank_y, out = len(x.shape()), len(y.shape()), output_of(op)
    inner_x = rank_x - 1 if rank_x == 1 or not trans_x else rank_x - 2
    inner_y = 0 if rank_y == 1 else rank_y - 1 if trans_y else rank_y - 2
    left = _operand_layout(analysis, x, inner_x)
    right = _operand_layout(analysis, y, inner_y)
    _contract(analysis, op, (x, inner_x, left), (y, inner_y, right))
    result: dict[int, Mark] = {}
    rank = len(out.shape())
    free_x = 2 * rank_x - 3 - inner_x if rank_x > 1 else None
    free_y = 2 * rank_y - 3 - inner_y if rank_y > 1 else None
    if free_x is not None and free_x in left:
        result[rank - 1 - (rank_y > 1)] = left[free_x]
    if free_y is not None and free_y in right:
        result[rank - 1] = right[free_y]
    _leading(analysis, op, [(x, left), (y, right)], rank, result)
    analysis.set(out, result)


def _operand_layout(analysis: Analysis, var: VarWrapper, inner: int) -> Layout:
    """Return an operand's layout; a weight makes channels along its free axis and follows along the other."""
    free = 1 - inner
    if len(var.shape()) == 2 and not var.is_data and var.shape()[free] > 1:
        weight_channels(analysis, var, free)
    if not var.is_parameter() or len(var.shape()) != 2:
        return analysis.layout(var)
    return analysis.parameters.get(var, {})


def _contract(
    analysis: Analysis, op: OpWrapper, left: tuple[VarWrapper, int, Layout], right: tuple[VarWrapper, int, Layout]
) -> None:
    for (weight, axis, _), (x, x_axis, layout) in ((left, right), (right, left)):
        if weight.is_parameter() and not x.is_parameter():
            mark = layout.get(x_axis)
            follow_weight(analysis, op, weight, axis, x, x_axis, mark.labels if mark is not None else None)
            return
    marks = left[2].get(left[1]), right[2].get(right[1])
    (y, y_axis, _), (x, x_axis, _) = right, left
    if marks[0] is not None or marks[1] is not None:
        contract(analysis, op, [(x, x_axis, marks[0]), (y, y_axis, marks[1])])


def contract(analysis: Analysis, op: OpWrapper, group: list[tuple[VarWrapper, int, Mark | None]]) -> None:
    """Sum products over an axis that several operands share: exact where one of them is zero at removed positions."""
    marks = [(var, axis, mark) for var, axis, mark in group if mark is not None]
    if not marks:
        return
    var, axis, first = marks[0]
    for _, _, mark in marks[1:]:
        analysis.unite(first.labels, mark.labels)
    if len(marks) < len(group):
        analysis.freeze(first.labels, op, 'is contracted with an axis of fixed size', var, axis)
    elif not any(mark.zero for _, _, mark in marks):
        analysis.freeze(first.labels, op, 'sums over channels that are not zero once removed', var, axis)


def _leading(
    analysis: Analysis, op: OpWrapper, operands: list[tuple[VarWrapper, Layout]], rank: int, result: dict[int, Mark]
) -> None:
    """Batch axes broadcast from the right, in front of the two matrix axes."""
    sizes = [(var, layout, rank - len(var.shape())) for var, layout in operands if len(var.shape()) > 2]
    for index, (var, layout, offset) in enumerate(sizes):
        for axis in range(len(var.shape()) - 2):
            mark = layout.get(axis)
            if mark is None:
                continue
            present = result.get(axis + offset)
            if present is not None:
                analysis.unite(present.labels, mark.labels)
                result[axis + offset] = Mark(present.labels, present.zero or mark.zero)
                continue
            result[axis + offset] = mark
            for other, other_layout, other_offset in sizes[:index] + sizes[index + 1 :]:
                own = axis + offset - other_offset
                if 0 <= own < len(other.shape()) - 2 and own not in other_layout and other.shape()[own] != 1:
                    analysis.freeze(mark.labels, op, f'meets {other.name()}, whose size is fixed', other, own)


def flattened_product(analysis: Analysis, op: OpWrapper) -> None:
    """The legacy ``mul``: axes of X from ``x_num_col_dims`` on are flattened against the rows of Y."""
    x, y, out = input_of(op, 'X'), input_of(op, 'Y'), output_of(op)
    lead = int(op.attr('x_num_col_dims') or 1)
    layout, shape = analysis.layout(x), x.shape()
    if not y.is_parameter() or int(op.attr('y_num_col_dims') or 1) != 1 or len(y.shape()) != 2:
        analysis.freeze_inputs(op, 'flattens a computed matrix')
        return
    inner = {axis: mark for axis, mark in layout.items() if axis >= lead}
    if len(inner) == 1 and all(size > 0 for size in shape[lead:]):
        ((axis, mark),) = inner.items()
        spread = [1] * (len(shape) - lead)
        spread[axis - lead] = shape[axis]
        labels = np.broadcast_to(mark.labels.reshape(spread), shape[lead:]).reshape(-1)
        analysis.adopt(y, 0, mark.labels if len(labels) == len(mark.labels) else labels)
    else:
        analysis.freeze_axes(op, x, inner, 'several labelled or dynamic axes are flattened together')
        analysis.freeze(analysis.parameter_axis(y, 0), op, 'a weight reads an input of fixed size', y, 0)
    result = {axis: mark for axis, mark in layout.items() if axis < lead}
    result[len(out.shape()) - 1] = Mark(analysis.makes_channels(y, 1), True)
    analysis.set(out, result)


def embedding(analysis: Analysis, op: OpWrapper) -> None:
    """The table's columns make the last axis of the output."""
    table, out = input_of(op, 'W'), output_of(op)
    if not table.is_parameter():
        analysis.freeze_inputs(op, 'the table is computed, not a parameter')
        return
    ids = input_of(op, 'Ids')
    picked = without_zero(analysis.layout(ids))
    last = len(out.shape()) - 1
    layout = {axis: mark for axis, mark in picked.items() if axis < last}
    analysis.set(out, {**layout, last: Mark(analysis.makes_channels(table, 1), True)})


def addmm(analysis: Analysis, op: OpWrapper) -> None:
    """``beta * input + alpha * X @ Y``."""
    matmul(analysis, op)
    added, out = input_of(op, 'Input'), output_of(op)
    analysis.set(out, broadcast(analysis, op, [out, added], 'all'))


RULES: Mapping[str, Rule] = {
    'matmul_v2': matmul,
    'matmul': matmul,
    'bmm': matmul,
    'addmm': addmm,
    'mul': flattened_product,
    'lookup_table_v2': embedding,
    'lookup_table': embedding,
}
