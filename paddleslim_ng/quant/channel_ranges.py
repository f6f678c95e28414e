"""The weight of a layer by its input and output channels, whatever its layout and groups."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper
from paddleslim_ng.quant.folding_patterns import WEIGHTS, scale_outputs

__all__ = ['input_ranges', 'output_ranges', 'scale_inputs', 'scale_outputs', 'weight_of']

Array = npt.NDArray[np.float64]
_TRANSPOSED: Final = frozenset({'conv2d_transpose', 'depthwise_conv2d_transpose'})
_PRODUCTS: Final = frozenset({'mul', 'matmul', 'matmul_v2'})


def weight_of(layer: OpWrapper) -> Any:
    """Return the variable of a layer's weight."""
    return layer.inputs(WEIGHTS[layer.type()])[0]


def _groups(layer: OpWrapper) -> int:
    return 1 if layer.type() in _PRODUCTS else int(layer.attr('groups') or 1)


def _by_channels(layer: OpWrapper, weight: Array) -> Array:
    """Return a weight as [groups, outputs of a group, inputs of a group, taps]; a view where there is one."""
    groups = _groups(layer)
    if layer.type() in _PRODUCTS:
        return weight.T[None, :, :, None]
    if layer.type() in _TRANSPOSED:
        parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return parts.transpose(0, 2, 1, 3)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def output_ranges(layer: OpWrapper, weight: Array) -> Array:
    """Return the largest magnitude of the weights of every output channel."""
    found: Array = np.abs(_by_channels(layer, weight)).max(axis=(2, 3)).reshape(-1)
    return found


def input_ranges(layer: OpWrapper, weight: Array) -> Array:
    """Return the largest magnitude of the weights that read every input channel."""
    found: Array = np.abs(_by_channels(layer, weight)).max(axis=(1, 3)).reshape(-1)
    return found


def scale_inputs(layer: OpWrapper, weight: Array, factors: Array) -> Array:
    """Return the weight with which a layer multiplies its input channels by factors first."""
    if layer.type() in _PRODUCTS:
        return weight * factors[:, None]
    if layer.type() in _TRANSPOSED:
        return weight * factors.reshape(-1, 1, 1, 1)
    groups = _groups(layer)
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    found: Array = (parts * factors.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    return found
