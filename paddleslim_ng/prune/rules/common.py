"""What several rules need: reading operands, tying labels, filters and weights, editing attributes with gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Layout, Mark

__all__ = [
    'channel_axis',
    'first_input',
    'first_output',
    'follow_vector',
    'follow_weight',
    'fresh_frozen',
    'has_backward',
    'input_of',
    'optional_input',
    'output_of',
    'set_entries',
    'set_with_gradient',
    'singles',
    'tie_rows',
    'tie_runs',
    'weight_channels',
    'without_zero',
]

# How many operators a filter may be away from the parameters it is computed from.
_NEAR = 24


def input_of(op: OpWrapper, slot: str) -> VarWrapper:
    """Return the only variable of an input slot."""
    return op.inputs(slot)[0]


def optional_input(op: OpWrapper, slot: str) -> VarWrapper | None:
    """Return the variable of an input slot, or None where it is empty."""
    group = op.inputs(slot)
    return group[0] if group else None


def output_of(op: OpWrapper, slot: str = 'Out') -> VarWrapper:
    """Return the only variable of an output slot."""
    return op.outputs(slot)[0]


def first_input(op: OpWrapper) -> VarWrapper:
    """Return the variable an operator works on, whatever its slot is called."""
    return (op.inputs('X') or op.inputs('Input') or op.all_inputs())[0]


def first_output(op: OpWrapper) -> VarWrapper:
    """Return the variable that holds an operator's result, whatever its slot is called."""
    return (op.outputs('Out') or op.outputs('Output') or op.outputs('Y') or op.all_outputs())[0]


def channel_axis(op: OpWrapper, rank: int) -> int:
    """Return the channel axis of an image operator from its layout attribute."""
    layout = op.attr('data_format') or op.attr('data_layout') or 'NCHW'
    return rank - 1 if str(layout).endswith('C') and rank > 2 else 1


def without_zero(layout: Layout) -> Layout:
    """Return the layout of ``f(x)`` where ``f(0)`` is not 0."""
    return {axis: Mark(mark.labels, False) for axis, mark in layout.items()}


def tie_rows(analysis: Analysis, labels: LabelArray, rows: int) -> LabelArray:
    """See ``labels`` as ``rows`` rows, let the positions of each column leave together, and return the first row."""
    grid = labels.reshape(rows, -1)
    for row in grid[1:]:
        analysis.unite(grid[0], row)
    return np.ascontiguousarray(grid[0])


def tie_runs(analysis: Analysis, labels: LabelArray, length: int) -> LabelArray:
    """Let every run of ``length`` neighbours leave together, and return the first label of each run."""
    return tie_rows(analysis, np.ascontiguousarray(labels.reshape(-1, length).T), length)


def singles(labels: LabelArray) -> list[LabelArray]:
    """Return every label as an array of its own: an edit that depends on which positions stay, not only on how many."""
    return [labels[index : index + 1] for index in range(len(labels))]


def fresh_frozen(analysis: Analysis, op: OpWrapper, var: VarWrapper, axis: int, reason: str) -> LabelArray:
    """Label a fixed axis so that it can stand beside labelled ones, and freeze it."""
    labels = analysis.space.fresh(var.shape()[axis])
    analysis.freeze(labels, op, reason, var, axis)
    return labels


def follow_vector(analysis: Analysis, op: OpWrapper, var: VarWrapper, labels: LabelArray, axis: int = 0) -> None:
    """Let an axis of a vector of weights follow ``labels``; freeze them where it is computed and of fixed size."""
    if var.is_parameter():
        analysis.adopt(var, axis, labels)
        return
    mark = analysis.mark(var, axis)
    if mark is not None:
        analysis.unite(mark.labels, labels)
    else:
        analysis.freeze(labels, op, 'meets a vector of fixed size', var, axis)


def follow_weight(
    analysis: Analysis,
    op: OpWrapper,
    weight: VarWrapper,
    axis: int,
    x: VarWrapper,
    x_axis: int,
    labels: LabelArray | None,
) -> None:
    """Contract axis ``x_axis`` of ``x`` (its ``labels``; None where it is fixed) with an axis of a weight."""
    if weight.is_parameter():
        if labels is not None:
            analysis.adopt(weight, axis, labels)
        else:
            reason = f'a weight reads {x.name()}, whose size is fixed'
            analysis.freeze(analysis.parameter_axis(weight, axis), op, reason, weight, axis)
        return
    own, mark = analysis.mark(weight, axis), analysis.mark(x, x_axis)
    if own is not None and labels is not None:
        analysis.unite(own.labels, labels)
        if not (own.zero or (mark is not None and mark.zero)):
            analysis.freeze(labels, op, 'sums over channels that are not zero once removed', x, x_axis)
    elif own is not None:
        analysis.freeze(own.labels, op, 'is contracted with an axis of fixed size', weight, axis)
    elif labels is not None:
        analysis.freeze(labels, op, 'is contracted with an axis of fixed size', x, x_axis)


def weight_channels(analysis: Analysis, weight: VarWrapper, axis: int) -> Mark | None:
    """Return the channels that a weight makes along ``axis``; the weight may be computed from parameters."""
    if weight.is_parameter():
        return Mark(analysis.makes_channels(weight, axis), True)
    mark = analysis.mark(weight, axis)
    if mark is not None:
        roots = analysis.space.find(mark.labels)
        for parameter in _parameters_behind(weight):
            for own_axis, own in analysis.parameters.get(parameter, {}).items():
                if np.array_equal(analysis.space.find(own.labels), roots):
                    analysis.out_axes.setdefault(parameter, own_axis)
    return mark


def _parameters_behind(var: VarWrapper) -> list[VarWrapper]:
    """Return the matrices that ``var`` is computed from; nothing where data or many operators are involved."""
    found: list[VarWrapper] = []
    pending, steps = [var], 0
    while pending:
        one = pending.pop()
        if one.is_parameter():
            if len(one.shape()) > 1:
                found.append(one)
            continue
        makers = one.inputs()
        steps += 1
        if one.is_data or steps > _NEAR:
            return []
        pending += [source for maker in makers for source in maker.all_inputs()]
    return found


def has_backward(analysis: Analysis) -> bool:
    """Tell whether the program has a backward pass."""
    return any(op.is_bwd_op() for op in reversed(analysis.graph.ops()))


def set_with_gradient(analysis: Analysis, op: OpWrapper, name: str, value: Any) -> None:
    """Set an attribute on an operator and on its gradient operators, which hold a copy."""
    gradients = analysis.gradients(op)
    op.set_attr(name, value)
    for gradient in gradients:
        if gradient.attr(name) is not None:
            gradient.set_attr(name, value)


def set_entries(analysis: Analysis, op: OpWrapper, name: str, arrays: Mapping[int, LabelArray], cut: Cut) -> None:
    """Write the numbers of positions that stay into some entries of a list attribute, keeping the others."""
    values = [int(v) for v in op.attr(name)]
    for index, labels in arrays.items():
        values[index] = cut.count(labels)
    set_with_gradient(analysis, op, name, values)


def ranges(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of neighbouring bounds."""
    return zip(bounds[:-1], bounds[1:])
