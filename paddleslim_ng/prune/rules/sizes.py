"""Sizes as data: ``shape``, what programs compute from it, and constant tensors whose shape may be computed, too.

The number of channels may be read by what makes or reshapes a tensor of that many channels: it counts what is left when
the program runs. Whoever else reads it freezes the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Layout, Mark, Rule, Size
from paddleslim_ng.prune.rules.common import first_input, first_output, set_entries, set_with_gradient
from paddleslim_ng.prune.rules.constants import constant_of

__all__ = ['RULES', 'computed_shape', 'fit_shape', 'join_sizes', 'pass_sizes', 'slice_sizes']

# Operators that pass sizes on, and operators that make tensors of these sizes.
_PASSING = frozenset({'cast', 'assign', 'share_data', 'squeeze2', 'unsqueeze2'})
_MAKING = frozenset({'reshape2', 'expand_v2', 'fill_constant', 'uniform_random', 'gaussian_random'})
_READERS = _PASSING | _MAKING | {'slice', 'concat', 'stack'}
_SHAPE_SLOTS = ('ShapeTensor', 'Shape', 'ShapeTensorList', 'expand_shapes_tensor', 'Expand_shapes_tensor')


def note_sizes(analysis: Analysis, var: VarWrapper, sizes: Sequence[Size]) -> None:
    """Remember what ``var`` counts; a reader that does not know about sizes freezes the channels."""
    analysis.auxiliary(var)
    analysis.sizes[var] = tuple(sizes)
    for reader in var.outputs():
        if reader.type() not in _READERS and not (reader.is_bwd_op() or reader.is_opt_op()):
            _freeze(analysis, reader, var)


def _freeze(analysis: Analysis, reader: OpWrapper, var: VarWrapper) -> None:
    for entry, size in enumerate(analysis.sizes[var]):
        if size.labels is not None:
            analysis.freeze(size.labels, reader, 'reads the number of channels', var, entry)


def shape_of(analysis: Analysis, op: OpWrapper) -> None:
    """The sizes of a tensor's axes."""
    x = first_input(op)
    layout = analysis.layout(x)
    sizes = [
        Size(len(layout[axis].labels), layout[axis].labels) if axis in layout else Size(n if n >= 0 else None)
        for axis, n in enumerate(x.shape())
    ]
    note_sizes(analysis, first_output(op), sizes)


def slice_sizes(analysis: Analysis, op: OpWrapper) -> bool:
    """Slice a tensor of sizes; return False where ``op`` slices something else."""
    x = first_input(op)
    sizes = analysis.sizes.get(x)
    if sizes is None:
        return False
    starts, ends = op.attr('starts'), op.attr('ends')
    if starts is None or ends is None or op.type() != 'slice':
        _freeze(analysis, op, x)
        return True
    note_sizes(analysis, first_output(op), sizes[int(starts[0]) : int(ends[0])])
    return True


def pass_sizes(analysis: Analysis, op: OpWrapper) -> bool:
    """Pass a tensor of sizes on as it is; return False where ``op`` reads something else."""
    sizes = analysis.sizes.get(first_input(op)) if analysis.sizes else None
    if sizes is None:
        return False
    note_sizes(analysis, first_output(op), sizes)
    return True


def join_sizes(analysis: Analysis, op: OpWrapper) -> bool:
    """Join tensors of sizes and constants; return False where ``op`` joins something else."""
    group = op.inputs('X')
    if not any(var in analysis.sizes for var in group):
        return False
    note_sizes(analysis, first_output(op), [size for var in group for size in _sizes_in(analysis, var)])
    return True


def _sizes_in(analysis: Analysis, var: VarWrapper) -> list[Size]:
    known = analysis.sizes.get(var)
    if known is not None:
        return list(known)
    value = constant_of(var)
    if value is None:
        return [Size(None)] * max(int(np.prod(var.shape(), dtype=np.int64)), 1)
    counts = [int(v) for v in value.reshape(-1)]
    return [Size(counts[0], None, var)] if len(counts) == 1 else [Size(count) for count in counts]


def computed_shape(analysis: Analysis, op: OpWrapper) -> list[Size] | None:
    """Return the entries of a shape that ``op`` takes as tensors, or None where it takes none."""
    group = next((op.inputs(slot) for slot in _SHAPE_SLOTS if op.inputs(slot)), None)
    return None if group is None else [size for var in group for size in _sizes_in(analysis, var)]


def fit_shape(analysis: Analysis, op: OpWrapper, sizes: Sequence[Size], layout: Layout, out: VarWrapper) -> None:
    """Bring a computed shape to the labels of the tensor that it makes.

    An entry that counts these channels counts right by itself, -1 and 0 need nothing, and a constant among the entries
    is rewritten. Any other axis is frozen.
    """
    for axis, mark in layout.items():
        size = sizes[axis] if axis < len(sizes) else Size(None)
        if size.labels is not None and len(size.labels) == len(mark.labels):
            analysis.unite(size.labels, mark.labels)
        elif size.value is None or size.labels is not None or (size.value > 0 and _number(size.source) is None):
            analysis.freeze(mark.labels, op, 'the new shape is computed', out, axis)
        elif size.value > 0:
            _rewrite(analysis, op, axis, mark.labels, size.source)


def _number(source: VarWrapper | None) -> OpWrapper | None:
    """Return the operator that fills a constant of one element, where nothing else reads it."""
    while source is not None and len(source.inputs()) == 1 and len(source.outputs()) == 1:
        (maker,) = source.inputs()
        if maker.type() == 'fill_constant':
            return maker
        source = first_input(maker) if maker.all_inputs() else None
    return None


def _rewrite(analysis: Analysis, op: OpWrapper, axis: int, labels: LabelArray, source: VarWrapper | None) -> None:
    maker = _number(source)

    def edit(cut: Cut) -> None:
        count = cut.count(labels)
        if maker is not None:
            maker.set_attr('value', float(count))
            if maker.attr('str_value'):
                maker.set_attr('str_value', str(count))
        shape = op.attr('shape')
        if isinstance(shape, (list, tuple)) and len(shape) > axis and int(shape[axis]) > 0:
            set_with_gradient(analysis, op, 'shape', [*shape[:axis], count, *shape[axis + 1 :]])

    analysis.on_cut(op, [labels], edit)


def size_of(analysis: Analysis, op: OpWrapper) -> None:
    """The number of elements counts every channel; its ratio to that of a tensor with the same channels does not."""
    analysis.auxiliary(first_output(op))
    if analysis.layout(first_input(op)):
        analysis.check_later(lambda: _check_ratio(analysis, op))


def _check_ratio(analysis: Analysis, op: OpWrapper) -> None:
    own = _carried(analysis, op)
    for reader, var in _readers(op):
        others = [other for other in reader.all_inputs() if other is not var]
        counterpart = _counted(others[0]) if len(others) == 1 else None
        if reader.type() != 'elementwise_div' or counterpart is None or _carried(analysis, counterpart) != own:
            analysis.freeze_inputs(op, 'counts the elements')
            return


def _readers(op: OpWrapper) -> list[tuple[OpWrapper, VarWrapper]]:
    """Return who reads a count in the end, and as which variable."""
    found: list[tuple[OpWrapper, VarWrapper]] = []
    pending = [first_output(op)]
    while pending:
        var = pending.pop()
        for reader in var.outputs():
            if reader.is_bwd_op() or reader.is_opt_op():
                continue
            if reader.type() in _PASSING:
                pending.append(first_output(reader))
            else:
                found.append((reader, var))
    return found


def _counted(var: VarWrapper) -> OpWrapper | None:
    makers = var.inputs()
    while makers and makers[0].type() in _PASSING:
        makers = first_input(makers[0]).inputs()
    return makers[0] if makers and makers[0].type() == 'size' else None


def _carried(analysis: Analysis, op: OpWrapper) -> list[list[int]]:
    layout = analysis.layout(first_input(op))
    return sorted(sorted(analysis.space.find(mark.labels).tolist()) for mark in layout.values())


def constant(analysis: Analysis, op: OpWrapper) -> None:
    """A constant tensor is elastic: each of its axes may shrink with what it meets."""
    sizes = computed_shape(analysis, op)
    if sizes is not None:
        _made_to_measure(analysis, op, sizes)
        return
    for out in op.all_outputs():
        shape = op.attr('shape')
        if out.persistable() or op.all_inputs() or not isinstance(shape, (list, tuple)):
            return
        zero = not op.attr('value')
        marks = {a: Mark(analysis.space.fresh(n), zero) for a, n in enumerate(out.shape()) if n > 1}
        analysis.auxiliary(out)
        analysis.set(out, marks)
        _shrink(analysis, op, {axis: mark.labels for axis, mark in marks.items()})


def _shrink(analysis: Analysis, op: OpWrapper, arrays: Mapping[int, LabelArray]) -> None:
    if arrays:
        analysis.on_cut(op, arrays.values(), lambda cut: set_entries(analysis, op, 'shape', arrays, cut))


def _made_to_measure(analysis: Analysis, op: OpWrapper, sizes: Sequence[Size]) -> None:
    """A tensor of a computed shape has as many channels as those that its shape counts."""
    out = first_output(op)
    zero = op.type() == 'fill_constant' and op.attr('value') is not None and not op.attr('value')
    analysis.auxiliary(out)
    if len(sizes) != len(out.shape()):
        for var in op.all_inputs():
            if var in analysis.sizes:
                _freeze(analysis, op, var)
        return
    layout = {axis: Mark(s.labels, zero) for axis, s in enumerate(sizes) if s.labels is not None}
    if op.type() == 'fill_constant':
        for axis, size in enumerate(sizes):
            if size.value is not None and size.value > 1 and _number(size.source) is not None and axis not in layout:
                layout[axis] = Mark(analysis.space.fresh(size.value), zero)
                _rewrite(analysis, op, axis, layout[axis].labels, size.source)
    analysis.set(out, layout)


def source(analysis: Analysis, op: OpWrapper) -> None:
    """Values from nowhere (random numbers, literals) have the sizes they were made with."""
    sizes = computed_shape(analysis, op)
    if sizes is not None:
        _made_to_measure(analysis, op, sizes)
    for out in op.all_outputs():
        analysis.auxiliary(out)


def batch_size_like(analysis: Analysis, op: OpWrapper) -> None:
    """A constant with one axis as long as an axis of another tensor; the others are elastic."""
    x, out = first_input(op), first_output(op)
    read, written = int(op.attr('input_dim_idx') or 0), int(op.attr('output_dim_idx') or 0)
    mark = analysis.layout(x).get(read)
    zero = not op.attr('value')
    marks = {a: Mark(analysis.space.fresh(n), zero) for a, n in enumerate(out.shape()) if n > 1 and a != written}
    _shrink(analysis, op, {axis: own.labels for axis, own in marks.items()})
    if mark is not None:
        marks[written] = Mark(mark.labels, zero)
    analysis.auxiliary(out)
    analysis.set(out, marks)


RULES: Mapping[str, Rule] = {
    'shape': shape_of,
    'size': size_of,
    'fill_constant': constant,
    'fill_constant_batch_size_like': batch_size_like,
    **dict.fromkeys(('assign_value', 'uniform_random', 'gaussian_random', 'range', 'linspace', 'eye'), source),
    **dict.fromkeys(('randint', 'feed', 'fetch', 'seed'), source),
}
