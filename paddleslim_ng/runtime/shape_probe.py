"""Shapes found by running a program once on zeros, where static shapes leave them open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, store_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import GraphError
from paddleslim_ng.runtime.feeds import data_inputs

__all__ = ['probe_shapes']

_NOT_TENSORS = frozenset({'feed', 'fetch'})


def probe_shapes(
    program: Any, input_shapes: Mapping[str, Sequence[int]], names: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Run the forward part of a program once, on zeros and with zeros for parameters, and look at what comes out.

    Program and global scope are left alone. Costs one forward pass on the CPU and the memory of the parameters.

    Args:
        program: a program of either IR, or a GraphWrapper.
        input_shapes: the whole shape of each data input.
        names: variables whose shapes are wanted.

    Returns:
        ``{name: shape}``.

    Raises:
        GraphError: an input has no or a dynamic shape, or Paddle cannot run the program with these.
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    copy = clone_program(source, for_test=True)
    graph = GraphWrapper(copy)
    feed = {}
    for var in data_inputs(graph):
        shape = tuple(int(size) for size in input_shapes.get(var.name(), var.shape()))
        if any(size < 0 for size in shape):
            raise GraphError(f'give the whole shape of the data input {var.name()!r}: {list(shape)} has an open size')
        feed[var.name()] = np.zeros(shape, _numpy_dtype(var.dtype()))
        var.set_shape(shape)
    scope = paddle.static.Scope()
    for var in graph.vars():
        # Paddle's PIR executor wants every declared parameter, read or not.
        if var.persistable() and (var.outputs() or var.is_parameter()) and var.name() not in _NOT_TENSORS:
            store_array(scope, var.name(), np.zeros(var.shape(), _numpy_dtype(var.dtype())))
    wanted = list(dict.fromkeys(names))
    return dict(zip(wanted, _run(copy, feed, wanted, scope)))


def _run(program: Any, feed: Mapping[str, Any], names: Sequence[str], scope: Any) -> list[tuple[int, ...]]:
    try:
        with matching_ir(program):
            found = Executor().run(program, feed=feed, fetch_list=names, scope=scope, return_numpy=False)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(array.shape) for name, array in feed.items()}
        raise GraphError(f'Paddle cannot run the program on inputs of shape {shapes}: {_last_line(error)}') from error
    return [tuple(int(size) for size in (t.shape() if callable(t.shape) else t.shape)) for t in found]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summary = next((line for line in lines if 'Error' in line or 'should' in line), '')
    return summary or (lines[-1] if lines else type(error).__name__)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype({'bfloat16': 'uint16'}.get(name, name))
