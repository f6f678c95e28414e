"""Multiply-accumulates of a program, as one number or layer by layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, overload

from paddleslim_ng.analysis.op_costs import COUNTED, is_known, other_work, product_work, sub_block_types
from paddleslim_ng.analysis.shapes import ConcreteShapes, forward_ops, forward_ops_of
from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.errors import GraphError

__all__ = ['LayerCost', 'flops', 'layer_costs']

_LOG = logging.getLogger(__name__)
# Hand a parameter on to the operator that uses it.
_CARRIERS: Final = frozenset(
    {
        'assign',
        'cast',
        'coalesce_tensor',
        'dequantize_linear',
        'fake_channel_wise_quantize_dequantize_abs_max',
        'fake_quantize_dequantize_abs_max',
        'flatten_contiguous_range',
        'quantize_linear',
        'reshape2',
        'squeeze2',
        'transpose2',
        'unsqueeze2',
    }
)
InputShapes = Mapping[str, Sequence['int | None']]


@dataclass(frozen=True)
class LayerCost:
    """Cost of one operator for a single sample.

    Attributes:
        name: its first parameter, or its first output where it reads none; the same before and after pruning.
        type: canonical operator type.
        output_shape: shape of the first output for a batch of one (for a fixed batch: as it stands).
        macs: multiply-accumulates.
        params: elements of the parameters it reads.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    macs: int
    params: int


@overload
def flops(
    program: Any,
    only_conv: bool = ...,
    detail: Literal[False] = ...,
    input_shapes: InputShapes | None = ...,
    *,
    part: str = ...,
) -> int: ...


@overload
def flops(
    program: Any, only_conv: bool, detail: Literal[True], input_shapes: InputShapes | None = ..., *, part: str = ...
) -> tuple[int, dict[str, int]]: ...


@overload
def flops(
    program: Any,
    only_conv: bool = ...,
    *,
    detail: Literal[True],
    input_shapes: InputShapes | None = ...,
    part: str = ...,
) -> tuple[int, dict[str, int]]: ...


def flops(
    program: Any,
    only_conv: bool = True,
    detail: bool = False,
    input_shapes: InputShapes | None = None,
    *,
    part: str = 'student',
) -> int | tuple[int, dict[str, int]]:
    """Count the multiply-accumulates of a program's forward pass on one sample.

    The convention, in full:

    * A multiplication with the addition that follows is one. Biases are not counted with the product they follow.
    * The batch, that is the leading axis of the data inputs, counts as 1, whether open or fixed. Where the data inputs
      have different fixed leading sizes there is no common batch, and sizes count as they are.
    * Of training programs only forward operators count.
    * ``only_conv=True`` counts convolutions (grouped, depthwise, transposed, deformable, of one to three dimensions)
      and matrix products (``mul``, ``matmul`` of any ranks, ``bmm``, ``einsum`` of two operands, attention, the
      matrices of recurrent layers). A transposed convolution costs its input positions times its filter. Embeddings
      cost nothing.
    * ``only_conv=False`` adds one operation for every element that an activation, a normalization or an element-wise
      operator writes, and for every element that a reduction or a pool over the whole map reads; for other pools window
      size times results; for interpolation the number of taps times results. Moving data is free.
    * An operator that hides products (a fused block, a loop) is an error, never 0. An unknown operator that gives no
      sign of containing any counts 0 and is named in a warning of the ``paddleslim_ng`` logger, as is a loop or branch
      with work that only ``only_conv=False`` would count.

    Args:
        program: a program of either IR, or a GraphWrapper.
        only_conv: count convolutions and matrix products only.
        detail: return the table too.
        input_shapes: ``{data input: whole shape}`` where the program leaves more than the batch open, or to count for
            another size; the leading size may be None. The program is then run once on zeros.
        part: of a program that a teacher has been merged into: ``'student'``, ``'teachers'``, the distillation
            ``'losses'`` with their adapters, or ``'all'``.

    Returns:
        The number; with ``detail`` also ``{parameter: number}``, in program order, where an operator without parameter
        appears under its output and one parameter shared by several operators adds up.

    Raises:
        GraphError: sizes other than the batch are open and ``input_shapes`` does not give them.
        UnsupportedOpError: an operator hides products.
        ConfigError: an unknown part.

    Example:
        >>> exe, train, val, inputs, outputs = slim.models.image_classification('MobileNet', [1, 28, 28], 10)
        >>> slim.analysis.flops(train)
        10896832
    """
    rows = layer_costs(program, only_conv, input_shapes, part=part)
    total = sum(row.macs for row in rows)
    if not detail:
        return total
    table: dict[str, int] = {}
    for row in rows:
        if row.macs:
            table[row.name] = table.get(row.name, 0) + row.macs
    return total, table


def layer_costs(
    program: Any, only_conv: bool = True, input_shapes: InputShapes | None = None, *, part: str = 'student'
) -> list[LayerCost]:
    """Return the forward operators that cost something or read parameters, in program order.

    Arguments, convention and errors are those of :func:`flops`.
    """
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    operators = forward_ops_of(graph, part)
    shapes = ConcreteShapes(graph, input_shapes)
    of_data = _depends_on_data(forward_ops(graph)) if shapes.batch > 1 else set()
    rows, unknown = [], []
    for op in operators:
        macs = product_work(op, shapes)
        if not macs and not only_conv:
            macs = other_work(op, shapes)
        if not is_known(op) or not (only_conv or COUNTED.isdisjoint(sub_block_types(op) or ())):
            unknown.append(op.type())
        if macs and op.idx() in of_data:
            macs = _per_sample(op, macs, shapes.batch)
        parameters = [] if op.type() in _CARRIERS else _parameters_of(op)
        if macs or parameters:
            rows.append(_row(op, parameters, macs, shapes))
    if unknown:
        _LOG.warning('flops counts 0 for operators it does not know: %s', ', '.join(sorted(set(unknown))))
    return rows


def _parameters_of(op: OpWrapper) -> list[VarWrapper]:
    found: dict[str, VarWrapper] = {}
    queue = op.all_inputs()
    while queue:
        var = queue.pop(0)
        if var.persistable():
            found[var.name()] = var
        else:
            queue.extend(v for source in var.inputs() if source.type() in _CARRIERS for v in source.all_inputs())
    return [var for var in found.values() if var.shape()]


def _row(op: OpWrapper, parameters: list[VarWrapper], macs: int, shapes: ConcreteShapes) -> LayerCost:
    outputs = op.outputs('Output') or op.outputs('Y') or op.outputs('Out') or op.all_outputs()
    matrices = [var for var in parameters if len(var.shape()) > 1]
    named = (matrices or parameters or outputs)[0]
    shape = shapes(outputs[0]) if macs and outputs else (outputs[0].shape() if outputs else ())
    return LayerCost(named.name(), op.type(), shape, macs, sum(math.prod(var.shape()) for var in parameters))


def _depends_on_data(operators: Sequence[OpWrapper]) -> set[int]:
    """Return the positions of operators that read a data input, directly or not."""
    found: set[int] = set()
    for op in operators:
        sources = [var for var in op.all_inputs() if not var.persistable()]
        if any(
            not var.inputs() or any(p.type() == 'feed' or p.idx() in found for p in var.inputs()) for var in sources
        ):
            found.add(op.idx())
    return found


def _per_sample(op: OpWrapper, macs: int, batch: int) -> int:
    if macs % batch:
        raise GraphError(
            f'the cost {macs} of {op.type()!r} is not a multiple of the fixed batch {batch}, so there is no cost per '
            'sample: leave the leading axis of the data inputs open (None), or fix it at 1'
        )
    return macs // batch
