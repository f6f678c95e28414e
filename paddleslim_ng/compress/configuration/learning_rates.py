"""Learning rates by name: the schedules of ``paddle.optimizer.lr`` with their arguments."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.values import Count, FieldError, Fraction, NonNegative, Options, Positive

__all__ = ['LearningRate', 'ScheduleOptions']

_MaybeCount = Optional[Count]
_Counts = Annotated[list[Count], Field(min_length=1)]
_Rates = Annotated[list[NonNegative], Field(min_length=2)]


class ScheduleOptions(Options):
    """Base of all schedules; the keys are the arguments of the class in ``paddle.optimizer.lr``."""


class NoamDecay(ScheduleOptions):
    """Linear warm-up, then decay with the square root of the step (Vaswani et al., 2017)."""

    type: Literal['NoamDecay']
    d_model: Count = Field(description='Width of the model.')
    warmup_steps: Count = Field(description='Steps of warm-up.')
    learning_rate: Positive = Field(1.0, description='Factor.')


class PiecewiseDecay(ScheduleOptions):
    """Constant between boundaries."""

    type: Literal['PiecewiseDecay']
    boundaries: _Counts = Field(description='Steps at which the rate changes, ascending.')
    values: _Rates = Field(description='Rates, one more than boundaries.')

    @model_validator(mode='after')
    def _counts_fit(self) -> Any:
        if len(self.values) != len(self.boundaries) + 1:
            raise FieldError(
                'values', f'must be one more than boundaries ({len(self.boundaries)}), not {len(self.values)}'
            )
        if sorted(set(self.boundaries)) != self.boundaries:
            raise FieldError('boundaries', f'must ascend, not {self.boundaries}')
        return self


class NaturalExpDecay(ScheduleOptions):
    """``learning_rate * exp(-gamma * step)``."""

    type: Literal['NaturalExpDecay']
    learning_rate: Positive = Field(description='First rate.')
    gamma: Positive = Field(description='Speed of the decay.')


class InverseTimeDecay(ScheduleOptions):
    """``learning_rate / (1 + gamma * step)``."""

    type: Literal['InverseTimeDecay']
    learning_rate: Positive = Field(description='First rate.')
    gamma: Positive = Field(description='Speed of the decay.')


class ExponentialDecay(ScheduleOptions):
    """``learning_rate * gamma ** step``."""

    type: Literal['ExponentialDecay']
    learning_rate: Positive = Field(description='First rate.')
    gamma: Positive = Field(description='Factor of each step, below 1.')


class PolynomialDecay(ScheduleOptions):
    """From ``learning_rate`` to ``end_lr`` along a power of the remaining steps."""

    type: Literal['PolynomialDecay']
    learning_rate: Positive = Field(description='First rate.')
    decay_steps: _MaybeCount = Field(None, description='Steps down to `end_lr`; by default the whole run.')
    end_lr: NonNegative = Field(0.0001, description='Last rate.')
    power: Positive = Field(1.0, description='Exponent.')
    cycle: bool = Field(False, description='Begin anew when `end_lr` is reached.')


class StepDecay(ScheduleOptions):
    """A factor at every multiple of ``step_size``."""

    type: Literal['StepDecay']
    learning_rate: Positive = Field(description='First rate.')
    step_size: Count = Field(description='Steps between two changes.')
    gamma: Positive = Field(0.1, description='Factor of each change.')


class MultiStepDecay(ScheduleOptions):
    """A factor at every milestone."""

    type: Literal['MultiStepDecay']
    learning_rate: Positive = Field(description='First rate.')
    milestones: _Counts = Field(description='Steps at which the rate changes, ascending.')
    gamma: Positive = Field(0.1, description='Factor of each change.')


class CosineAnnealingDecay(ScheduleOptions):
    """Half a wave of the cosine from ``learning_rate`` to ``eta_min`` (Loshchilov and Hutter, 2017)."""

    type: Literal['CosineAnnealingDecay']
    learning_rate: Positive = Field(description='First rate.')
    T_max: _MaybeCount = Field(None, description='Steps down to `eta_min`; by default the whole run.')
    eta_min: NonNegative = Field(0.0, description='Last rate.')


class ReduceOnPlateau(ScheduleOptions):
    """A factor whenever the loss of an epoch has not improved for a while."""

    type: Literal['ReduceOnPlateau']
    learning_rate: Positive = Field(description='First rate.')
    mode: Literal['min', 'max'] = Field('min', description='Whether small or large values are good.')
    factor: Fraction = Field(0.1, description='Factor of each change.')
    patience: Count = Field(10, description='Epochs without improvement before a change.')
    threshold: NonNegative = Field(0.0001, description='Improvement that counts.')
    threshold_mode: Literal['rel', 'abs'] = Field('rel', description='Whether it is relative.')
    cooldown: Annotated[int, Field(ge=0)] = Field(0, description='Epochs after a change that do not count.')
    min_lr: NonNegative = Field(0.0, description='Rate that is not gone below.')


_Plain = Union[
    NoamDecay,
    PiecewiseDecay,
    NaturalExpDecay,
    InverseTimeDecay,
    ExponentialDecay,
    PolynomialDecay,
    StepDecay,
    MultiStepDecay,
    CosineAnnealingDecay,
    ReduceOnPlateau,
]
_Inner = Annotated[_Plain, Field(discriminator='type')]
_InnerRate = Union[Positive, _Inner]


class LinearWarmup(ScheduleOptions):
    """A straight line from ``start_lr`` to ``end_lr``, then a rate or another schedule."""

    type: Literal['LinearWarmup']
    learning_rate: _InnerRate = Field(description='The rate, or schedule, after the warm-up.')
    warmup_steps: Count = Field(description='Steps of warm-up.')
    start_lr: NonNegative = Field(description='First rate.')
    end_lr: Positive = Field(description='Rate at the end of the warm-up.')


_Schedule = Annotated[Union[_Plain, LinearWarmup], Field(discriminator='type')]
LearningRate = Union[Positive, _Schedule]
