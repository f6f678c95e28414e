"""Options of compression and training in turns."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.strategy_options import StrategyOptions
from paddleslim_ng.compress.configuration.values import (
    Count,
    FieldError,
    MaybeFloat,
    MaybeFraction,
    StrategyReferences,
    Text,
)

__all__ = ['AlternationOptions']


class AlternationOptions(StrategyOptions):
    """Options of ``AlternationStrategy``: rounds of other strategies, each from the result of the one before."""

    strategies: StrategyReferences = Field(
        ..., description='Instances of `strategies` that act in every round; their epochs count from its beginning.'
    )
    rounds: Count = Field(2, description='Number of rounds.')
    round_epochs: Count = Field(1, description='Epochs of a round.')
    metric_name: Text = Field(
        'top1_acc', description='Readable name of the metric in eval_fetch_list or eval_func; the larger the better.'
    )
    accuracy_floor: MaybeFloat = Field(
        None, description='A round that ends with the metric below this value is taken back, and is the last.'
    )
    max_loss: MaybeFraction = Field(
        None,
        description='Instead of `accuracy_floor`: the share of the metric before the first round that may be lost.',
    )

    @model_validator(mode='before')
    @classmethod
    def _end_follows(cls, given: Any) -> Any:
        """Fill ``end_epoch`` in, so that the job is long enough."""
        if not isinstance(given, dict) or given.get('end_epoch'):
            return given
        fields = cls.model_fields
        start, rounds, epochs = (
            given.get(name, fields[name].default) for name in ('start_epoch', 'rounds', 'round_epochs')
        )
        whole = all(isinstance(value, int) and value >= 0 for value in (start, rounds, epochs))
        return {**given, 'end_epoch': start + rounds * epochs} if whole and rounds * epochs > 0 else given

    @model_validator(mode='after')
    def _fits(self) -> Any:
        end = self.start_epoch + self.rounds * self.round_epochs
        if self.end_epoch != end:
            raise FieldError(
                'end_epoch',
                f'{self.rounds} rounds of {self.round_epochs} epochs from {self.start_epoch} end in {end}, not '
                f'{self.end_epoch}; leave it out',
            )
        if self.accuracy_floor is not None and self.max_loss is not None:
            raise FieldError('max_loss', 'give accuracy_floor, a value of the metric, or max_loss, a share of it')
        return self
