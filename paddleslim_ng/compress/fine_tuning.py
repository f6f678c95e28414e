"""How a model is trained on where a configuration leaves that open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration import CompressionConfig

__all__ = ['LEARNING_RATE', 'with_optimizer']

LEARNING_RATE: Final = 1e-3


def with_optimizer(config: CompressionConfig, batches: int | None) -> CompressionConfig:
    """Return a configuration with an optimizer: Adam, whose rate falls from 0.001 to 0 along half a cosine.

    It falls with every batch over the whole job where the number of batches is known, and else with every epoch, unless
    the configuration says which.

    Args:
        config: stays as it is where it has an optimizer.
        batches: of an epoch; None where nobody knows.
    """
    from paddleslim_ng.compress.configuration.learning_rates import CosineAnnealingDecay
    from paddleslim_ng.compress.configuration.optimizer_settings import Adam

    settings = config.compressor
    if settings.optimizer is not None:
        return config
    rate = CosineAnnealingDecay(type='CosineAnnealingDecay', learning_rate=LEARNING_RATE)
    unit = 'epoch' if batches is None else 'batch'
    update = {
        'optimizer': Adam(type='Adam', learning_rate=rate),
        'schedule_by': settings.schedule_by if 'schedule_by' in settings.model_fields_set else unit,
    }
    return replace(config, compressor=settings.model_copy(update=update))
