"""Reductions and operators that look across positions: sums, means, softmax, sorting."""

from __future__ import annotations

from collections.abc import Mapping

from paddleslim_ng.core import OpWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Layout, Mark, Rule
from paddleslim_ng.prune.rules.common import input_of, output_of

__all__ = ['RULES']


def _reduced_axes(op: OpWrapper, rank: int) -> list[int]:
    axes = op.attr('dim') if op.type() != 'logsumexp' else op.attr('axis')
    if op.attr('reduce_all') or axes is None or axes == []:
        return list(range(rank))
    return sorted(int(a) % rank for a in ([axes] if isinstance(axes, int) else axes))


def _keeps_axes(op: OpWrapper) -> bool:
    keep = op.attr('keep_dim')
    return bool(op.attr('keepdim') if keep is None else keep)


def _remaining(layout: Layout, reduced: list[int], keep_dim: bool) -> Layout:
    if keep_dim:
        return {axis: mark for axis, mark in layout.items() if axis not in reduced}
    return {axis - sum(r < axis for r in reduced): mark for axis, mark in layout.items() if axis not in reduced}


def total(analysis: Analysis, op: OpWrapper) -> None:
    """A sum over channels ignores removed ones where they are zero."""
    x = input_of(op, 'X')
    layout = analysis.layout(x)
    reduced = _reduced_axes(op, len(x.shape()))
    nonzero = [a for a in reduced if a in layout and not layout[a].zero]
    analysis.freeze_axes(op, x, nonzero, 'sums over channels that are not zero once removed')
    analysis.set(output_of(op), _remaining(layout, reduced, _keeps_axes(op)))


def mean(analysis: Analysis, op: OpWrapper) -> None:
    """A mean over channels is a sum of them divided by the old count: what is left gets a factor new / old."""
    x, out = input_of(op, 'X'), output_of(op)
    layout = analysis.layout(x)
    reduced = _reduced_axes(op, len(x.shape()))
    total(analysis, op)
    arrays = [layout[a].labels for a in reduced if a in layout]
    if arrays:
        analysis.on_cut(op, arrays, lambda cut: analysis.graph.editor.scale_after(out, _kept_share(cut, arrays)))


def _kept_share(cut: Cut, arrays: list[LabelArray]) -> float:
    share = 1.0
    for labels in arrays:
        share *= cut.count(labels) / len(labels)
    return share


def extreme(analysis: Analysis, op: OpWrapper) -> None:
    """A maximum, minimum or product over channels may be decided by a removed one."""
    x = input_of(op, 'X')
    layout = analysis.layout(x)
    reduced = _reduced_axes(op, len(x.shape()))
    reason = 'a zeroed channel counts' if op.type() == 'logsumexp' else 'a zeroed channel could decide the result'
    analysis.freeze_axes(op, x, reduced, reason)
    remaining = _remaining(layout, reduced, _keeps_axes(op))
    zero = op.type() in ('reduce_max', 'reduce_min', 'reduce_prod', 'reduce_amax', 'reduce_amin')
    analysis.set(output_of(op), {a: Mark(m.labels, m.zero and zero) for a, m in remaining.items()})


def norm(analysis: Analysis, op: OpWrapper) -> None:
    """A p-norm over channels adds nothing for zeros."""
    x, out = input_of(op, 'X'), output_of(op)
    layout, rank = analysis.layout(x), len(x.shape())
    reduced = list(range(rank)) if op.attr('asvector') else [int(op.attr('axis')) % rank]
    order = float(op.attr('porder'))
    doubtful = [a for a in reduced if a in layout and (not layout[a].zero or order <= 0)]
    analysis.freeze_axes(op, x, doubtful, 'the norm runs over channels that are not zero once removed')
    analysis.set(out, _remaining(layout, reduced, _keeps_axes(op)))


def normalize(analysis: Analysis, op: OpWrapper) -> None:
    """``x`` divided by its 2-norm along an axis."""
    x = input_of(op, 'X')
    layout = analysis.layout(x)
    axis = int(op.attr('axis')) % len(x.shape())
    if axis in layout and not layout[axis].zero:
        analysis.freeze_axes(op, x, [axis], 'the norm runs over channels that are not zero once removed')
    for var in op.outputs('Norm'):
        analysis.auxiliary(var)
        analysis.set(var, {a: m for a, m in layout.items() if a != axis})
    analysis.set(output_of(op), layout)


def across(analysis: Analysis, op: OpWrapper) -> None:
    """Softmax, sorting and their like: the axis they run along stays whole; the others pass."""
    slot = 'Logits' if op.inputs('Logits') else 'X'
    x = input_of(op, slot)
    rank = len(x.shape())
    layout = analysis.layout(x)
    axis = op.attr('axis')
    along = range(rank) if op.attr('flatten') or axis is None else [int(axis) % rank]
    analysis.freeze_axes(op, x, along, 'every result depends on all channels')
    for out in op.all_outputs():
        if out in op.outputs('Indices') and op.outputs('Out'):
            analysis.auxiliary(out)
        drops = len(out.shape()) < rank
        gone = along if out.shape() != x.shape() else ()
        analysis.set(
            out, {a - (drops and a > along[0]): Mark(m.labels, False) for a, m in layout.items() if a not in gone}
        )
    for var in op.inputs('Label'):
        analysis.freeze_axes(op, var, range(len(var.shape())), 'labels are fixed')


def loss(analysis: Analysis, op: OpWrapper) -> None:
    """Softmax with cross entropy: classes are fixed."""
    across(analysis, op)
    for var in op.outputs('Softmax'):
        analysis.auxiliary(var)


def cumulative(analysis: Analysis, op: OpWrapper) -> None:
    """Running sums over channels pass over zeros."""
    x = input_of(op, 'X')
    layout, rank = analysis.layout(x), len(x.shape())
    given = op.attr('dim') if op.type() == 'cumprod' else op.attr('axis')
    axis = -1 if given is None else int(given)
    if op.attr('flatten'):
        analysis.freeze_axes(op, x, layout, 'all positions are summed in one run')
        return
    along = axis % rank
    if op.type() != 'cumsum' or (along in layout and not layout[along].zero):
        analysis.freeze_axes(op, x, [along], 'runs over channels that are not zero once removed')
    analysis.set(output_of(op), {a: Mark(m.labels, m.zero and a != along) for a, m in layout.items()})


def metric(analysis: Analysis, op: OpWrapper) -> None:
    """Metrics read predictions whose shape is fixed."""
    analysis.freeze_inputs(op, 'a metric reads these positions')


_ACROSS = (
    *('softmax', 'log_softmax', 'arg_max', 'arg_min', 'top_k_v2', 'top_k', 'argsort', 'kthvalue', 'mode', 'median'),
    *('nanmedian', 'gumbel_softmax'),
)

RULES: Mapping[str, Rule] = {
    'reduce_sum': total,
    'frobenius_norm': total,
    'squared_l2_norm': total,
    'norm': normalize,
    'reduce_mean': mean,
    'mean': mean,
    **dict.fromkeys(
        ('reduce_max', 'reduce_min', 'reduce_prod', 'reduce_amax', 'reduce_amin', 'reduce_all', 'reduce_any'), extreme
    ),
    'p_norm': norm,
    'logsumexp': extreme,
    **dict.fromkeys(_ACROSS, across),
    'softmax_with_cross_entropy': loss,
    'cumsum': cumulative,
    'cumprod': cumulative,
    'accuracy': metric,
}
