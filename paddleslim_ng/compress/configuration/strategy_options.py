"""When a strategy acts: the keys that all strategies share."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.values import Epoch, FieldError, Options

__all__ = ['StrategyOptions']


class StrategyOptions(Options):
    """Base of the options of all strategies.

    A strategy acts from ``start_epoch`` up to, but without, ``end_epoch``; an ``end_epoch`` of 0 leaves the end open:
    the strategy goes on, or keeps what it made, until the last epoch.
    """

    start_epoch: Epoch = Field(0, description='First epoch in which the strategy acts, counted from 0.')
    end_epoch: Epoch = Field(0, description='First epoch in which it no longer acts; 0: until the end of the run.')

    @model_validator(mode='after')
    def _ends_after_its_start(self) -> Any:
        if 0 < self.end_epoch <= self.start_epoch:
            raise FieldError(
                'end_epoch',
                f'must be after start_epoch ({self.start_epoch}), or 0 for no end of its own, not {self.end_epoch}; '
                'the strategy does not act in its end_epoch any more',
            )
        return self
