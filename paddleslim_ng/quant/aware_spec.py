"""From a program that was trained quantized back to its specification and to the float program."""

from __future__ import annotations

from typing import Any

import paddle

from paddleslim_ng.core import GraphWrapper, clone_program, load_array, view_array
from paddleslim_ng.core.cloning import forward_program
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.removal import remove_operators
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.aware_records import Recorded, recorded, skipped_in
from paddleslim_ng.quant.placement import first_output
from paddleslim_ng.quant.quantizers import abs_max_scale
from paddleslim_ng.quant.scale_states import check_updated
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization
from paddleslim_ng.quant.straight_through import quantized_name

__all__ = ['float_program', 'spec_of']


def spec_of(program: Any, scope: Any = None) -> QuantizationSpec:
    """Read the quantization of a program that :func:`paddleslim_ng.quant.quant_aware` made back from it.

    Args:
        program: the training or the evaluation program, or a GraphWrapper.
        scope: weights and scales; Paddle's global scope where None.

    Returns:
        The quantization, of the weights as they are now, with what stays in float and why.

    Raises:
        GraphError: the program is not quantized, or training has never updated a scale; the tensors are named.
        DataError: a weight or a scale that is not finite.
    """
    scope = scope if scope is not None else paddle.static.global_scope()
    graph = GraphWrapper(program)
    found = _existing(graph)
    check_updated(scope, [(item.record.tensor, item.record.count) for item in found if item.record.count is not None])
    foreign = {item.record.tensor for item in found if item.record.bits is None}
    tensors = {item.record.tensor: _tensor(item, scope) for item in found if item.record.bits is not None}
    reads: dict[str, list[str]] = {}
    for item in found:
        for op in item.readers:
            reads.setdefault(first_output(op), []).append(item.record.tensor)
    operators, skipped = {}, skipped_in(graph)
    for output, names in reads.items():
        others = [name for name in names if name in foreign]
        if others:
            skipped[output] = f'its input {others[0]!r} is quantized by a function that no integers stand behind'
        else:
            operators[output] = tuple(names)
    kept = {name for names in operators.values() for name in names}
    return QuantizationSpec({name: tensor for name, tensor in tensors.items() if name in kept}, operators, skipped)


def float_program(program: Any, for_test: bool = True) -> Any:
    """Return the evaluation program without fake quantizers, as it was before.

    Args:
        program: a program that :func:`paddleslim_ng.quant.quant_aware` made, or a GraphWrapper; it stays as it is.
        for_test: False returns the forward part in training mode, on which ``minimize`` may be called.

    Raises:
        GraphError: the program is not quantized.
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    graph = GraphWrapper(clone_program(source, for_test=True) if for_test else forward_program(source))
    here = Insertion(graph)
    for item in _existing(graph):
        here.redirect(item.result, item.source, item.readers)
    bare = GraphWrapper(graph.program)
    remove_operators(bare, [op for op in bare.ops() if quantized_name(op) is not None])
    return graph.program


def _existing(graph: GraphWrapper) -> list[Recorded]:
    found = recorded(graph)
    if not found:
        raise GraphError('the program is not quantized: give one that quant_aware returned')
    return found


def _tensor(item: Recorded, scope: Any) -> TensorQuantization:
    record = item.record
    assert record.bits is not None
    try:
        if record.scale is not None:
            scale = load_array(scope, record.scale)
        else:
            scale = abs_max_scale(view_array(scope, record.tensor), record.bits, record.axis)
        return TensorQuantization(record.tensor, record.bits, scale, record.axis, kind=record.kind)
    except (ConfigError, DataError) as error:
        raise DataError(f'the trained quantization of {record.tensor!r} is of no use: {error}') from error
