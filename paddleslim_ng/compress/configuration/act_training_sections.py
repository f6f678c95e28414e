"""The sections of PaddleSlim's AutoCompression files that teach and train, with its keys and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Optional, Union

from pydantic import BeforeValidator, Field, model_validator

from paddleslim_ng.compress.configuration.compressor_settings import MixedPrecision
from paddleslim_ng.compress.configuration.values import (
    Count,
    FieldError,
    MaybeCount,
    MaybeFloat,
    MaybeText,
    MaybeTexts,
    NonNegative,
    Options,
    Positive,
    Text,
    Texts,
)

__all__ = ['Distillation', 'MultiTeacherDistillation', 'OptimizerBuilder', 'TrainConfig']


def _of_pairs(name: Any) -> Any:
    if name == 'fsp':
        raise ValueError(
            'fsp compares pairs of layers, which node has no way to write: take a file with an FSPDistiller'
        )
    return name


_Loss = Annotated[Literal['l2', 'soft_label', 'skd', 'dkd', 'l2_loss', 'soft_label_loss'], BeforeValidator(_of_pairs)]
_Losses = Union[_Loss, list[_Loss]]
_Nodes = Union[list[Text], list[Texts]]
_Alphas = Union[NonNegative, list[NonNegative]]
_MaybePrecision = Optional[MixedPrecision]
_MaybeMapping = Optional[dict[str, Any]]
_Rate = Union[Positive, dict[str, Any]]


class Distillation(Options):
    """Distillation from one teacher."""

    former_keys: ClassVar[Mapping[str, str]] = {
        'distill_lambda': 'write alpha',
        'distill_loss': 'write loss',
        'distill_node_pair': 'write node',
        'merge_feed': 'leave it out: inputs of the same name are shared',
    }

    loss: _Losses = Field('l2', description='Loss of slim.dist, or one for each list of node.')
    node: _Nodes = Field(
        [], description='Tensors, or pairs of teacher_<name> and name, or lists of these; the last layer by default.'
    )
    alpha: _Alphas = Field(1.0, description='Factor of the loss, or one for each list of node.')
    teacher_model_dir: MaybeText = Field(
        None, description='Folder of the teacher; the model as it is given by default.'
    )
    teacher_model_filename: MaybeText = Field(None, description='Name of its program file.')
    teacher_params_filename: MaybeText = Field(None, description='Name of its file of parameters.')

    @model_validator(mode='after')
    def _lists_match(self) -> Any:
        nested = bool(self.node) and isinstance(self.node[0], list)
        for name in ('loss', 'alpha'):
            value = getattr(self, name)
            if isinstance(value, list) and not nested:
                raise FieldError(name, 'is a list, so node must be a list of lists, one for each')
            if isinstance(value, list) and len(value) != len(self.node):
                raise FieldError(
                    name, f'must have one entry for each list of node ({len(self.node)}), not {len(value)}'
                )
        return self


class MultiTeacherDistillation(Options):
    """Distillation from several teachers."""

    loss: Annotated[list[_Loss], Field(min_length=1)] = Field(description='Loss of each teacher.')
    node: list[Texts] = Field(description='Pairs teacher1_<name> and name of each teacher.')
    alpha: list[NonNegative] = Field(description='Factor of each loss.')
    teacher_model_dir: Texts = Field(description='Folder of each teacher.')
    teacher_model_filename: MaybeTexts = Field(None, description='Names of their program files.')
    teacher_params_filename: MaybeTexts = Field(None, description='Names of their files of parameters.')

    @model_validator(mode='after')
    def _lists_match(self) -> Any:
        for name in ('node', 'alpha', 'teacher_model_dir', 'teacher_model_filename', 'teacher_params_filename'):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.loss):
                raise FieldError(name, f'must have one entry for each loss ({len(self.loss)}), not {len(value)}')
        return self


class OptimizerBuilder(Options):
    """An optimizer, its weight decay and its clip."""

    optimizer: dict[str, Any] = Field(
        {'type': 'SGD'}, description='A class of paddle.optimizer as type, and its arguments.'
    )
    weight_decay: MaybeFloat = Field(None, description='Strength of the decay of squares.')
    regularizer: _MaybeMapping = Field(
        None, description='Instead of weight_decay: L1Decay or L2Decay as type, and coeff.'
    )
    grad_clip: _MaybeMapping = Field(None, description='A class of paddle.nn as type, and its arguments.')

    @model_validator(mode='after')
    def _one_decay(self) -> Any:
        if self.weight_decay is not None and self.regularizer is not None:
            raise FieldError('regularizer', 'give weight_decay or regularizer, not both')
        return self


class TrainConfig(Options):
    """How the compressed model is trained."""

    epochs: MaybeCount = Field(None, description='Number of epochs; either this or train_iter.')
    train_iter: MaybeCount = Field(None, description='Number of batches.')
    learning_rate: _Rate = Field(0.02, description='A number, or a schedule with its type and arguments.')
    optimizer_builder: OptimizerBuilder = Field(OptimizerBuilder(), description='Optimizer, decay and clip.')
    eval_iter: Count = Field(1000, description='The network is evaluated after every epoch, whatever this says.')
    logging_iter: Count = Field(10, description='Progress is a bar, whatever this says.')
    origin_metric: MaybeFloat = Field(None, description='Metric that the given model should have.')
    target_metric: MaybeFloat = Field(None, description='Metric at which training ends.')
    amp_config: _MaybePrecision = Field(None, description='Train in mixed precision.')
    recompute_config: _MaybeMapping = Field(None, description="Not available: put it into Fleet's DistributedStrategy.")
    sharding_config: _MaybeMapping = Field(None, description="Not available: put it into Fleet's DistributedStrategy.")
    sparse_model: bool = Field(False, description='Keep at zero what is zero in 1x1 convolutions.')

    @model_validator(mode='after')
    def _is_possible(self) -> Any:
        if (self.epochs is None) == (self.train_iter is None):
            raise FieldError('', 'needs epochs or train_iter, one of the two')
        for name in ('recompute_config', 'sharding_config'):
            if getattr(self, name) is not None:
                raise FieldError(name, "is not available: put it into Fleet's DistributedStrategy")
        return self
