"""The sections of PaddleSlim's AutoCompression files that quantize, with its keys and defaults."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

from pydantic import Field

from paddleslim_ng.compress.configuration.quantization_options import (
    ActivationType,
    Algorithm,
    AwareWeightType,
    WeightType,
)
from paddleslim_ng.compress.configuration.values import (
    Bits,
    Count,
    Fraction,
    MaybeCount,
    MaybeTexts,
    Options,
    Positive,
    Share,
    Text,
    Texts,
)

__all__ = ['HyperParameterOptimization', 'QuantAware', 'QuantPost']

_MaybeRegions = Optional[list[Texts]]
_MaybeLevel = Optional[Literal['layer-wise', 'region-wise']]
_Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
_Batches = Annotated[list[Count], Field(min_length=2, max_length=2)]
_WEIGHTS_ALONE: list[Text] = ['conv2d', 'depthwise_conv2d', 'mul', 'matmul', 'matmul_v2']
_WITH_TRANSPOSE: list[Text] = ['conv2d', 'depthwise_conv2d', 'conv2d_transpose', 'mul', 'matmul', 'matmul_v2']


class QuantAware(Options):
    """Quantization-aware training."""

    quantize_op_types: Texts = Field(_WITH_TRANSPOSE, description='Types of operators to quantize.')
    weight_bits: Bits = Field(8, description='Width of the integers of weights.')
    activation_bits: Bits = Field(8, description='Width of the integers of activations.')
    not_quant_pattern: Texts = Field(['skip_quant'], description='Operators with such a name stay in float.')
    use_pact: bool = Field(False, description='Learn where activations are cut off (PACT).')
    activation_quantize_type: ActivationType = Field(
        'moving_average_abs_max', description='How the scales of activations follow the batches.'
    )
    weight_quantize_type: AwareWeightType = Field(
        'channel_wise_abs_max', description='How the scales of weights come about.'
    )
    dtype: Literal['int8'] = Field('int8', description='Type of the integers.')
    window_size: Count = Field(10000, description='Number of batches in the window of range_abs_max.')
    moving_rate: Share = Field(0.9, description='Decay of the moving average.')
    for_tensorrt: bool = Field(False, description='Quantize the types of operators that TensorRT has.')
    onnx_format: bool = Field(True, description='Files hold quantize_linear operators, whatever this says.')
    is_full_quantize: bool = Field(False, description='Quantize operators without weights, too.')


class QuantPost(Options):
    """Post-training quantization."""

    batch_size: Count = Field(32, description='Batches are those of the reader, whatever this says.')
    batch_nums: MaybeCount = Field(None, description='Number of calibration batches; all of the reader by default.')
    epochs: Count = Field(20, description='Passes over the calibration data for each reconstruction.')
    lr: Positive = Field(0.1, description='Learning rate of the reconstruction.')
    algo: Algorithm = Field('hist', description='Which magnitude the largest integer of an activation stands for.')
    hist_percent: Share = Field(0.999, description='For hist: the fraction of the elements that is not cut off.')
    regions: _MaybeRegions = Field(None, description='Input and output of each region.')
    region_weights_names: _MaybeRegions = Field(None, description='Weights of each region.')
    recon_level: _MaybeLevel = Field(None, description='Learn how weights are rounded, layer by layer or by regions.')
    is_full_quantize: bool = Field(False, description='Quantize operators without weights, too.')
    bias_correction: bool = Field(False, description='Correct biases afterwards.')
    weight_quantize_type: WeightType = Field(
        'channel_wise_abs_max', description='One scale for every output channel of a weight, or one for all of it.'
    )
    activation_quantize_type: ActivationType = Field(
        'range_abs_max', description='After training all of them are fixed scales by `algo`.'
    )
    simulate_activation_quant: bool = Field(False, description='Round activations during reconstruction, too.')
    skip_tensor_list: MaybeTexts = Field(None, description='Operators that read one of these tensors stay in float.')
    onnx_format: bool = Field(True, description='Files hold quantize_linear operators, whatever this says.')
    quantize_op_types: Texts = Field(_WEIGHTS_ALONE, description='Types of operators to quantize.')
    weight_bits: Bits = Field(8, description='Width of the integers of weights.')
    activation_bits: Bits = Field(8, description='Width of the integers of activations.')


class HyperParameterOptimization(Options):
    """A search for the settings of post-training quantization."""

    ptq_algo: list[Algorithm] = Field(['KL', 'hist', 'avg', 'mse'], description='Observers to choose from.')
    bias_correct: list[bool] = Field([True, False], description='Whether biases are corrected.')
    weight_quantize_type: list[WeightType] = Field(
        ['channel_wise_abs_max'], description='Scales of weights to choose from.'
    )
    hist_percent: _Interval = Field([0.98, 0.999], description='Bounds of the percentile of hist.')
    batch_num: _Batches = Field([10, 30], description='Bounds of the number of calibration batches.')
    max_quant_count: Count = Field(20, description='Number of quantized models to compare.')
