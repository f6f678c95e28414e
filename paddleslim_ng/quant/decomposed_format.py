"""The decomposed format: integers on disk, and arithmetic that every IR knows. PIR's ``dequantize_linear`` is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.quant.placement import Placed
from paddleslim_ng.quant.simulate import fake_quantize_activation

__all__ = ['write_decomposed']

Arrays = dict[str, npt.NDArray[Any]]


def write_decomposed(graph: GraphWrapper, placed: list[Placed], integers: Arrays) -> Arrays:
    """Rewrite a program of either IR in place, and return the content of its new parameters.

    Args:
        graph: the wrapped program.
        placed: what is quantized in it.
        integers: of its weights, by name.
    """
    arrays: Arrays = {}
    for item in placed:
        if not item.readers:
            continue
        if item.is_weight:
            arrays.update(_write_weight(graph, item, integers[item.var.name()]))
            continue
        here = Insertion(graph, before=item.readers[0])
        here.redirect(item.var, fake_quantize_activation(Expressions(here), item.var, item.tensor), item.readers)
    return arrays


def _write_weight(graph: GraphWrapper, item: Placed, integers: npt.NDArray[Any]) -> Arrays:
    sizes = [1] * integers.ndim
    if item.tensor.axis is not None:
        sizes[item.tensor.axis] = item.tensor.scale.size
    arrays = {
        f'{item.var.name()}@integers': integers,
        f'{item.var.name()}@step': np.ascontiguousarray(item.tensor.scale.reshape(sizes)),
    }
    codes, step = (add_parameter(graph, name, array.shape, str(array.dtype)) for name, array in arrays.items())
    here = Insertion(graph, before=item.readers[0])
    e = Expressions(here)
    floats = e.cast(codes, 'float32')
    if item.tensor.zero_point:
        floats = e.scale(floats, 1.0, -float(item.tensor.zero_point))
    values = e.multiply(floats, step)
    for reader in item.readers:
        for var in reader.all_inputs():
            if var.name() == item.var.name():  # on PIR a shared parameter is several variables
                here.redirect(var, values, [reader])
    return arrays
