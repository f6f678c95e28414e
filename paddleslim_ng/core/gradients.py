"""Where a program's parameters get their gradients and their updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.op_table import OPTIMIZER_OPS

__all__ = ['gradient_of', 'last_writer', 'master_of', 'updates_of', 'writers_of']


def updates_of(graph: GraphWrapper, parameter: VarWrapper) -> list[OpWrapper]:
    """Return the optimizer's updates of a parameter in the main block, in program order."""
    return [op for op in parameter._consumers if op.type() in OPTIMIZER_OPS and parameter in op.inputs('Param')]


def master_of(graph: GraphWrapper, parameter: VarWrapper) -> VarWrapper | None:
    """Return the single-precision copy that the optimizer keeps of a half-precision parameter, or None."""
    for op in updates_of(graph, parameter):
        masters = op.inputs('MasterParam')
        if masters:
            return masters[op.inputs('Param').index(parameter)]
    return None


def gradient_of(graph: GraphWrapper, parameter: VarWrapper) -> VarWrapper | None:
    """Return the gradient of a parameter as the backward pass leaves it: summed, and before clipping and decay.

    Where something has taken its place (a masked or reduced gradient), that is returned. Where the backward pass does
    not tell it, what the optimizer reads is.

    Args:
        graph: a wrapped program, wrapped after the last insertion.
        parameter: one of its parameters.

    Returns:
        The gradient, or None where the program has none for this parameter.
    """
    found = _legacy_gradient(graph, parameter) if graph.ir == 'legacy' else _pir_gradient(graph, parameter)
    if found is not None:
        return found
    for op in updates_of(graph, parameter):
        place = op.inputs('Param').index(parameter)
        grads = op.inputs('Grad')
        if place < len(grads):
            return grads[place]
    return None


def _legacy_gradient(graph: GraphWrapper, parameter: VarWrapper) -> VarWrapper | None:
    name = parameter.name() + '@GRAD'
    found = graph.var(name) if graph.has_var(name) else None
    return found if found is not None and any(op.is_bwd_op() for op in found._producers) else None


def _pir_gradient(graph: GraphWrapper, parameter: VarWrapper) -> VarWrapper | None:
    parts = [
        grad
        for op in parameter._consumers
        if op.type().endswith('_grad')
        for slot, group in op._ins.items()
        for place, var in enumerate(group)
        if var is parameter
        for grad in op._outs.get(slot + '@GRAD', [])[place : place + 1]
        if grad.shape() == parameter.shape()
    ]
    if len(parts) > 1:
        sums = [
            op
            for op in parts[0]._consumers
            if op.type() in ('sum', 'elementwise_add') and all(part in op.all_inputs() for part in parts)
        ]
        parts = sums[0].all_outputs() if len(sums) == 1 else []
    if len(parts) != 1:
        return None
    raw = parts[0].raw
    return graph.var(naming.current_name(raw)) if naming.is_superseded(raw) else parts[0]


def last_writer(graph: GraphWrapper, var: VarWrapper) -> OpWrapper | None:
    """Return the last operator of the main block that writes a variable, within its control flow or itself."""
    found = None
    for op in writers_of(graph, var):
        found = op
    return found


def writers_of(graph: GraphWrapper, var: VarWrapper) -> Iterator[OpWrapper]:
    """Yield the operators of the main block that write a variable, control flow included, in program order."""
    if graph.ir == 'legacy':
        candidates: list[OpWrapper] = list(var._producers)
        candidates += [op for op in graph._ops if op not in candidates and op.raw.has_attr('sub_block')]
        for op in sorted(candidates, key=lambda op: op._idx):
            if op in var._producers or _block_writes(graph.program, op.raw, var.name()):
                yield op
        return
    for op in sorted(var._consumers, key=lambda op: op._idx):
        if _pir_writes(op.raw, var.raw):
            yield op


def _block_writes(program: Any, op: Any, name: str) -> bool:
    block = program.block(op._block_attr_id('sub_block'))
    return any(
        name in inner.desc.output_arg_names() or (inner.has_attr('sub_block') and _block_writes(program, inner, name))
        for inner in block.ops
    )


def _pir_writes(op: Any, value: Any) -> bool:
    if op.num_regions():
        return any(_pir_writes(inner, value) for block in op.blocks() for inner in block.ops)
    for index in paddle_compat.inplace_operands(op):
        source = op.operand_source(index)
        if not source.initialized():
            continue
        maker = source.get_defining_op()
        combined = maker is not None and maker.name() == 'builtin.combine'
        if any(member.is_same(value) for member in (maker.operands_source() if combined else (source,))):
            return True
    return False
