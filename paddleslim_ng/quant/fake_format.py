"""The fake_quantize format: integers in float32, and one operator behind each product that scales it back.

An operator with weights computes on integers: ``fake_quantize_range_abs_max`` stands before it, and behind it
``fake_channel_wise_dequantize_max_abs`` or ``fake_dequantize_max_abs``, which knows both scales. Other operators read
what ``fake_quantize_dequantize_moving_average_abs_max`` makes. Files are as large as those of the float model until
Paddle Lite converts them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.legacy_operators import Given, LegacyOperators, carrier
from paddleslim_ng.quant.placement import Placed, first_output
from paddleslim_ng.quant.spec import TensorQuantization

__all__ = ['write_fake']

Arrays = dict[str, npt.NDArray[Any]]
_TRANSPOSED = ('conv2d_transpose', 'depthwise_conv2d_transpose')
_PRODUCTS = ('mul', 'matmul', 'matmul_v2')


def write_fake(graph: GraphWrapper, placed: list[Placed], integers: Arrays) -> Arrays:
    """Rewrite a legacy program in place, and return the content of its new and changed parameters.

    Args:
        graph: the wrapped program.
        placed: what is quantized in it.
        integers: of its weights, by name.

    Raises:
        ConfigError: an operator reads quantized weights and no quantized activation, or the other way round several.
    """
    pairs = _pairs(placed)
    operators = LegacyOperators(graph)
    for item in placed:
        if not item.is_weight:
            _write_activation(operators, item, pairs)
    for op, activation, weight in pairs.values():
        _scale_back(operators, op, activation.tensor, weight.tensor)
    return {**{name: array.astype(np.float32) for name, array in integers.items()}, **operators.arrays}


Pair = tuple[OpWrapper, Placed, Placed]


def _pairs(placed: list[Placed]) -> dict[int, Pair]:
    """Return the operators with quantized weights, by position, with the activation and the weight that they read."""
    found: dict[int, Pair] = {}
    for item in placed:
        for op in item.readers if item.is_weight else ():
            activations = [other for other in placed if not other.is_weight and op in other.readers]
            if len(activations) != 1 or op.idx() in found:
                raise ConfigError(
                    f'the fake_quantize format wants one quantized activation and one quantized weight: {op.type()} '
                    f'that makes {first_output(op)!r} reads {len(activations)} activations; take quantize_linear'
                )
            found[op.idx()] = (op, activations[0], item)
    return found


def _write_activation(operators: LegacyOperators, item: Placed, pairs: dict[int, Pair]) -> None:
    on_integers = [op for op in item.readers if op.idx() in pairs]
    on_floats = [op for op in item.readers if op.idx() not in pairs]
    stored = carrier(item.tensor)
    attrs = {'bit_length': stored.bits, 'is_test': True, 'round_type': 1}
    source = operators.within_bits(item) if item.readers else item.var
    for readers, kind, suffix in (
        (on_integers, 'fake_quantize_range_abs_max', 'quantized'),
        (on_floats, 'fake_quantize_dequantize_moving_average_abs_max', 'quantized_dequantized'),
    ):
        if readers:
            scale = operators.state(f'{item.var.name()}@scale', stored.threshold)
            made = operators.variable(f'{item.var.name()}.{suffix}', item.var)
            inputs: dict[str, Given] = {'X': source, 'InScale': scale}
            operators.insert(readers[0], kind, inputs, {'Out': made, 'OutScale': scale}, attrs)
            Insertion(operators.graph).redirect(item.var, made, readers)


def _scale_back(
    operators: LegacyOperators, op: OpWrapper, activation: TensorQuantization, weight: TensorQuantization
) -> None:
    activation, weight = carrier(activation), carrier(weight)
    result = op.all_outputs()[0]
    product = operators.variable(f'{result.name()}.integers', result)
    op.raw.desc._rename_output(result.name(), product.name())
    scale = f'{activation.name}@scale'
    if weight.axis is None:
        largest = float(weight.limit * activation.limit / float(weight.threshold[0]))
        attrs: dict[str, Any] = {'max_range': largest}
        inputs: dict[str, Given] = {'X': product, 'Scale': scale}
        operators.insert(op, 'fake_dequantize_max_abs', inputs, {'Out': result}, attrs, after=True)
        return
    channels = operators.state(f'{weight.name}@scale', _output_thresholds(op, weight))
    attrs = {
        'quant_bits': [int(weight.bits), int(activation.bits)],
        'quant_axis': weight.axis,
        'x_num_col_dims': len(result.shape()) - 1 if _has_channels_last(op) else 1,
    }
    inputs = {'X': product, 'Scales': [channels, scale]}
    operators.insert(op, 'fake_channel_wise_dequantize_max_abs', inputs, {'Out': result}, attrs, after=True)


def _has_channels_last(op: OpWrapper) -> bool:
    return op.type() in _PRODUCTS or op.attr('data_format') == 'NHWC'


def _output_thresholds(op: OpWrapper, weight: TensorQuantization) -> npt.NDArray[np.float32]:
    """Return a threshold for each output channel; transposed convolutions have the same ones in every group."""
    groups = int(op.attr('groups') or 1) if op.type() in _TRANSPOSED else 1
    return np.tile(weight.threshold, groups)
