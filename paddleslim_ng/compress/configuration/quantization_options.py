"""Options of quantization: while training, and after it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.strategy_options import StrategyOptions
from paddleslim_ng.compress.configuration.values import (
    Bits,
    Count,
    Epoch,
    FieldError,
    Fraction,
    MaybeCount,
    MaybeText,
    MaybeTexts,
    Options,
    Positive,
    QuantizerReference,
    Share,
    Text,
    Texts,
)

__all__ = [
    'PostTrainingQuantOptions',
    'QuantizationOptions',
    'QuantizationSearch',
    'Reconstruction',
    'SavePaths',
]

ActivationType = Literal['moving_average_abs_max', 'range_abs_max', 'abs_max']
WeightType = Literal['channel_wise_abs_max', 'abs_max']
# Scales of weights that follow training, too.
AwareWeightType = Literal['channel_wise_abs_max', 'abs_max', 'range_abs_max', 'moving_average_abs_max']
Algorithm = Literal['hist', 'KL', 'mse', 'emd', 'avg', 'abs_max', 'min_max', 'ptf']
_Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
_MaybeEpoch = Optional[Epoch]
_BitsByName = Union[Bits, dict[Text, Bits]]
_QUANTIZER = (
    'Instance of `quantizers`, which says how scales come about; by default the two types of this strategy, '
    '`moving_rate`, `window_size` and `use_pact` do.'
)
_MaybeRegions = Optional[list[Texts]]
_Batches = Annotated[list[Count], Field(min_length=2, max_length=2)]


class SavePaths(StrategyOptions):
    """Which operators become integers, and which files are written at the end."""

    quantize_op_types: MaybeTexts = Field(
        None, description='Types of operators to quantize; by default all that multiply with weights.'
    )
    is_full_quantize: bool = Field(False, description='Quantize operators without weights, too.')
    not_quant_pattern: Texts = Field(['skip_quant'], description='Operators with such a name stay in float.')
    skip_tensor_list: Texts = Field([], description='Operators that read one of these tensors stay in float.')
    float_model_save_path: MaybeText = Field(None, description='Path of the model whose weights are float.')
    int8_model_save_path: MaybeText = Field(None, description='Path of the model whose weights are stored as integers.')
    mobile_model_save_path: MaybeText = Field(None, description='Path of the model for Paddle Lite, a .nb file.')
    inference_model_save_path: MaybeText = Field(None, description='Path of the model for Paddle Inference.')
    save_in_nodes: MaybeTexts = Field(
        None, description='Inputs of the saved models; those that layers with weights depend on by default.'
    )
    save_out_nodes: MaybeTexts = Field(
        None, description='Outputs of the saved models; the logits of the network by default.'
    )


class QuantizationOptions(SavePaths):
    """Options of ``QuantizationStrategy``: training with simulated integers from ``start_epoch`` on."""

    weight_bits: _BitsByName = Field(
        8,
        description='Width of the integers of weights, or {weight: width} of all, as a search for widths finds it.',
    )
    activation_bits: _BitsByName = Field(8, description='The same for activations.')
    weight_quantize_type: AwareWeightType = Field(
        'channel_wise_abs_max',
        description=(
            'One scale for every output channel of a weight, or one for all of it: its largest magnitude now, or '
            'within the window, or as a moving average.'
        ),
    )
    quantizer: QuantizerReference = Field(None, description=_QUANTIZER)
    activation_quantize_type: ActivationType = Field(
        'moving_average_abs_max', description='How the scales of activations follow the batches.'
    )
    moving_rate: Share = Field(0.9, description='Decay of the moving average.')
    window_size: Count = Field(10000, description='Number of batches in the window of range_abs_max.')
    use_pact: bool = Field(False, description='Learn where activations are cut off (PACT).')
    quant_delay: Epoch = Field(0, description='Batches after start_epoch that are still computed in float.')
    freeze_bn_delay: _MaybeEpoch = Field(
        None, description='Batches after start_epoch when the statistics of batch norms are frozen; by default never.'
    )


class Reconstruction(Options):
    """Rounding of weights that is learned, layer by layer or region by region."""

    level: Literal['layer-wise', 'region-wise'] = Field('layer-wise', description='What is reconstructed at once.')
    epochs: Count = Field(20, description='Passes over the calibration data for each of them.')
    lr: Positive = Field(0.1, description='Learning rate.')
    regions: _MaybeRegions = Field(None, description='Input and output of each region.')
    region_weights_names: _MaybeRegions = Field(None, description='Weights of each region.')
    simulate_activation_quant: bool = Field(False, description='Round activations meanwhile, too.')


class QuantizationSearch(Options):
    """A search for the best settings of post-training quantization."""

    algo: Annotated[list[Algorithm], Field(min_length=1)] = Field(
        ['KL', 'hist', 'avg', 'mse'], description='Observers to choose from.'
    )
    bias_correction: Annotated[list[bool], Field(min_length=1)] = Field(
        [True, False], description='Whether biases are corrected.'
    )
    weight_quantize_type: Annotated[list[WeightType], Field(min_length=1)] = Field(
        ['channel_wise_abs_max'], description='Scales of weights to choose from.'
    )
    hist_percent: _Interval = Field([0.98, 0.999], description='Bounds of the percentile of hist.')
    batch_nums: _Batches = Field([10, 30], description='Bounds of the number of calibration batches.')
    trials: Count = Field(20, description='Number of quantized models to compare.')

    @model_validator(mode='after')
    def _bounds_ascend(self) -> Any:
        for name in ('hist_percent', 'batch_nums'):
            low, high = getattr(self, name)
            if low > high:
                raise FieldError(name, f'the lower bound comes first, not [{low}, {high}]')
        return self


_MaybeReconstruction = Optional[Reconstruction]
_MaybeSearch = Optional[QuantizationSearch]


class PostTrainingQuantOptions(SavePaths):
    """Options of ``PostTrainingQuantStrategy``: integers from calibration alone, after the last epoch."""

    weight_bits: Bits = Field(8, description='Width of the integers of weights.')
    activation_bits: Bits = Field(8, description='Width of the integers of activations.')
    algo: Algorithm = Field('hist', description='Which magnitude of an activation the largest integer stands for.')
    hist_percent: Share = Field(0.9999, description='For hist: the fraction of the elements that is not cut off.')
    batch_nums: MaybeCount = Field(None, description='Number of calibration batches; all of the reader by default.')
    round_type: Literal['round', 'adaround'] = Field('round', description='How weights become integers.')
    bias_correction: bool = Field(False, description='Correct biases afterwards.')
    activation_quantize_type: ActivationType = Field(
        'range_abs_max', description="PaddleSlim's name; after training all of them are fixed scales by `algo`."
    )
    weight_quantize_type: WeightType = Field(
        'channel_wise_abs_max', description='One scale for every output channel of a weight, or one for all of it.'
    )
    fold: bool = Field(True, description='Fold batch norms into the weights before them.')
    reconstruction: _MaybeReconstruction = Field(None, description='Learn how weights are rounded.')
    search: _MaybeSearch = Field(None, description='Try several settings and keep the best.')

    @model_validator(mode='after')
    def _one_way_to_choose(self) -> Any:
        for name in ('start_epoch', 'end_epoch'):
            if getattr(self, name):
                raise FieldError(name, 'has no meaning here: the strategy acts once, after the last epoch')
        if self.search is not None and self.reconstruction is not None:
            raise FieldError('reconstruction', 'excludes search, which compares models that are quantized at once')
        clash = self.model_fields_set & {'algo', 'hist_percent', 'batch_nums', 'bias_correction'}
        if self.search is not None and clash:
            raise FieldError(min(clash), 'is searched for: put it below search')
        return self
