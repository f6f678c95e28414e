"""Masks: in the program, where they act after every update, and in the scope, where their values live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, has_array, store_array, view_array
from paddleslim_ng.core.gradients import gradient_of, last_writer, master_of
from paddleslim_ng.core.insertion import Insertion, add_state
from paddleslim_ng.errors import GraphError
from paddleslim_ng.sparse.scores import Mask, as_floats
from paddleslim_ng.sparse.selection import CHUNK

__all__ = [
    'MASK_DTYPE',
    'has_revived',
    'mask_name',
    'mask_program',
    'masked_already',
    'read_mask',
    'write_mask',
    'zero_out',
]

MASK_DTYPE = 'uint8'


def mask_name(parameter: str) -> str:
    """Return the name of a parameter's mask."""
    return f'{parameter}_mask'


def masked_already(graph: GraphWrapper, parameter: VarWrapper) -> bool:
    """Tell whether a program multiplies a parameter by its mask.

    Raises:
        GraphError: the mask's name belongs to something else.
    """
    name = mask_name(parameter.name())
    if not graph.has_var(name):
        return False
    found = graph.var(name)
    if not found.persistable() or found.shape() != parameter.shape() or found.dtype() != MASK_DTYPE:
        raise GraphError(f'the program has a variable {name!r} that is no mask of {parameter.name()!r}; rename it')
    return bool(found.outputs())


def mask_program(program: Any, parameters: Sequence[Any], masks: Sequence[str]) -> list[str]:
    """Multiply gradients by masks, and parameters behind their updates, so that zeros stay exact at every moment.

    A mask is a persistable tensor of one byte per weight. It meets the gradient as the backward pass leaves it, before
    clipping, decay and communication; and the parameter, with its single-precision copy, behind whatever writes it
    last.

    Args:
        program: a program of either IR; edited in place.
        parameters: names, Variables or Values.
        masks: names of their masks, which become part of the program where they are not yet.

    Returns:
        Names of the parameters that the program updates, and now masks.

    Raises:
        GraphError: a parameter does not exist, or a mask's name is taken; nothing is changed then.
    """
    graph = GraphWrapper(program)
    plans = []
    for item, name in zip(parameters, masks):
        parameter = graph.var(item)
        writer = last_writer(graph, parameter)
        if writer is not None:
            plans.append((parameter, name, writer, _gradient_place(graph, parameter)))
    for parameter, name, writer, place in plans:
        mask = graph.var(name) if graph.has_var(name) else add_state(graph, name, parameter.shape(), MASK_DTYPE)
        if place is not None:
            _multiply(Insertion(graph, after=place[1], role='backward'), place[0], mask)
        behind = Insertion(graph, after=writer, role='optimizer')
        for target in (parameter, master_of(graph, parameter)):
            if target is not None:
                _multiply(behind, target, mask)
    return [parameter.name() for parameter, *_ in plans]


def _gradient_place(graph: GraphWrapper, parameter: VarWrapper) -> tuple[VarWrapper, OpWrapper] | None:
    """Return a parameter's gradient and the operator behind which it is masked; None where it is not dense."""
    gradient = gradient_of(graph, parameter)
    if gradient is None or gradient.shape() != parameter.shape() or not _is_dense(gradient):
        return None
    makers = gradient.inputs()
    backward = [op for op in makers if op.is_bwd_op()]
    return (gradient, (backward or makers)[-1]) if makers else None


def _is_dense(var: VarWrapper) -> bool:
    if var._graph.ir == 'pir':
        return bool(var.raw.is_dense_tensor_type())
    return 'SELECTED_ROWS' not in str(var.raw.type)


def _multiply(here: Insertion, target: VarWrapper, mask: VarWrapper) -> None:
    factor = here.op('cast', {'X': mask}, {'out_dtype': target.dtype()})
    here.op('elementwise_mul', {'X': target, 'Y': factor}, into=target)


def read_mask(scope: Any, parameter: str) -> Mask:
    """Return a view of a parameter's mask.

    Raises:
        GraphError: the scope has none.
    """
    found: Mask = view_array(scope, mask_name(parameter))
    return found


def write_mask(scope: Any, parameter: str, keep: npt.NDArray[Any], place: Any) -> None:
    """Write a mask, 1 where a weight is kept."""
    store_array(scope, mask_name(parameter), keep.astype(np.uint8, copy=False), place)


def zero_out(scope: Any, parameter: str, mask: Mask, place: Any, copies: Sequence[str] = ()) -> None:
    """Multiply a parameter, and single-precision copies of it, by a mask, in the scope."""
    for name in (parameter, *copies):
        if has_array(scope, name):
            values = view_array(scope, name)
            store_array(scope, name, values * mask.astype(values.dtype), place)


def has_revived(scope: Any, parameter: str) -> bool:
    """Tell whether a weight that has left is not zero, looking at no more than the first 65,536 of them."""
    mask = read_mask(scope, parameter).reshape(-1)[:CHUNK]
    values = as_floats(view_array(scope, parameter).reshape(-1)[:CHUNK])
    return bool(np.any(values[mask == 0]))
