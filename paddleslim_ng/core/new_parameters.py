"""New parameters in a program of either IR."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import GraphError

__all__ = ['add_parameter']


def add_parameter(graph: GraphWrapper, name: str, shape: Sequence[int], dtype: str) -> VarWrapper:
    """Add a parameter that is not trained, such as the integers of quantized weights. The scope is left alone.

    Args:
        graph: wrapped program.
        name: unused name.
        shape: static shape.
        dtype: element type in numpy's spelling.

    Returns:
        Its variable, which the wrapped graph knows from now on.

    Raises:
        GraphError: the name is taken, or the shape is not static.
    """
    sizes = [int(n) for n in shape]
    if graph.has_var(name):
        raise GraphError(f'cannot add the parameter {name!r}: the program already has a variable of that name')
    if any(n < 1 for n in sizes):
        raise GraphError(f'cannot add the parameter {name!r} of shape {sizes}: every size must be known and positive')
    if graph.ir == 'legacy':
        kind = paddle_compat.legacy_dtype(dtype)
        raw = graph.program.global_block().create_parameter(name=name, shape=sizes, dtype=kind, trainable=False)
    else:
        raw = _add_pir(graph, name, sizes, dtype)
    var = VarWrapper(graph, raw, name)
    graph._vars.append(var)
    graph._names()[name] = var
    return var


def _add_pir(graph: GraphWrapper, name: str, sizes: list[int], dtype: str) -> object:
    with matching_ir(graph.program), paddle.static.program_guard(graph.program, paddle.static.Program()):
        attr = paddle.ParamAttr(name=name, initializer=paddle.nn.initializer.Constant(0), trainable=False)
        return paddle.static.create_parameter(sizes, dtype, attr=attr)
