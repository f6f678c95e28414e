"""The sections of PaddleSlim's AutoCompression files, with its keys and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Optional, Union

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.compressor_settings import MixedPrecision
from paddleslim_ng.compress.configuration.plugin_options import Criterion
from paddleslim_ng.compress.configuration.quantization_options import ActivationType, Algorithm, WeightType
from paddleslim_ng.compress.configuration.values import (
    Bits,
    Count,
    FieldError,
    Fraction,
    MaybeCount,
    MaybeFloat,
    MaybeText,
    MaybeTexts,
    NonNegative,
    Options,
    Positive,
    Share,
    Text,
    Texts,
)

__all__ = ['ACT_MODELS']

_Loss = Literal['l2', 'soft_label', 'skd', 'dkd', 'l2_loss', 'soft_label_loss']
_Losses = Union[_Loss, list[_Loss]]
_Nodes = Union[list[Text], list[Texts]]
_Alphas = Union[NonNegative, list[NonNegative]]
_Ratios = Union[Share, list[Share]]
_MaybeRegions = Optional[list[Texts]]
_MaybeLevel = Optional[Literal['layer-wise', 'region-wise']]
_MaybePrecision = Optional[MixedPrecision]
_MaybeMapping = Optional[dict[str, Any]]
_Strategy = Optional[Literal['base', 'gmp']]
_ParamsType = Optional[Literal['conv1x1_only']]
_Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
_Rate = Union[Positive, dict[str, Any]]
_OPERATORS = ['conv2d', 'depthwise_conv2d', 'conv2d_transpose', 'mul', 'matmul', 'matmul_v2']


class QuantAware(Options):
    """Quantization-aware training."""

    quantize_op_types: Texts = _OPERATORS
    weight_bits: Bits = 8
    activation_bits: Bits = 8
    not_quant_pattern: Texts = ['skip_quant']
    use_pact: bool = False
    activation_quantize_type: ActivationType = 'moving_average_abs_max'
    weight_quantize_type: WeightType = 'channel_wise_abs_max'
    dtype: Literal['int8'] = 'int8'
    window_size: Count = 10000
    moving_rate: Share = 0.9
    for_tensorrt: bool = False
    onnx_format: bool = True
    is_full_quantize: bool = False

    @model_validator(mode='after')
    def _for_devices_here(self) -> Any:
        if self.for_tensorrt:
            raise FieldError('for_tensorrt', 'is not available: list the operators in quantize_op_types')
        return self


class Distillation(Options):
    """Distillation from one teacher."""

    loss: _Losses = 'l2'
    node: _Nodes = []
    alpha: _Alphas = 1.0
    teacher_model_dir: MaybeText = None
    teacher_model_filename: MaybeText = None
    teacher_params_filename: MaybeText = None

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

    loss: Annotated[list[_Loss], Field(min_length=1)]
    node: list[Texts]
    alpha: list[NonNegative]
    teacher_model_dir: Texts
    teacher_model_filename: MaybeTexts = None
    teacher_params_filename: MaybeTexts = None

    @model_validator(mode='after')
    def _lists_match(self) -> Any:
        for name in ('node', 'alpha', 'teacher_model_dir', 'teacher_model_filename', 'teacher_params_filename'):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.loss):
                raise FieldError(name, f'must have one entry for each loss ({len(self.loss)}), not {len(value)}')
        return self


class HyperParameterOptimization(Options):
    """A search for the settings of post-training quantization."""

    ptq_algo: list[Algorithm] = ['KL', 'hist', 'avg', 'mse']
    bias_correct: list[bool] = [True, False]
    weight_quantize_type: list[WeightType] = ['channel_wise_abs_max']
    hist_percent: _Interval = [0.98, 0.999]
    batch_num: Annotated[list[Count], Field(min_length=2, max_length=2)] = [10, 30]
    max_quant_count: Count = 20


class QuantPost(Options):
    """Post-training quantization."""

    batch_size: Count = 32
    batch_nums: MaybeCount = None
    epochs: Count = 20
    lr: Positive = 0.1
    algo: Algorithm = 'hist'
    hist_percent: Share = 0.999
    regions: _MaybeRegions = None
    region_weights_names: _MaybeRegions = None
    recon_level: _MaybeLevel = None
    is_full_quantize: bool = False
    bias_correction: bool = False
    weight_quantize_type: WeightType = 'channel_wise_abs_max'
    activation_quantize_type: ActivationType = 'range_abs_max'
    simulate_activation_quant: bool = False
    skip_tensor_list: MaybeTexts = None
    onnx_format: bool = True
    quantize_op_types: Texts = ['conv2d', 'depthwise_conv2d', 'mul', 'matmul', 'matmul_v2']
    weight_bits: Bits = 8
    activation_bits: Bits = 8


class ChannelPrune(Options):
    """Channel pruning by given ratios."""

    pruned_ratio: _Ratios
    prune_params_name: MaybeTexts = None
    criterion: Criterion = 'l1_norm'

    @model_validator(mode='after')
    def _one_for_each(self) -> Any:
        if isinstance(self.pruned_ratio, list) and len(self.pruned_ratio) != len(self.prune_params_name or ()):
            raise FieldError('pruned_ratio', 'is a list, so it must have one entry for each of prune_params_name')
        return self


class ASPPrune(Options):
    """Two of every four weights."""

    prune_params_name: MaybeTexts = None


class GmpConfig(Options):
    """Phases of gradual magnitude pruning."""

    stable_iterations: Annotated[int, Field(ge=0)] = 0
    pruning_iterations: Count
    tunning_iterations: Annotated[int, Field(ge=0)]
    resume_iteration: int = -1
    pruning_steps: Count
    initial_ratio: Fraction


_MaybeGmp = Optional[GmpConfig]


class UnstructurePrune(Options):
    """Pruning of single weights."""

    prune_strategy: _Strategy = None
    prune_mode: Literal['ratio', 'threshold'] = 'ratio'
    threshold: NonNegative = 0.01
    ratio: Share = 0.55
    gmp_config: _MaybeGmp = None
    prune_params_type: _ParamsType = 'conv1x1_only'
    local_sparsity: bool = False

    @model_validator(mode='after')
    def _choices_fit(self) -> Any:
        if self.prune_strategy == 'gmp' and self.prune_mode != 'ratio':
            raise FieldError('prune_mode', 'must be ratio beside prune_strategy: gmp')
        if self.prune_strategy != 'gmp' and self.gmp_config is not None:
            raise FieldError('gmp_config', 'needs prune_strategy: gmp')
        if self.prune_mode == 'threshold' and self.local_sparsity:
            raise FieldError('local_sparsity', 'needs prune_mode: ratio')
        return self


class OptimizerBuilder(Options):
    """An optimizer, its weight decay and its clip."""

    optimizer: dict[str, Any] = {'type': 'SGD'}
    weight_decay: MaybeFloat = None
    regularizer: _MaybeMapping = None
    grad_clip: _MaybeMapping = None

    @model_validator(mode='after')
    def _one_decay(self) -> Any:
        if self.weight_decay is not None and self.regularizer is not None:
            raise FieldError('regularizer', 'give weight_decay or regularizer, not both')
        return self


class TrainConfig(Options):
    """How the compressed model is trained."""

    epochs: MaybeCount = None
    train_iter: MaybeCount = None
    learning_rate: _Rate = 0.02
    optimizer_builder: OptimizerBuilder = OptimizerBuilder()
    eval_iter: Count = 1000
    logging_iter: Count = 10
    origin_metric: MaybeFloat = None
    target_metric: MaybeFloat = None
    amp_config: _MaybePrecision = None
    recompute_config: _MaybeMapping = None
    sharding_config: _MaybeMapping = None
    sparse_model: bool = False

    @model_validator(mode='after')
    def _is_possible(self) -> Any:
        if (self.epochs is None) == (self.train_iter is None):
            raise FieldError('', 'needs epochs or train_iter, one of the two')
        for name in ('recompute_config', 'sharding_config'):
            if getattr(self, name) is not None:
                raise FieldError(name, "is not available: put it into Fleet's DistributedStrategy")
        return self


ACT_MODELS: Final[Mapping[str, type[Options]]] = {
    model.__name__: model
    for model in (
        QuantAware,
        Distillation,
        MultiTeacherDistillation,
        HyperParameterOptimization,
        QuantPost,
        ChannelPrune,
        ASPPrune,
        UnstructurePrune,
        TrainConfig,
    )
}
