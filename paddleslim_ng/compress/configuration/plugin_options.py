"""Options of the plugin classes that strategies refer to: pruners, distillers and quantizers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AliasChoices, Field, model_validator

from paddleslim_ng.compress.configuration.quantization_options import WeightType
from paddleslim_ng.compress.configuration.values import (
    Epoch,
    FieldError,
    MaybePositive,
    MaybeText,
    NonNegative,
    Options,
    Positive,
    Share,
    Text,
)

__all__ = [
    'DistillerOptions',
    'FSPDistillerOptions',
    'L2DistillerOptions',
    'LSQQuantizerOptions',
    'LossDistillerOptions',
    'MovingAverageQuantizerOptions',
    'PACTQuantizerOptions',
    'SoftLabelDistillerOptions',
    'StructurePrunerOptions',
]

Criterion = Literal['l1_norm', 'l2_norm', 'l0_norm', 'geometry_median', 'bn_scale', 'random']
LossName = Literal[
    'l2',
    'soft_label',
    'skd',
    'correlation',
    'cosine',
    'attention_transfer',
    'rkd_distance',
    'rkd_angle',
    'similarity',
    'regression',
    'dkd',
]
Scalar = Union[bool, int, float, str]
_Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]
_Pairs = Annotated[list[_Pair], Field(min_length=1)]
_Axes = dict[Text, Literal[0]]
_Criterions = dict[Text, Criterion]
_MaybeThresholds = Optional[dict[Text, Positive]]
_PER_CHANNEL = 'One scale for every output channel of a weight, or one for all of it.'


class StructurePrunerOptions(Options):
    """Options of ``StructurePruner``: how channels are scored and which of them leave."""

    pruning_axis: _Axes = Field(
        {'*': 0}, description='Kept from older files: 0, the output channels, whose removal all readers follow.'
    )
    criterions: _Criterions = Field(
        {'*': 'l1_norm'}, description="Criterion by parameter, as a regular expression; '*' for all others."
    )
    idx_selector: Literal['default_idx_selector', 'optimal_threshold'] = Field(
        'default_idx_selector', description='How channels are chosen by their scores.'
    )
    heads: Literal['auto', 'heads', 'dims'] = Field(
        'auto', description='What may leave where channels are split into heads.'
    )

    @model_validator(mode='after')
    def _has_a_default(self) -> Any:
        if '*' not in self.criterions:
            raise FieldError('criterions', "needs an entry '*' for the parameters that no other entry names")
        return self


class DistillerOptions(Options):
    """What all distillers have in common."""

    weight: NonNegative = Field(
        1.0,
        validation_alias=AliasChoices('weight', 'distillation_loss_weight'),
        description='Factor of the loss in the sum; `distillation_loss_weight` is another name for it.',
    )
    teacher: Epoch = Field(0, description='Number of the teacher, counted from 0, where there are several.')


class _Maps(DistillerOptions):
    student_feature_map: MaybeText = Field(
        None, description="The network's tensor; by default what its last layer with weights computes."
    )
    teacher_feature_map: MaybeText = Field(
        None, description="The teacher's, by its own name; by default the one that is called as the network's."
    )


class L2DistillerOptions(_Maps):
    """Options of ``L2Distiller``: the mean square difference of two tensors."""


class SoftLabelDistillerOptions(_Maps):
    """Options of ``SoftLabelDistiller``: the cross-entropy between softened outputs."""

    student_temperature: Positive = Field(1.0, description="Divides the network's logits.")
    teacher_temperature: Positive = Field(1.0, description="Divides the teacher's logits.")
    scale_by_temperature: bool = Field(False, description='Multiply with both, so that gradients keep their size.')


class LossDistillerOptions(_Maps):
    """Options of ``LossDistiller``: any loss of ``slim.dist`` that compares two tensors."""

    loss: LossName = Field(description='Name of the function in slim.dist.')
    options: dict[str, Scalar] = Field({}, description='Further arguments of that function.')


class FSPDistillerOptions(DistillerOptions):
    """Options of ``FSPDistiller``: the mean square difference of Gram matrices between layers (Yim et al., 2017)."""

    student_pairs: _Pairs = Field(description="Pairs of the network's feature maps.")
    teacher_pairs: _Pairs = Field(description="Pairs of the teacher's feature maps, by their own names.")

    @model_validator(mode='after')
    def _pairs_match(self) -> Any:
        if len(self.student_pairs) != len(self.teacher_pairs):
            raise FieldError(
                'teacher_pairs',
                f'must be as many as student_pairs ({len(self.student_pairs)}), not {len(self.teacher_pairs)}',
            )
        return self


class MovingAverageQuantizerOptions(Options):
    """Options of ``MovingAverageQuantizer``: scales of activations follow the largest magnitudes of the batches."""

    weight_quantize_type: WeightType = Field('channel_wise_abs_max', description=_PER_CHANNEL)
    moving_rate: Share = Field(0.9, description='What the average keeps of the past in every batch.')


class LSQQuantizerOptions(Options):
    """Options of ``LSQQuantizer``: the step between neighbouring integers is learned (Esser et al., 2020)."""

    channel_wise: bool = Field(True, description='Every output channel of a weight has a step of its own.')
    learning_rate: MaybePositive = Field(None, description='Of the steps, which Adam trains; by default 0.001.')


class PACTQuantizerOptions(Options):
    """Options of ``PACTQuantizer``: where activations are cut off is learned (Choi et al., 2018)."""

    weight_quantize_type: WeightType = Field('channel_wise_abs_max', description=_PER_CHANNEL)
    decay: NonNegative = Field(0.0001, description='Decay of the thresholds in the loss.')
    thresholds: _MaybeThresholds = Field(
        None,
        description='Where thresholds start, {tensor: magnitude}; by default at the largest one of the first batch.',
    )
    learning_rate: MaybePositive = Field(None, description='Of the thresholds, which Adam trains; by default 0.001.')
