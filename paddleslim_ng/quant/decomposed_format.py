"""The decomposed format: integers on disk, and arithmetic that every IR knows. PIR's ``dequantize_linear`` is wrong.

In its packed form, integers of up to four bits take half a byte each, save those of small weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper, has_array, load_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.quant.packing import build_unpacked, pack, packs, unpack
from paddleslim_ng.quant.placement import Placed
from paddleslim_ng.quant.quantizers import spread_scale
from paddleslim_ng.quant.simulate import fake_quantize_activation
from paddleslim_ng.quant.spec import TensorQuantization

__all__ = ['read_decomposed', 'write_decomposed', 'write_packed']

Arrays = dict[str, npt.NDArray[Any]]


def write_decomposed(graph: GraphWrapper, placed: list[Placed], integers: Arrays) -> Arrays:
    """Rewrite a program of either IR in place, and return the content of its new parameters.

    Args:
        graph: the wrapped program.
        placed: what is quantized in it.
        integers: of its weights, by name.
    """
    return _write(graph, placed, integers, packed=False)


def write_packed(graph: GraphWrapper, placed: list[Placed], integers: Arrays) -> Arrays:
    """Do what :func:`write_decomposed` does, with two integers of up to four bits in a byte."""
    return _write(graph, placed, integers, packed=True)


def read_decomposed(scope: Any, tensor: TensorQuantization, shape: Sequence[int]) -> npt.NDArray[Any]:
    """Return the integers of a weight, in its shape, from the parameters of a model in either form."""
    padded = _padded_shape(tensor, shape)
    if has_array(scope, _packed(tensor.name)):
        found = unpack(load_array(scope, _packed(tensor.name)), padded)
    else:
        found = load_array(scope, _plain(tensor.name))
    return found[tuple(slice(0, size) for size in shape)]


def _plain(name: str) -> str:
    return f'{name}@integers'


def _packed(name: str) -> str:
    return f'{name}@packed'


def _write(graph: GraphWrapper, placed: list[Placed], integers: Arrays, *, packed: bool) -> Arrays:
    arrays: Arrays = {}
    for item in placed:
        if not item.readers:
            continue
        if item.is_weight:
            arrays.update(_write_weight(graph, item, integers[item.var.name()], packed))
            continue
        here = Insertion(graph, before=item.readers[0])
        here.redirect(item.var, fake_quantize_activation(Expressions(here), item.var, item.tensor), item.readers)
    return arrays


def _write_weight(graph: GraphWrapper, item: Placed, integers: npt.NDArray[Any], packed: bool) -> Arrays:
    tensor, shape = item.tensor, integers.shape
    padded = _padded_shape(tensor, shape)
    codes = np.pad(integers, [(0, more - size) for more, size in zip(padded, shape)])
    halves = packed and packs(tensor.bits, codes.size)
    arrays: Arrays = {_packed(tensor.name): pack(codes)} if halves else {_plain(tensor.name): codes}
    arrays[f'{tensor.name}@step'] = _steps(tensor, padded)
    stored, step = (add_parameter(graph, name, array.shape, str(array.dtype)) for name, array in arrays.items())
    here = Insertion(graph, before=item.readers[0])
    e = Expressions(here)
    floats = build_unpacked(e, stored, padded) if halves else e.cast(stored, 'float32')
    if tensor.zero_point:
        floats = e.scale(floats, 1.0, -float(tensor.zero_point))
    values = _scaled(e, floats, step, tensor, shape)
    for reader in item.readers:
        for var in reader.all_inputs():
            if var.name() == item.var.name():  # on PIR a shared parameter is several variables
                here.redirect(var, values, [reader])
    return arrays


def _scaled(
    e: Expressions, floats: VarWrapper, step: VarWrapper, tensor: TensorQuantization, shape: Sequence[int]
) -> VarWrapper:
    """Multiply the steps by their size, group by group where there are groups, and drop what fills the last of them."""
    if tensor.group_axis is None:
        return e.multiply(floats, step)
    padded = _padded_shape(tensor, shape)
    values = e.reshape(e.multiply(e.reshape(floats, _grouped(tensor, padded)), step), padded)
    if padded == tuple(shape):
        return values
    return e.slice(values, tensor.group_axis, 0, shape[tensor.group_axis])


def _padded_shape(tensor: TensorQuantization, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape with full groups."""
    sizes = list(shape)
    if tensor.group_axis is not None and tensor.group_size is not None:
        sizes[tensor.group_axis] = tensor.scale.shape[1] * min(tensor.group_size, shape[tensor.group_axis])
    return tuple(sizes)


def _grouped(tensor: TensorQuantization, padded: Sequence[int]) -> list[int]:
    """Return the shape with an axis of groups before that of the inputs in a group."""
    axis = int(tensor.group_axis or 0)
    groups = tensor.scale.shape[1]
    return [*padded[:axis], groups, padded[axis] // groups, *padded[axis + 1 :]]


def _steps(tensor: TensorQuantization, padded: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the scales in the shape in which they are multiplied."""
    wide = spread_scale(tensor, tuple(padded))
    if tensor.group_axis is not None:
        first = tuple(slice(None, None, tensor.group_size if n == tensor.group_axis else 1) for n in range(wide.ndim))
        wide = np.expand_dims(wide[first], tensor.group_axis + 1)
    return np.ascontiguousarray(wide)
