"""New parameters in a program of either IR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import GraphError

__all__ = ['add_parameter']


def add_parameter(
    graph: GraphWrapper,
    name: str,
    shape: Sequence[int],
    dtype: str,
    *,
    trainable: bool = False,
    regularizer: Any = None,
) -> VarWrapper:
    """Add a parameter, such as the integers of quantized weights or a scale that is learned. The scope is left alone.

    Args:
        graph: wrapped program.
        name: unused name.
        shape: static shape.
        dtype: element type in numpy's spelling.
        trainable: an optimizer that is called afterwards trains it, as all others.
        regularizer: Paddle's, for this parameter; it takes the place of the optimizer's own.

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
        raw = _add_legacy(graph, name, sizes, dtype, trainable, regularizer)
    else:
        raw = _add_pir(graph, name, sizes, dtype, trainable, regularizer)
    var = VarWrapper(graph, raw, name)
    graph._vars.append(var)
    graph._names()[name] = var
    return var


def _add_legacy(
    graph: GraphWrapper, name: str, sizes: list[int], dtype: str, trainable: bool, regularizer: Any
) -> object:
    block, kind = graph.program.global_block(), paddle_compat.legacy_dtype(dtype)
    if not trainable and not any(hasattr(var.raw, 'trainable') for var in graph.vars()):
        # A loaded model has plain persistable variables; beside a Paddle parameter they would not be taken for some.
        return block.create_var(name=name, shape=sizes, dtype=kind, persistable=True, stop_gradient=True)
    return block.create_parameter(name=name, shape=sizes, dtype=kind, trainable=trainable, regularizer=regularizer)


def _add_pir(graph: GraphWrapper, name: str, sizes: list[int], dtype: str, trainable: bool, regularizer: Any) -> object:
    with matching_ir(graph.program), paddle.static.program_guard(graph.program, paddle.static.Program()):
        attr = paddle.ParamAttr(name=name, initializer=paddle.nn.initializer.Constant(0), trainable=trainable)
        attr.regularizer = regularizer
        return paddle.static.create_parameter(sizes, dtype, attr=attr)
