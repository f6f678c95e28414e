"""What the last layers of a network compute: the tensors that networks are compared by where nobody names others."""

from __future__ import annotations

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.teachers import distillation_of, teacher_of
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.targets import TARGETS

__all__ = ['last_layers']


def last_layers(graph: GraphWrapper, teacher: str | None = None) -> list[str]:
    """Return the results of the layers with weights that no other such layer comes after, with their bias.

    For a classifier that is one tensor, the logits.

    Args:
        graph: a wrapped program, with or without backward pass.
        teacher: prefix of the merged teacher to look at; the network itself where None.

    Raises:
        GraphError: there is no layer with weights.
    """
    ops = [op for op in graph.ops() if _belongs(op, teacher)]
    members = {id(op) for op in ops}
    ahead: set[int] = set()
    last: list[OpWrapper] = []
    for op in reversed(ops):
        readers = [reader for var in op.all_outputs() for reader in var.outputs() if id(reader) in members]
        reached = any(id(reader) in ahead or _has_weights(reader) for reader in readers if reader is not op)
        if reached:
            ahead.add(id(op))
        elif _has_weights(op):
            last.append(op)
    if not last:
        whose = 'the network' if teacher is None else f'the teacher {teacher!r}'
        raise GraphError(f'{whose} has no convolution or matrix product with weights: name the tensors to compare')
    return [_with_bias(op, members).name() for op in reversed(last)]


def _belongs(op: OpWrapper, teacher: str | None) -> bool:
    inner = not (op.is_bwd_op() or op.is_opt_op() or distillation_of(op) is not None)
    return inner and teacher_of(op) == teacher


def _has_weights(op: OpWrapper) -> bool:
    row = TARGETS.get(op.type())
    if row is None or row.weight is None:
        return False
    return any(var.is_parameter() or var.persistable() for var in op.inputs(row.weight))


def _with_bias(op: OpWrapper, members: set[int]) -> VarWrapper:
    """Return the result of a layer, after the addition of its bias where there is one."""
    (result,) = [var for var in op.all_outputs() if var.shape()][:1]
    readers = [reader for reader in result.outputs() if id(reader) in members]
    if len(readers) == 1 and readers[0].type() == 'elementwise_add':
        others = [var for var in readers[0].all_inputs() if var is not result]
        if others and all(var.is_parameter() or var.persistable() for var in others):
            return readers[0].all_outputs()[0]
    return result
