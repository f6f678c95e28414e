"""How the scales of quantization-aware training come about: rows of a table, for weights and for activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.quant.grid_quantizers import (
    AbsMaxQuantizer,
    BatchQuantizer,
    MovingAverageQuantizer,
    RangeQuantizer,
)
from paddleslim_ng.quant.learned_quantizers import LearnedQuantizer, LSQQuantizer, PACTQuantizer
from paddleslim_ng.quant.learned_scales import LearnedScale
from paddleslim_ng.quant.quantizers import scale_of_threshold
from paddleslim_ng.quant.straight_through import FakeQuantizer

__all__ = ['ACTIVATION_QUANTIZERS', 'WEIGHT_QUANTIZERS', 'AwareQuantizer', 'QuantizerRequest']


class AwareQuantizer(FakeQuantizer, Protocol):
    """A fake quantizer that knows the integers that it stands for.

    Attributes:
        bits: width of the integers; None where none stand behind it.
        axis: axis along which scales differ, or None.
        scale_name: once built, the name of the tensor in the scope that holds the scale, ``[1]`` or one for each
            channel; None where the largest magnitude of the tensor gives it.
        count_name: once built, the name of the state that is 0 until a training step has updated the scale; None where
            no step has to.
        initial: once built, what the scope has to hold before the first run, by name.
    """

    @property
    def bits(self) -> int | None:
        """Width of the integers."""

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
        differentiable: whether a gradient passes through the tensor; none does through inputs of the network.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    axis: int | None
    training: bool
    value: npt.NDArray[Any] | None
    config: Any
    differentiable: bool = True


Maker = Callable[[QuantizerRequest], AwareQuantizer]


def _learned(kind: type[LearnedQuantizer], start: str, **options: Any) -> Maker:
    """Return what makes a quantizer that learns its scale; where no gradient comes by, the scale stays at its start."""

    def make(request: QuantizerRequest) -> AwareQuantizer:
        threshold = (request.config.activation_thresholds or {}).get(request.name) if request.value is None else None
        decay = request.config.pact_decay if kind is PACTQuantizer else 0.0
        scale = LearnedScale(
            request.bits,
            request.axis,
            start=start if request.differentiable else 'max',
            scale=None if threshold is None else scale_of_threshold(threshold, request.bits),
            learns=request.differentiable,
            regularizer=paddle.regularizer.L2Decay(decay),
        )
        return kind(scale, training=request.training, **options)

    return make


def _per_tensor(make: Maker) -> Maker:
    return lambda request: make(request._replace(axis=None))


def _trainable(fixed: Maker, learned: Maker) -> Maker:
    """Return what makes a quantizer with a fixed rule for its scale, or, with ``scale_trainable``, one that learns."""
    return lambda request: (learned if request.config.scale_trainable else fixed)(request)


_LSQ: Final = _learned(LSQQuantizer, 'mean')
_LSQ_FROM_LARGEST: Final = _learned(LSQQuantizer, 'max')
_KEPT: Final[Mapping[str, Maker]] = {
    'range_abs_max': lambda request: RangeQuantizer(request.bits, request.config.window_size, updates=request.training),
    'moving_average_abs_max': lambda request: MovingAverageQuantizer(
        request.bits, request.config.moving_rate, updates=request.training
    ),
}
_FIXED_WEIGHTS: Final[Mapping[str, Maker]] = {
    'abs_max': lambda request: AbsMaxQuantizer(request.bits),
    **_KEPT,
}
_FIXED_ACTIVATIONS: Final[Mapping[str, Maker]] = {
    'abs_max': lambda request: BatchQuantizer(request.bits, updates=request.training),
    **_KEPT,
}
WEIGHT_QUANTIZERS: Final[Mapping[str, Maker]] = {
    'channel_wise_abs_max': _trainable(lambda request: AbsMaxQuantizer(request.bits, request.axis), _LSQ_FROM_LARGEST),
    **{type: _trainable(make, _per_tensor(_LSQ_FROM_LARGEST)) for type, make in _FIXED_WEIGHTS.items()},
    'lsq': _per_tensor(_LSQ),
    'channel_wise_lsq': _LSQ,
}
ACTIVATION_QUANTIZERS: Final[Mapping[str, Maker]] = {
    **{type: _trainable(make, _LSQ_FROM_LARGEST) for type, make in _FIXED_ACTIVATIONS.items()},
    'lsq': _LSQ,
    'pact': _learned(PACTQuantizer, 'max'),
}
