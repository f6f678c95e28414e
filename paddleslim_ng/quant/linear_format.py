"""The quantize_linear format: integers on disk; one operator behind every weight, two behind every activation.

``Scale`` holds thresholds: one step is ``Scale / 127``. Of Paddle's two ways to round, the one away from zero
(``round_type`` 1) keeps to the symmetric range. Fewer bits than 8 are written as a part of 8: Paddle 3 takes the range
from ``qmin`` and ``qmax`` where Paddle 2 has ``bit_length``, and oneDNN's kernels take every width for 8.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper, paddle_compat
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.quant.legacy_operators import RUNTIME_BITS, Given, LegacyOperators, carrier, zeros
from paddleslim_ng.quant.placement import Placed
from paddleslim_ng.quant.spec import TensorQuantization

__all__ = ['write_linear']

Arrays = dict[str, npt.NDArray[Any]]


def write_linear(graph: GraphWrapper, placed: list[Placed], integers: Arrays) -> Arrays:
    """Rewrite a legacy program in place, and return the content of its new and changed parameters.

    Args:
        graph: the wrapped program.
        placed: what is quantized in it.
        integers: of its weights, by name.
    """
    operators = LegacyOperators(graph)
    for item in placed:
        if item.readers:
            (_write_weight if item.is_weight else _write_activation)(operators, item)
    return {**integers, **operators.arrays}


def _write_weight(operators: LegacyOperators, item: Placed) -> None:
    item.var.raw.desc.set_dtype(paddle_compat.legacy_dtype('int8'))
    _dequantize(operators, item, item.var)


def _write_activation(operators: LegacyOperators, item: Placed) -> None:
    source = operators.within_bits(item)
    integers = operators.variable(f'{item.var.name()}.quantized', item.var)
    inputs: dict[str, Given] = {'X': source, **_scales(operators, item.tensor)}
    operators.insert(item.readers[0], 'quantize_linear', inputs, {'Y': integers}, _attributes(item.tensor))
    _dequantize(operators, item, integers)


def _dequantize(operators: LegacyOperators, item: Placed, integers: VarWrapper) -> None:
    result = operators.variable(f'{item.var.name()}.dequantized', item.var)
    inputs: dict[str, Given] = {'X': integers, **_scales(operators, item.tensor)}
    operators.insert(item.readers[0], 'dequantize_linear', inputs, {'Y': result}, _attributes(item.tensor))
    Insertion(operators.graph).redirect(item.var, result, item.readers)


def _scales(operators: LegacyOperators, tensor: TensorQuantization) -> dict[str, Given]:
    return {
        'Scale': operators.state(f'{tensor.name}@scale', carrier(tensor).threshold),
        'ZeroPoint': operators.state(f'{tensor.name}@zero_point', zeros(tensor.scale.size)),
    }


def _attributes(tensor: TensorQuantization) -> dict[str, Any]:
    limit = carrier(tensor).limit
    return {
        'quant_axis': -1 if tensor.axis is None else tensor.axis,
        'bit_length': RUNTIME_BITS,
        'qmin': -limit,
        'qmax': limit,
        'round_type': 1,
        'is_test': True,
    }
