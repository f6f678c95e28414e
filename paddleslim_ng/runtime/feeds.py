"""The data inputs of a program, and arrays that may be fed to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper
from paddleslim_ng.errors import ConfigError, GraphError

__all__ = ['data_inputs', 'synthesize_feeds']

# Operators that hand integer values on, so that the bound on their output bounds their input.
_HANDS_ON = frozenset(
    {
        'assign',
        'cast',
        'concat',
        'expand_v2',
        'flatten_contiguous_range',
        'gather',
        'reshape2',
        'slice',
        'split',
        'squeeze2',
        'tile',
        'transpose2',
        'unsqueeze2',
    }
)
_CLASSES_OF = {
    'accuracy': ('Out', -1),
    'lookup_table': ('W', 0),
    'lookup_table_v2': ('W', 0),
    'nll_loss': ('X', 1),
    'softmax_with_cross_entropy': ('Logits', -1),
}
_DEFAULT_CLASSES = 2
# They carry data between a loaded program and the holders of its executor.
_FERRIES = frozenset({'feed', 'fetch'})


def data_inputs(program: Any) -> list[VarWrapper]:
    """Return the variables that a run of the program's forward part has to be fed, in program order.

    Args:
        program: a program of either IR, or a GraphWrapper.
    """
    graph = program if isinstance(program, GraphWrapper) else GraphWrapper(program)
    return [var for var in graph.vars() if _is_data(var)]


def _is_data(var: VarWrapper) -> bool:
    if var.persistable() or var.is_parameter() or any(op.type() != 'feed' for op in var.inputs()):
        return False
    return any(not (op.is_bwd_op() or op.is_opt_op() or op.type() in _FERRIES) for op in var.outputs())


def synthesize_feeds(
    program: Any,
    names: Iterable[str] | None = None,
    *,
    batch: int = 2,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    dynamic: int = 64,
) -> dict[str, npt.NDArray[Any]]:
    """Make up arrays for the data inputs of a program.

    Floating-point inputs are standard normal; integer inputs are uniform below the number of classes or rows that their
    readers allow (2 where nothing tells); booleans are fair coins.

    Args:
        program: a program of either IR, or a GraphWrapper.
        names: inputs wanted; all data inputs where None.
        batch: size of leading axes that the program leaves open.
        seed: of the generator.
        shapes: whole shapes of some inputs, -1 or None meaning ``batch`` in front and ``dynamic`` elsewhere.
        dynamic: size of other open axes.

    Returns:
        ``{name: array}``, in program order.

    Raises:
        GraphError: the program has no data input of a wanted name.
        ConfigError: a shape contradicts the rank that the program gives the input.
    """
    inputs = {var.name(): var for var in data_inputs(program)}
    wanted = list(inputs) if names is None else list(names)
    given = dict(shapes or {})
    for name in (*wanted, *given):
        if name not in inputs:
            raise GraphError(f'the program has no data input {name!r}; it has {sorted(inputs)}')
    generator = np.random.default_rng(seed)
    feeds = {}
    for name in wanted:
        var = inputs[name]
        shape = list(given.get(name, var.shape()))
        if len(shape) != len(var.shape()):
            raise ConfigError(f'shape {shape} for {name!r} has not the rank of {list(var.shape())} in the program')
        sizes = [
            int(size) if size is not None and size >= 0 else (batch if axis == 0 else dynamic)
            for axis, size in enumerate(shape)
        ]
        feeds[name] = _fill(var, sizes, generator)
    return feeds


def _fill(var: VarWrapper, shape: Sequence[int], generator: np.random.Generator) -> npt.NDArray[Any]:
    dtype = np.dtype({'bfloat16': 'uint16'}.get(var.dtype(), var.dtype()))
    if dtype.kind == 'f':
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind == 'b':
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.integers(0, _classes(var), shape).astype(dtype)


def _classes(var: VarWrapper) -> int:
    """Return the smallest number of classes or rows that the readers of integers allow."""
    bounds: list[int] = []
    seen: set[int] = set()
    queue = [var]
    while queue:
        current = queue.pop()
        for op in current.outputs():
            if op.idx() in seen:
                continue
            seen.add(op.idx())
            if op.type() in _HANDS_ON:
                queue.extend(op.all_outputs())
            elif op.type() in _CLASSES_OF:
                slot, axis = _CLASSES_OF[op.type()]
                bounds.extend(
                    table.shape()[axis] for table in op.inputs(slot) if table is not current and table.shape()
                )
            elif op.type() == 'one_hot_v2' and isinstance(op.attr('depth'), int):
                bounds.append(int(op.attr('depth')))
    known = [bound for bound in bounds if bound > 0]
    return min(known) if known else _DEFAULT_CLASSES
