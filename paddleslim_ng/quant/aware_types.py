"""How the scales of quantization-aware training come about: rows of a table, for weights and for activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from paddleslim_ng.quant.grid_quantizers import (
    AbsMaxQuantizer,
    BatchQuantizer,
    MovingAverageQuantizer,
    RangeQuantizer,
)
from paddleslim_ng.quant.straight_through import FakeQuantizer

__all__ = ['ACTIVATION_QUANTIZERS', 'WEIGHT_QUANTIZERS', 'AwareQuantizer', 'QuantizerRequest']


class AwareQuantizer(FakeQuantizer, Protocol):
    """A fake quantizer that knows the integers that it stands for.

    Attributes:
        bits: width of the integers.
        axis: axis along which scales differ, or None.
        scale_name: once built, the name of the tensor in the scope that holds the scale, ``[1]`` or one for each
            channel; None where the largest magnitude of the tensor gives it.
        count_name: once built, the name of the state that is 0 until a training step has updated the scale; None where
            no step has to.
        initial: once built, what the scope has to hold before the first run, by name.
    """

    bits: int
    axis: int | None
    scale_name: str | None
    count_name: str | None
    initial: dict[str, npt.NDArray[np.float32]]


class QuantizerRequest(NamedTuple):
    """What a quantizer is made for.

    Attributes:
        name: of the tensor.
        shape: of the tensor, -1 where unknown.
        bits: width of the integers.
        axis: axis of the channels of a weight; None for one scale.
        training: False for evaluation programs, which read scales and update none.
        value: of a weight, as it is in the scope; None for activations.
        config: the whole configuration.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    axis: int | None
    training: bool
    value: npt.NDArray[Any] | None
    config: Any


Maker = Callable[[QuantizerRequest], AwareQuantizer]

_KEPT: Final[Mapping[str, Maker]] = {
    'range_abs_max': lambda request: RangeQuantizer(request.bits, request.config.window_size, updates=request.training),
    'moving_average_abs_max': lambda request: MovingAverageQuantizer(
        request.bits, request.config.moving_rate, updates=request.training
    ),
}
WEIGHT_QUANTIZERS: Final[Mapping[str, Maker]] = {
    'channel_wise_abs_max': lambda request: AbsMaxQuantizer(request.bits, request.axis),
    'abs_max': lambda request: AbsMaxQuantizer(request.bits),
    **_KEPT,
}
ACTIVATION_QUANTIZERS: Final[Mapping[str, Maker]] = {
    'abs_max': lambda request: BatchQuantizer(request.bits, updates=request.training),
    **_KEPT,
}
