"""How numbers get onto their grids in quantization-aware training: what ``QuantizationStrategy`` can be given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import paddle

from paddleslim_ng.errors import ConfigError

__all__ = ['LSQQuantizer', 'MovingAverageQuantizer', 'PACTQuantizer', 'Quantizer']

_WEIGHT_TYPES = ('channel_wise_abs_max', 'abs_max')


class Quantizer(ABC):
    """A way of quantizing, for the argument ``quantizer`` of a ``QuantizationStrategy``; derive your own from it."""

    @abstractmethod
    def arguments(self) -> Mapping[str, Any]:
        """Return arguments of :func:`slim.quant.quant_aware`, such as ``weight_quantize_func`` or ``optimizer_func``.

        Keys of ``config`` among them take the place of what the strategy says; its others stay.
        """


class MovingAverageQuantizer(Quantizer):
    """Scales of activations follow the largest magnitudes of the batches, those of weights their own.

    Args:
        weight_quantize_type: ``'channel_wise_abs_max'``, a scale for each output channel, or ``'abs_max'``, one.
        moving_rate: what the average keeps of the past in every batch.

    Raises:
        ConfigError: an argument is unusable.
    """

    def __init__(self, weight_quantize_type: str = 'channel_wise_abs_max', moving_rate: float = 0.9) -> None:
        if not 0 < moving_rate < 1:
            raise ConfigError(f'moving_rate lies between 0 and 1, not {moving_rate!r}')
        self.weight_quantize_type, self.moving_rate = _checked_type(weight_quantize_type), moving_rate

    def arguments(self) -> Mapping[str, Any]:
        """Return arguments of :func:`slim.quant.quant_aware`."""
        return {
            'config': {
                'weight_quantize_type': self.weight_quantize_type,
                'activation_quantize_type': 'moving_average_abs_max',
                'moving_rate': self.moving_rate,
            }
        }


class LSQQuantizer(Quantizer):
    """The step between neighbouring integers is learned, of weights and of activations (Esser et al., 2020).

    Args:
        channel_wise: every output channel of a weight has a step of its own.
        learning_rate: of the steps, which Adam trains; 0.001 where None.

    Raises:
        ConfigError: an argument is unusable.
    """

    def __init__(self, channel_wise: bool = True, learning_rate: float | None = None) -> None:
        self.channel_wise, self.learning_rate = channel_wise, _checked_rate(learning_rate)

    def arguments(self) -> Mapping[str, Any]:
        """Return arguments of :func:`slim.quant.quant_aware`."""
        config = {
            'weight_quantize_type': 'channel_wise_lsq' if self.channel_wise else 'lsq',
            'activation_quantize_type': 'lsq',
        }
        return {'config': config, **_optimizer(self.learning_rate)}


class PACTQuantizer(Quantizer):
    """Where activations are cut off is learned (Choi et al., 2018); weights have the scale of their magnitudes.

    Args:
        weight_quantize_type: as that of :class:`MovingAverageQuantizer`.
        decay: decay of the thresholds in the loss.
        thresholds: ``{tensor: magnitude}`` where thresholds start; others at the largest magnitude of the first batch.
        learning_rate: of the thresholds, which Adam trains; 0.001 where None.

    Raises:
        ConfigError: an argument is unusable.
    """

    def __init__(
        self,
        weight_quantize_type: str = 'channel_wise_abs_max',
        decay: float = 0.0001,
        thresholds: Mapping[str, float] | None = None,
        learning_rate: float | None = None,
    ) -> None:
        if decay < 0:
            raise ConfigError(f'decay is at least 0, not {decay!r}')
        self.weight_quantize_type, self.decay = _checked_type(weight_quantize_type), decay
        self.thresholds = dict(thresholds) if thresholds is not None else None
        self.learning_rate = _checked_rate(learning_rate)

    def arguments(self) -> Mapping[str, Any]:
        """Return arguments of :func:`slim.quant.quant_aware`."""
        config = {
            'weight_quantize_type': self.weight_quantize_type,
            'activation_quantize_type': 'pact',
            'pact_decay': self.decay,
            'activation_thresholds': self.thresholds,
        }
        return {'config': config, **_optimizer(self.learning_rate)}


def _checked_type(name: str) -> str:
    if name not in _WEIGHT_TYPES:
        raise ConfigError(f'weight_quantize_type is one of {_WEIGHT_TYPES}, not {name!r}')
    return name


def _checked_rate(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise ConfigError(f'learning_rate is above 0, not {rate!r}')
    return rate


def _optimizer(rate: float | None) -> dict[str, Any]:
    return {} if rate is None else {'optimizer_func': lambda: paddle.optimizer.Adam(rate)}
