"""Weights, and activations, on uniform grids of 2 to 8 bits, trained through (PocketFlow's UniformQuantization)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import paddle

from paddleslim_ng.quant.buckets import Buckets
from paddleslim_ng.quant.low_bit import LowBitProgram, WeightForm, apply_low_bit
from paddleslim_ng.quant.low_bit_layers import LowBitSettings
from paddleslim_ng.quant.uniform_grids import UniformGrid

__all__ = ['UniformQuantizer']


class UniformQuantizer:
    """Quantizes weights to ``2**bits`` equal steps between the smallest and the largest number of a bucket.

    The range is that of the weights at every step; the gradient passes straight through. See
    :func:`~paddleslim_ng.quant.uniform_grids.uniform_codes` for the grid.

    Args:
        weight_bits: 2 to 8, or by the name of each weight that is quantized.
        activation_bits: 2 to 8 quantizes what activation functions make, with its range in each batch; 32 does not.
        bucket: what has a range of its own: None, the whole weight; ``'channel'``, each output channel; ``'split'``,
            every ``bucket_size`` elements (see :class:`~paddleslim_ng.quant.buckets.Buckets`).
        bucket_size: elements of a bucket.
        quantize_all_layers: quantize the first and the last layer, too.
        keep_zeros: whether zero is on the grid, so that zeros stay zero. None decides it for each weight: where at
            least one in twenty of its elements is zero when the quantizer is applied (a pruned weight), it is. The
            report says for which weights.
        quantizable_op_type: types of operators; see :func:`~paddleslim_ng.quant.find_targets` for this and the next.
        skip_tensor_list: operators that read one of these tensors stay in float.
        not_quant_pattern: operators with such a name stay in float.

    Raises:
        ConfigError: a value out of range.

    Example:
        >>> done = slim.quant.UniformQuantizer(weight_bits=2, bucket='channel').apply(program, scope)
        >>> train(program)
        >>> print(done.finish(scope))
    """

    def __init__(
        self,
        weight_bits: int | Mapping[str, int] = 4,
        activation_bits: int = 32,
        bucket: str | None = None,
        bucket_size: int = 256,
        quantize_all_layers: bool = False,
        *,
        keep_zeros: bool | None = None,
        quantizable_op_type: Collection[str] | None = None,
        skip_tensor_list: Sequence[str] = (),
        not_quant_pattern: Sequence[str] = ('skip_quant',),
    ) -> None:
        self.settings = LowBitSettings(
            weight_bits,
            activation_bits,
            bucket,
            bucket_size,
            quantize_all_layers,
            keep_zeros,
            quantizable_op_type,
            skip_tensor_list,
            not_quant_pattern,
        )

    def apply(self, program: Any, scope: Any = None, place: Any = None) -> LowBitProgram:
        """Insert the quantizers.

        Args:
            program: a training or evaluation program of either IR, or a GraphWrapper, before or after ``minimize``;
                changed in place. Clones of it are quantized as well.
            scope: holds the weights; Paddle's global scope where None. It is left as it is.
            place: taken for the sake of one form with other quantizers.

        Returns:
            What is quantized, the storage it needs, and ``finish``.

        Raises:
            GraphError: the program is quantized already, a gradient operator is not found, or the scope lacks a weight.
            ConfigError: nothing is left to quantize, or ``weight_bits`` does not name exactly what is.
            DataError: a weight is not finite.
        """
        found = scope if scope is not None else paddle.static.global_scope()
        return apply_low_bit(program, found, self.settings, _form)[1]


def _form(name: str, array: npt.NDArray[Any], bits: int, buckets: Buckets, *, keep_zeros: bool) -> WeightForm:
    return UniformGrid(bits, buckets, keep_zeros=keep_zeros)
