"""Carrying a decision out in a program: shapes and attributes."""

from __future__ import annotations

from collections.abc import Iterator

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.core.packed_gradients import repack_gradients
from paddleslim_ng.prune.channels import Analysis, Cut
from paddleslim_ng.prune.footprint import cut_shape, kept_positions
from paddleslim_ng.prune.optimizer_state import Followers, offset

__all__ = ['cut_graph']


def cut_graph(analysis: Analysis, cut: Cut, follow: Followers) -> None:
    """Bring the program's shapes and attributes to the decision."""
    for var in kept_positions(analysis, cut):
        shape = cut_shape(var, analysis.parameters[var], cut)
        for one in (var, *follow.get(var, ())):
            one.set_shape((*one.shape()[: offset(one, var)], *shape))
    for var, layout in analysis.layouts.items():
        shape = cut_shape(var, layout, cut)
        if shape != var.shape():
            var.set_shape(shape)
    # Operators that edits insert infer their types from these shapes.
    analysis.apply_edits(cut)
    if analysis.graph.ir == 'legacy':
        repack_gradients(analysis.graph)
        analysis.graph.infer_shape()
        return
    for gradient, var in _gradients(analysis):
        if gradient.shape() != var.shape() and len(gradient.shape()) == len(var.shape()):
            gradient.set_shape(var.shape())
    repack_gradients(analysis.graph)


def _gradients(analysis: Analysis) -> Iterator[tuple[VarWrapper, VarWrapper]]:
    """Pair the gradients of a PIR training program with the forward values whose shape they have.

    A gradient operator's ``X@GRAD`` has the shape of its forward operator's ``X``. The forward operator is found
    through the gradient that comes in; operators that add up or rescale gradients pass the pairing on.
    """
    forward: dict[VarWrapper, VarWrapper] = {}
    for op in analysis.graph.ops():
        if not op.is_bwd_op():
            continue
        if op.type() == 'fill_any_like':
            forward.update((out, op.inputs('X')[0]) for out in op.outputs('Out') if op.inputs('X'))
            continue
        known = [forward[var] for var in op.all_inputs() if var in forward]
        for slot in op.output_slots():
            outs = op.outputs(slot)
            for out, var in zip(outs, _forward_inputs(op, slot, known)):
                forward[out] = var
                yield out, var


def _forward_inputs(op: OpWrapper, slot: str, known: list[VarWrapper]) -> list[VarWrapper]:
    own = op.inputs(slot[:-5]) if slot.endswith('@GRAD') else []
    if own:
        return own
    if not known:
        return []
    if op.type() in ('sum', 'scale', 'cast', 'elementwise_add', 'assign'):
        return known[:1]
    producers = known[0].inputs()
    if not producers:
        return []
    if op.type() == 'concat' and producers[0].type() == 'split':
        return producers[0].inputs('X')
    return producers[0].inputs(slot[:-5]) if slot.endswith('@GRAD') else []
