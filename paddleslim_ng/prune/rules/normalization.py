"""Normalization layers."""

from __future__ import annotations

from collections.abc import Mapping

from paddleslim_ng.core import OpWrapper
from paddleslim_ng.prune.channels import Analysis, LabelArray, Mark, Rule
from paddleslim_ng.prune.rules.common import (
    channel_axis,
    follow_vector,
    input_of,
    output_of,
    set_with_gradient,
    tie_runs,
    without_zero,
)

__all__ = ['RULES']

_VECTORS = ('Scale', 'Bias', 'Mean', 'Variance')
_STATISTICS = ('MeanOut', 'VarianceOut', 'SavedMean', 'SavedVariance')


def batch_norm(analysis: Analysis, op: OpWrapper) -> None:
    """The four vectors follow the channels; the output is zero where scale and bias are."""
    x, y = input_of(op, 'X'), output_of(op, 'Y')
    axis = channel_axis(op, len(x.shape()))
    layout = analysis.layout(x)
    analysis.freeze_axes(
        op, x, [a for a in layout if a != axis], 'statistics are taken over an axis that carries channels'
    )
    for var in (*op.outputs('ReserveSpace'), *(v for slot in _STATISTICS for v in op.outputs(slot))):
        analysis.auxiliary(var)
    mark = layout.get(axis)
    if mark is None:
        _keep_vectors(analysis, op, _VECTORS)
        return
    _adopt_vectors(analysis, op, _VECTORS, mark.labels)
    vector = {0: Mark(mark.labels, False)}
    for slot in _STATISTICS:
        for var in op.outputs(slot):
            if not var.is_parameter():
                analysis.set(var, vector)
    analysis.set(y, {axis: Mark(mark.labels, True)} if not mark.zero or len(layout) > 1 else layout)


def _adopt_vectors(analysis: Analysis, op: OpWrapper, slots: tuple[str, ...], labels: LabelArray) -> int:
    """Let the vectors in ``slots`` follow ``labels``; return how many there are."""
    count = 0
    for slot in slots:
        for var in op.inputs(slot):
            count += 1
            follow_vector(analysis, op, var, labels)
    return count


def _keep_vectors(analysis: Analysis, op: OpWrapper, slots: tuple[str, ...]) -> None:
    """Freeze vectors that scale an input of fixed size: another layer might share them."""
    for slot in slots:
        for var in op.inputs(slot):
            if var.is_parameter():
                labels = analysis.parameter_axis(var, 0)
                analysis.freeze(labels, op, 'scales channels whose number is fixed', var, 0)


def instance_norm(analysis: Analysis, op: OpWrapper) -> None:
    """Every channel is normalized by itself; scale and bias follow."""
    x, y = input_of(op, 'X'), output_of(op, 'Y')
    layout = analysis.layout(x)
    analysis.freeze_axes(op, x, [a for a in layout if a > 1], 'statistics are taken over an axis that carries channels')
    for slot in ('SavedMean', 'SavedVariance'):
        for var in op.outputs(slot):
            analysis.auxiliary(var)
    mark = layout.get(1)
    if mark is None:
        _keep_vectors(analysis, op, ('Scale', 'Bias'))
        return
    vectors = _adopt_vectors(analysis, op, ('Scale', 'Bias'), mark.labels)
    analysis.set(y, {1: Mark(mark.labels, mark.zero or vectors == 2)})


def group_norm(analysis: Analysis, op: OpWrapper) -> None:
    """Whole groups leave, since the statistics of a group depend on all of its channels."""
    x, y = input_of(op, 'X'), output_of(op, 'Y')
    axis = channel_axis(op, len(x.shape()))
    layout = analysis.layout(x)
    analysis.freeze_axes(
        op, x, [a for a in layout if a != axis], 'statistics are taken over an axis that carries channels'
    )
    for slot in ('Mean', 'Variance'):
        for var in op.outputs(slot):
            analysis.auxiliary(var)
    mark = layout.get(axis)
    if mark is None:
        _keep_vectors(analysis, op, ('Scale', 'Bias'))
        return
    labels, groups = mark.labels, int(op.attr('groups'))
    per_group = tie_runs(analysis, labels, len(labels) // groups)
    vectors = _adopt_vectors(analysis, op, ('Scale', 'Bias'), labels)
    analysis.on_cut(op, [per_group], lambda cut: set_with_gradient(analysis, op, 'groups', cut.count(per_group)))
    for slot in ('Mean', 'Variance'):
        for var in op.outputs(slot):
            analysis.set(var, {1: Mark(per_group, False)})
    analysis.set(y, {axis: Mark(labels, mark.zero or vectors == 2)})


def layer_norm(analysis: Analysis, op: OpWrapper) -> None:
    """Axes that are normalized over stay whole: mean and variance count every position."""
    x, y = input_of(op, 'X'), output_of(op, 'Y')
    begin = int(op.attr('begin_norm_axis') or 1)
    layout = analysis.layout(x)
    for slot in ('Mean', 'Variance'):
        for var in op.outputs(slot):
            analysis.auxiliary(var)
    analysis.freeze_axes(
        op, x, [a for a in layout if a >= begin], 'mean and variance are taken across channels, removed ones included'
    )
    analysis.set(y, without_zero(layout))


def rms_norm(analysis: Analysis, op: OpWrapper) -> None:
    """The fused form divides by the number of channels inside; composed of a mean and a product it can be pruned."""
    x, y = input_of(op, 'X'), output_of(op, 'Y')
    layout, rank = analysis.layout(x), len(x.shape())
    begin = op.attr('begin_norm_axis')
    normalized = len(op.attr('normalized_shape') or ()) or 1
    first = int(begin) if begin is not None else rank - normalized
    for var in op.outputs('InvVar'):
        analysis.auxiliary(var)
    reason = 'the fused kernel divides by the number of channels; compose it of mean, rsqrt and multiply to prune here'
    analysis.freeze_axes(op, x, [a for a in layout if a >= first], reason)
    analysis.set(y, {axis: mark for axis, mark in layout.items() if axis < first})


RULES: Mapping[str, Rule] = {
    'batch_norm': batch_norm,
    'sync_batch_norm': batch_norm,
    'instance_norm': instance_norm,
    'group_norm': group_norm,
    'layer_norm': layer_norm,
    'rms_norm': rms_norm,
}
