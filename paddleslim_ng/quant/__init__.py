"""Quantization: which tensors become integers is data, from which simulated programs and files are made."""

from __future__ import annotations

from paddleslim_ng.quant.analysis import Analysis
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.aware_export import FoldedQuantization, export_aware, fold_quantized
from paddleslim_ng.quant.aware_spec import float_program, spec_of
from paddleslim_ng.quant.aware_types import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, AwareQuantizer, QuantizerRequest
from paddleslim_ng.quant.batch_norm_estimation import reestimate_batch_norm
from paddleslim_ng.quant.batch_norm_folding import FoldedModel, fold_batch_norm
from paddleslim_ng.quant.batch_norm_freezing import BatchNormFreezing, freeze_batch_norm
from paddleslim_ng.quant.bias_correction import CorrectedModel, correct_biases
from paddleslim_ng.quant.bit_environment import BitEnvironment, BitLayer, bit_layers
from paddleslim_ng.quant.bit_search import BitSampler, BitSearchResult, OptunaBitSampler, RandomBitSampler, search_bits
from paddleslim_ng.quant.bit_sensitivity import BitSensitivities, bit_sensitivity, refine_bits
from paddleslim_ng.quant.bits import BitAllocation, BitAllocator, TensorSize, weight_sizes
from paddleslim_ng.quant.blocks import Block, find_blocks, given_blocks
from paddleslim_ng.quant.building import WEIGHT_TYPES, spec_from_thresholds
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.convert import convert
from paddleslim_ng.quant.custom_functions import get_pact_optimizer, pact
from paddleslim_ng.quant.data_sources import read_feeds
from paddleslim_ng.quant.embedding import EMBEDDING_TYPES, quant_embedding
from paddleslim_ng.quant.equalization import EqualizedModel, equalize
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.export_checks import Agreement
from paddleslim_ng.quant.fine_tuning import LayerTuning, tune_global, tune_layerwise
from paddleslim_ng.quant.formats import FORMATS
from paddleslim_ng.quant.grid_quantizers import AbsMaxQuantizer, BatchQuantizer, MovingAverageQuantizer, RangeQuantizer
from paddleslim_ng.quant.layer_errors import LayerError, RuntimeErrors
from paddleslim_ng.quant.low_bit import LowBitLayer, LowBitProgram
from paddleslim_ng.quant.non_uniform_quantizer import NonUniformQuantizer
from paddleslim_ng.quant.observers import OBSERVERS, threshold
from paddleslim_ng.quant.post_training import ACTIVATION_TYPES, quant_post, quant_post_static
from paddleslim_ng.quant.post_training_search import quant_post_hpo
from paddleslim_ng.quant.quantization_trials import SearchedModel
from paddleslim_ng.quant.quantized_model import ROUND_TYPES, QuantizedModel, quantize_model
from paddleslim_ng.quant.quantizers import abs_max_scale, dequantize, fake_quantize, quantize, scale_of_threshold
from paddleslim_ng.quant.reconstruction import BlockResult, Learning, ReconstructedModel, reconstruct
from paddleslim_ng.quant.reconstruction_static import quant_recon_static
from paddleslim_ng.quant.runtime_errors import runtime_errors
from paddleslim_ng.quant.simulate import SimulatedProgram, simulate
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization
from paddleslim_ng.quant.statistics import CalibrationStatistics, TensorStatistics
from paddleslim_ng.quant.storage import StorageReport, TensorStorage, storage_report
from paddleslim_ng.quant.straight_through import FakeQuantizer, quantize_reads
from paddleslim_ng.quant.target_model import TargetModel
from paddleslim_ng.quant.targets import TargetOperator, Targets, find_targets
from paddleslim_ng.quant.trial_log import Trial
from paddleslim_ng.quant.uniform_quantizer import UniformQuantizer
from paddleslim_ng.quant.variants import QuantizedVariants
from paddleslim_ng.quant.weight_only import (
    WeightOnlyModel,
    quant_post_dynamic,
    quant_post_only_weight,
    quantize_weights,
)

__all__ = [
    'ACTIVATION_QUANTIZERS',
    'ACTIVATION_TYPES',
    'EMBEDDING_TYPES',
    'FORMATS',
    'OBSERVERS',
    'ROUND_TYPES',
    'WEIGHT_QUANTIZERS',
    'WEIGHT_TYPES',
    'AbsMaxQuantizer',
    'Agreement',
    'Analysis',
    'AwareQuantizer',
    'BatchNormFreezing',
    'BatchQuantizer',
    'BitAllocation',
    'BitAllocator',
    'BitEnvironment',
    'BitLayer',
    'BitSampler',
    'BitSearchResult',
    'BitSensitivities',
    'Block',
    'BlockResult',
    'CalibrationStatistics',
    'CorrectedModel',
    'EqualizedModel',
    'ExportedModel',
    'FakeQuantizer',
    'FoldedModel',
    'FoldedQuantization',
    'LayerError',
    'LayerTuning',
    'Learning',
    'LowBitLayer',
    'LowBitProgram',
    'MovingAverageQuantizer',
    'NonUniformQuantizer',
    'OptunaBitSampler',
    'QuantizationSpec',
    'QuantizedModel',
    'QuantizedVariants',
    'QuantizerRequest',
    'RandomBitSampler',
    'RangeQuantizer',
    'ReconstructedModel',
    'RuntimeErrors',
    'SearchedModel',
    'SimulatedProgram',
    'StorageReport',
    'TargetModel',
    'TargetOperator',
    'Targets',
    'TensorQuantization',
    'TensorSize',
    'TensorStatistics',
    'TensorStorage',
    'Trial',
    'UniformQuantizer',
    'WeightOnlyModel',
    'abs_max_scale',
    'bit_layers',
    'bit_sensitivity',
    'calibrate',
    'convert',
    'correct_biases',
    'dequantize',
    'equalize',
    'export_aware',
    'export_quantized',
    'fake_quantize',
    'find_blocks',
    'find_targets',
    'float_program',
    'fold_batch_norm',
    'fold_quantized',
    'freeze_batch_norm',
    'get_pact_optimizer',
    'given_blocks',
    'pact',
    'quant_aware',
    'quant_embedding',
    'quant_post',
    'quant_post_dynamic',
    'quant_post_hpo',
    'quant_post_only_weight',
    'quant_post_static',
    'quant_recon_static',
    'quantize',
    'quantize_model',
    'quantize_reads',
    'quantize_weights',
    'read_feeds',
    'reconstruct',
    'reestimate_batch_norm',
    'refine_bits',
    'runtime_errors',
    'scale_of_threshold',
    'search_bits',
    'simulate',
    'spec_from_thresholds',
    'spec_of',
    'storage_report',
    'threshold',
    'tune_global',
    'tune_layerwise',
    'weight_sizes',
]
