"""The section ``compressor``: how long the job runs, what it keeps, and how it trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.optimizer_settings import OptimizerSettings
from paddleslim_ng.compress.configuration.values import (
    Count,
    Epoch,
    FieldError,
    MaybeCount,
    MaybePositive,
    MaybeText,
    MaybeTexts,
    NonNegative,
    Options,
    Texts,
)

__all__ = ['BudgetSettings', 'CompressorSettings', 'MixedPrecision']

_MaybeBool = Optional[bool]
_Seed = Annotated[int, Field(ge=0, lt=2**32)]


class BudgetSettings(Options):
    """What the job may use, and what its result may cost."""

    seconds: MaybePositive = Field(None, description='Time of all runs of the job together.')
    macs: MaybeCount = Field(None, description='Multiply-accumulates of the result for one sample.')
    params: MaybeCount = Field(None, description='Parameters of the result.')


class MixedPrecision(Options):
    """Options of ``paddle.static.amp.decorate``; what is not given is left to Paddle."""

    init_loss_scaling: MaybePositive = Field(None, description='First factor of the loss.')
    use_dynamic_loss_scaling: _MaybeBool = Field(None, description='Let the factor follow overflows.')
    use_pure_fp16: _MaybeBool = Field(None, description='Compute everything in half precision.')
    use_fp16_guard: _MaybeBool = Field(None, description='Do so only where the network says it.')
    custom_white_list: MaybeTexts = Field(None, description='Types of operators in half precision.')
    custom_black_list: MaybeTexts = Field(None, description='Types of operators in single precision.')
    custom_black_varnames: MaybeTexts = Field(None, description='Variables in single precision.')


_MaybeBudget = Optional[BudgetSettings]
_MaybePrecision = Optional[MixedPrecision]
_MaybeOptimizer = Optional[OptimizerSettings]


class CompressorSettings(Options):
    """What the Compressor reads from the section ``compressor``; it has the same arguments."""

    epoch: Epoch = Field(
        0, description='Number of epochs; there are at least as many as the end_epoch of any strategy says.'
    )
    strategies: Texts = Field([], description='Instances of `strategies`, in the order in which they are called.')
    checkpoint_path: MaybeText = Field(None, description='Folder of the checkpoints; none are written by default.')
    checkpoint_every: MaybeCount = Field(None, description='Write a checkpoint every so many batches, too.')
    keep_checkpoints: Count = Field(2, description='Number of checkpoints that stay.')
    init_model: MaybeText = Field(None, description='Folder of a model, pruned or not, from which the job starts.')
    eval_epoch: Epoch = Field(1, description='Evaluate every so many epochs, and after the last one; 0: never.')
    cache_path: MaybeText = Field(None, description='Folder for samples of the evaluation data.')
    seed: _Seed = Field(0, description="Seed of the strategies' random numbers.")
    optimizer: _MaybeOptimizer = Field(None, description='What trains, where no train_optimizer is given.')
    distiller_optimizer: _MaybeOptimizer = Field(
        None, description='What trains while distillation acts; `optimizer` by default.'
    )
    schedule_by: Literal['epoch', 'batch'] = Field('epoch', description='What learning rate schedules count as a step.')
    amp: _MaybePrecision = Field(None, description='Train in mixed precision, where Paddle has it on the device.')
    monitor: MaybeText = Field(None, description='Metric that says what is best; the loss of training by default.')
    mode: Literal['max', 'min'] = Field('max', description='Whether large or small values of it are good.')
    min_delta: NonNegative = Field(0.0, description='Change of it that counts as better.')
    patience: MaybeCount = Field(None, description='Evaluations that are no better, after which the job ends early.')
    least_learning_rate: MaybePositive = Field(None, description='The job ends once the learning rate is below this.')
    best_path: MaybeText = Field(None, description='Folder of the best model.')
    metrics_file: MaybeText = Field(None, description='File of metrics, one JSON object in each line.')
    visualdl: MaybeText = Field(None, description='Folder of logs for VisualDL.')
    budget: _MaybeBudget = Field(None, description='Limits.')

    @model_validator(mode='after')
    def _strategies_differ(self) -> Any:
        for place, name in enumerate(self.strategies):
            if name in self.strategies[:place]:
                raise FieldError('strategies', f'names {name!r} twice')
        return self
