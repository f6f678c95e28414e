"""Optimizers by name: the classes of ``paddle.optimizer`` with their arguments."""

from __future__ import annotations

from typing import Annotated, Literal, Optional, Union

from pydantic import Field

from paddleslim_ng.compress.configuration.learning_rates import LearningRate
from paddleslim_ng.compress.configuration.values import Fraction, NonNegative, Options, Positive

__all__ = ['GradientClip', 'OptimizerSettings', 'WeightDecay']


class GlobalNorm(Options):
    """All gradients together are scaled down to a norm."""

    type: Literal['ClipGradByGlobalNorm']
    clip_norm: Positive = Field(description='Largest norm.')


class Norm(Options):
    """Each gradient is scaled down to a norm."""

    type: Literal['ClipGradByNorm']
    clip_norm: Positive = Field(description='Largest norm.')


class Interval(Options):
    """Each element of the gradients is brought into an interval."""

    type: Literal['ClipGradByValue']
    max: Positive = Field(description='Largest value; the smallest is its negative.')


class L1Decay(Options):
    """Weight decay on the sum of magnitudes."""

    type: Literal['L1Decay']
    coeff: NonNegative = Field(0.0, description='Strength.')


class L2Decay(Options):
    """Weight decay on the sum of squares."""

    type: Literal['L2Decay']
    coeff: NonNegative = Field(0.0, description='Strength.')


GradientClip = Annotated[Union[GlobalNorm, Norm, Interval], Field(discriminator='type')]
_MaybeClip = Optional[GradientClip]
WeightDecay = Union[NonNegative, Annotated[Union[L1Decay, L2Decay], Field(discriminator='type')]]
_MaybeDecay = Optional[WeightDecay]


class _Optimizer(Options):
    """What all optimizers have."""

    learning_rate: LearningRate = Field(0.02, description='A number, or a schedule with its `type` and arguments.')
    weight_decay: _MaybeDecay = Field(None, description='Strength of the decay of squares, or a `type` and `coeff`.')
    gradient_clip: _MaybeClip = Field(None, description='How gradients are clipped.')


class SGD(_Optimizer):
    """Plain stochastic gradient descent."""

    type: Literal['SGD']


class Momentum(_Optimizer):
    """Gradient descent with momentum."""

    type: Literal['Momentum']
    momentum: Fraction = Field(0.9, description='Share of the former step that is kept.')
    use_nesterov: bool = Field(False, description='Look ahead.')


class _Adaptive(_Optimizer):
    beta1: Fraction = Field(0.9, description='Decay of the mean of gradients.')
    beta2: Fraction = Field(0.999, description='Decay of the mean of their squares.')
    epsilon: Positive = Field(1e-8, description='Added to divisors.')


class Adam(_Adaptive):
    """Adam (Kingma and Ba, 2015)."""

    type: Literal['Adam']


class AdamW(_Adaptive):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    type: Literal['AdamW']
    weight_decay: NonNegative = Field(0.01, description='Strength of the decay.')


class Adamax(_Adaptive):
    """Adam with the maximum norm."""

    type: Literal['Adamax']


class Adagrad(_Optimizer):
    """Rates by the sum of squared gradients."""

    type: Literal['Adagrad']
    epsilon: Positive = Field(1e-6, description='Added to divisors.')


class Adadelta(_Optimizer):
    """Rates by ratios of means."""

    type: Literal['Adadelta']
    epsilon: Positive = Field(1e-6, description='Added to divisors.')
    rho: Fraction = Field(0.95, description='Decay of the means.')


class RMSProp(_Optimizer):
    """Rates by the mean of squared gradients."""

    type: Literal['RMSProp']
    rho: Fraction = Field(0.95, description='Decay of the mean.')
    epsilon: Positive = Field(1e-6, description='Added to divisors.')
    momentum: Fraction = Field(0.0, description='Share of the former step that is kept.')
    centered: bool = Field(False, description='Subtract the squared mean.')


class Lamb(_Optimizer):
    """Adam with a rate for each layer (You et al., 2020)."""

    type: Literal['Lamb']
    weight_decay: NonNegative = Field(0.01, description='Strength of the decay.')
    beta1: Fraction = Field(0.9, description='Decay of the mean of gradients.')
    beta2: Fraction = Field(0.999, description='Decay of the mean of their squares.')
    epsilon: Positive = Field(1e-6, description='Added to divisors.')


OptimizerSettings = Annotated[
    Union[SGD, Momentum, Adam, AdamW, Adamax, Adagrad, Adadelta, RMSProp, Lamb], Field(discriminator='type')
]
