"""PaddleSlim's AutoCompression files become strategies that do what they say there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from paddleslim_ng.compress.configuration import CompressionConfig, load_config
from paddleslim_ng.compress.configuration.act_sections import ACT_MODELS
from paddleslim_ng.errors import ConfigError

TRAIN = {'epochs': 20, 'learning_rate': 0.02}


def load(**sections: Any) -> CompressionConfig:
    return load_config(sections)


def of(config: CompressionConfig, name: str, *keys: str) -> Any:
    found = config.instances[name].options
    assert found is not None
    values = found.model_dump()
    return {key: values[key] for key in keys} if keys else values


def classes(config: CompressionConfig) -> list[tuple[str, str]]:
    return [(one.name, one.class_name) for one in config.strategies]


# Keys and defaults of PaddleSlim 2.6, as its users know them.
DEFAULTS: dict[str, dict[str, Any]] = {
    'QuantAware': {
        'quantize_op_types': ['conv2d', 'depthwise_conv2d', 'conv2d_transpose', 'mul', 'matmul', 'matmul_v2'],
        'weight_bits': 8,
        'activation_bits': 8,
        'not_quant_pattern': ['skip_quant'],
        'use_pact': False,
        'activation_quantize_type': 'moving_average_abs_max',
        'weight_quantize_type': 'channel_wise_abs_max',
        'dtype': 'int8',
        'window_size': 10000,
        'moving_rate': 0.9,
        'for_tensorrt': False,
        'onnx_format': True,
        'is_full_quantize': False,
    },
    'Distillation': {
        'loss': 'l2',
        'node': [],
        'alpha': 1.0,
        'teacher_model_dir': None,
        'teacher_model_filename': None,
        'teacher_params_filename': None,
    },
    'HyperParameterOptimization': {
        'ptq_algo': ['KL', 'hist', 'avg', 'mse'],
        'bias_correct': [True, False],
        'weight_quantize_type': ['channel_wise_abs_max'],
        'hist_percent': [0.98, 0.999],
        'batch_num': [10, 30],
        'max_quant_count': 20,
    },
    'QuantPost': {
        'batch_size': 32,
        'batch_nums': None,
        'epochs': 20,
        'lr': 0.1,
        'algo': 'hist',
        'hist_percent': 0.999,
        'regions': None,
        'region_weights_names': None,
        'recon_level': None,
        'is_full_quantize': False,
        'bias_correction': False,
        'weight_quantize_type': 'channel_wise_abs_max',
        'activation_quantize_type': 'range_abs_max',
        'simulate_activation_quant': False,
        'skip_tensor_list': None,
        'onnx_format': True,
        'quantize_op_types': ['conv2d', 'depthwise_conv2d', 'mul', 'matmul', 'matmul_v2'],
        'weight_bits': 8,
        'activation_bits': 8,
    },
    'ChannelPrune': {'prune_params_name': None, 'criterion': 'l1_norm'},
    'ASPPrune': {'prune_params_name': None},
    'UnstructurePrune': {
        'prune_strategy': None,
        'prune_mode': 'ratio',
        'threshold': 0.01,
        'ratio': 0.55,
        'gmp_config': None,
        'prune_params_type': 'conv1x1_only',
        'local_sparsity': False,
    },
    'TrainConfig': {
        'epochs': None,
        'train_iter': None,
        'learning_rate': 0.02,
        'eval_iter': 1000,
        'logging_iter': 10,
        'origin_metric': None,
        'target_metric': None,
        'amp_config': None,
        'recompute_config': None,
        'sharding_config': None,
        'sparse_model': False,
    },
}


@pytest.mark.parametrize('section', DEFAULTS)
def test_keys_and_defaults(section: str) -> None:
    fields = ACT_MODELS[section].model_fields
    found = {name: field.default for name, field in fields.items() if not field.is_required()}
    found.pop('optimizer_builder', None)
    assert found == DEFAULTS[section]


def test_quantization_aware_training() -> None:
    """A file as PaddleSlim ships them for image classification, with its settings for the user's script."""
    text = """\
Global:
  model_dir: MobileNetV1_infer
  model_filename: inference.pdmodel
  params_filename: inference.pdiparams
  batch_size: 32
Distillation:
  alpha: 1.0
  loss: l2
  node:
  - softmax_0.tmp_0
QuantAware:
  use_pact: true
  activation_bits: 8
  weight_bits: 4
  onnx_format: True
  quantize_op_types:
  - conv2d
  - depthwise_conv2d
TrainConfig:
  epochs: 3
  eval_iter: 500
  learning_rate:
    type: CosineAnnealingDecay
    learning_rate: 0.015
  optimizer_builder:
    optimizer:
      type: Momentum
    weight_decay: 0.00002
  origin_metric: 0.70898
"""
    config = load_config(yaml.safe_load(text))
    assert classes(config) == [('distill', 'DistillationStrategy'), ('quantize', 'QuantizationStrategy')]
    assert of(config, 'distill', 'teacher', 'task_weight', 'distillers', 'start_epoch', 'end_epoch') == {
        'teacher': 'original',
        'task_weight': 0.0,
        'distillers': ['distiller_0'],
        'start_epoch': 0,
        'end_epoch': 0,
    }
    assert config.instances['distiller_0'].class_name == 'L2Distiller'
    assert of(config, 'distiller_0') == {
        'student_feature_map': 'softmax_0.tmp_0',
        'teacher_feature_map': 'softmax_0.tmp_0',
        'weight': 1.0,
        'teacher': 0,
    }
    assert of(config, 'quantize', 'use_pact', 'weight_bits', 'quantize_op_types', 'start_epoch') == {
        'use_pact': True,
        'weight_bits': 4,
        'quantize_op_types': ['conv2d', 'depthwise_conv2d'],
        'start_epoch': 0,
    }
    assert (config.epochs, config.compressor.schedule_by) == (3, 'batch')
    assert config.compressor.optimizer is not None
    assert config.compressor.optimizer.model_dump(exclude={'learning_rate'}) == {
        'type': 'Momentum',
        'momentum': 0.9,
        'use_nesterov': False,
        'weight_decay': 0.00002,
        'gradient_clip': None,
    }
    assert config.settings['batch_size'] == 32
    assert config.saved_model is not None
    assert (config.saved_model.model_dir, config.saved_model.origin_metric) == ('MobileNetV1_infer', 0.70898)
    assert [note.path for note in config.notes] == [('TrainConfig', 'eval_iter')]


def test_older_names_and_operators_of_tensorrt() -> None:
    """``Quantization`` is what ``QuantAware`` was called; what has no effect is told."""
    from paddleslim_ng.quant.aware_config import AwareConfig

    section = {'for_tensorrt': True, 'onnx_format': False, 'weight_quantize_type': 'range_abs_max'}
    config = load(
        Global=None, Distillation={'teacher_model_filename': 'm'}, Quantization=section, TrainConfig={'epochs': 2}
    )
    assert classes(config) == [('distill', 'DistillationStrategy'), ('quantize', 'QuantizationStrategy')]
    found = of(config, 'quantize')
    assert found['quantize_op_types'] == AwareConfig(for_tensorrt=True).types
    assert found['weight_quantize_type'] == 'range_abs_max'
    assert [note.path for note in config.notes] == [
        ('QuantAware',), ('Distillation', 'teacher_model_filename'), ('QuantAware', 'onnx_format'),
    ]  # fmt: skip


def test_every_key_is_described() -> None:
    assert all(field.description for model in ACT_MODELS.values() for field in model.model_fields.values())


def test_two_stages() -> None:
    config = load(ChannelPrune={'pruned_ratio': 0.25}, Distillation=None, QuantAware=None, TrainConfig=TRAIN)
    assert [name for name, _ in classes(config)] == ['prune', 'distill', 'quantize']
    assert of(config, 'quantize')['start_epoch'] == 20
    assert config.epochs == 22
    assert config.compressor.schedule_by == 'epoch'
    optimizer = config.compressor.optimizer
    assert optimizer is not None
    assert optimizer.learning_rate.model_dump() == {  # type: ignore[union-attr]
        'type': 'PiecewiseDecay',
        'boundaries': [20],
        'values': [0.02, 0.002],
    }
    short = load(ASPPrune=None, Distillation=None, QuantAware=None, TrainConfig={'epochs': 3})
    assert (short.epochs, of(short, 'quantize')['start_epoch']) == (4, 3)


def test_channel_pruning() -> None:
    config = load(ChannelPrune={'pruned_ratio': 0.25, 'criterion': 'bn_scale'}, Distillation=None, TrainConfig=TRAIN)
    assert of(config, 'prune', 'channel_ratios', 'pruned_params', 'pruner') == {
        'channel_ratios': 0.25,
        'pruned_params': '.*',
        'pruner': 'pruner',
    }
    assert of(config, 'pruner')['criterions'] == {'*': 'bn_scale'}
    section = {'pruned_ratio': [0.25, 0.5], 'prune_params_name': ['conv2d_0.w_0', 'a+b']}
    named = load(ChannelPrune=section, Distillation=None, TrainConfig=TRAIN)
    assert of(named, 'prune')['channel_ratios'] == {'conv2d_0.w_0': 0.25, 'a+b': 0.5}
    assert of(named, 'prune')['pruned_params'] == r'conv2d_0\.w_0|a\+b'


def test_single_weights() -> None:
    config = load(UnstructurePrune={'ratio': 0.6}, Distillation=None, TrainConfig=TRAIN)
    assert of(config, 'sparse', 'mode', 'ratio', 'prune_params_type', 'local_sparsity') == {
        'mode': 'ratio',
        'ratio': 0.6,
        'prune_params_type': 'conv1x1_only',
        'local_sparsity': False,
    }
    section = {'prune_mode': 'threshold', 'threshold': 0.5, 'prune_params_type': 'None'}
    below = load(UnstructurePrune=section, Distillation=None, TrainConfig=TRAIN)
    assert of(below, 'sparse', 'mode', 'threshold', 'prune_params_type') == {
        'mode': 'threshold',
        'threshold': 0.5,
        'prune_params_type': None,
    }
    phases = {
        'stable_iterations': 3,
        'pruning_iterations': 4500,
        'tunning_iterations': 400,
        'resume_iteration': -1,
        'pruning_steps': 100,
        'initial_ratio': 0.15,
    }
    gradual = load(
        UnstructurePrune={'prune_strategy': 'gmp', 'ratio': 0.75, 'gmp_config': phases, 'local_sparsity': True},
        Distillation=None,
        TrainConfig=TRAIN,
    )
    assert classes(gradual)[0] == ('sparse', 'GMPStrategy')
    keys = ('ratio', 'stable_iterations', 'pruning_iterations', 'tuning_iterations', 'pruning_steps', 'initial_ratio')
    assert list(of(gradual, 'sparse', *keys).values()) == [0.75, 3, 4500, 400, 100, 0.15]
    assert of(gradual, 'sparse')['local_sparsity'] is True
    free = load(UnstructurePrune={'prune_strategy': 'gmp'}, Distillation=None, TrainConfig=TRAIN)
    assert of(free, 'sparse')['pruning_iterations'] is None


def test_two_of_four() -> None:
    config = load(ASPPrune={'prune_params_name': ['a']}, Distillation=None, TrainConfig=TRAIN)
    assert of(config, 'asp', 'pattern', 'pruned_params') == {'pattern': '2:4', 'pruned_params': 'a'}


def test_zeros_that_are_there_already() -> None:
    config = load(QuantAware=None, Distillation=None, TrainConfig={**TRAIN, 'sparse_model': True})
    assert classes(config)[0] == ('keep_sparse', 'UnstructuredPruneStrategy')
    assert of(config, 'keep_sparse', 'mode', 'prune_params_type') == {
        'mode': 'static',
        'prune_params_type': 'conv1x1_only',
    }


def test_nodes_of_distillation() -> None:
    section = {
        'loss': ['l2', 'soft_label', 'dkd'],
        'node': [['a', 'b'], ['teacher_x', 'y'], ['c']],
        'alpha': [1.0, 0.5, 2],
        'teacher_model_dir': 'big',
        'teacher_params_filename': 'weights',
    }
    config = load(Distillation=section, TrainConfig=TRAIN)
    rows = [
        (one.class_name, *of(config, one.name, 'student_feature_map', 'teacher_feature_map', 'weight').values())
        for one in config.instances.values()
        if one.section == 'distillers'
    ]
    assert rows == [
        ('L2Distiller', 'a', 'a', 1.0),
        ('L2Distiller', 'b', 'b', 1.0),
        ('SoftLabelDistiller', 'y', 'x', 0.5),
        ('LossDistiller', 'c', 'c', 2.0),
    ]
    assert of(config, 'distiller_3')['loss'] == 'dkd'
    assert of(config, 'distill')['teacher'] == {
        'model_dir': 'big',
        'model_filename': None,
        'params_filename': 'weights',
    }
    bare = load(Distillation=None, TrainConfig=TRAIN)
    assert of(bare, 'distiller_0', 'student_feature_map', 'teacher_feature_map') == {
        'student_feature_map': None,
        'teacher_feature_map': None,
    }


def test_several_teachers() -> None:
    section = {
        'loss': ['l2', 'soft_label'],
        'node': [['teacher1_a', 'b'], ['teacher2_c', 'd']],
        'alpha': [1.0, 3.0],
        'teacher_model_dir': ['one', 'two'],
        'teacher_model_filename': ['m', 'n'],
    }
    config = load(MultiTeacherDistillation=section, TrainConfig=TRAIN)
    assert [of(config, f'distiller_{number}')['teacher'] for number in range(2)] == [0, 1]
    assert of(config, 'distiller_1', 'student_feature_map', 'teacher_feature_map', 'weight') == {
        'student_feature_map': 'd',
        'teacher_feature_map': 'c',
        'weight': 3.0,
    }
    assert [one['model_dir'] for one in of(config, 'distill')['teacher']] == ['one', 'two']
    section['node'] = [['teacher1_a', 'b'], ['teacher1_c', 'd']]
    with pytest.raises(ConfigError, match=r"node\[1\]: 'teacher1_c' is of another teacher than teacher2"):
        load(MultiTeacherDistillation=section, TrainConfig=TRAIN)


def test_post_training_quantization() -> None:
    config = load(QuantPost={'algo': 'avg', 'weight_bits': 6, 'batch_nums': 4, 'skip_tensor_list': ['t']})
    assert (config.epochs, classes(config)) == (0, [('quantize', 'PostTrainingQuantStrategy')])
    assert of(config, 'quantize', 'algo', 'weight_bits', 'batch_nums', 'hist_percent', 'skip_tensor_list') == {
        'algo': 'avg',
        'weight_bits': 6,
        'batch_nums': 4,
        'hist_percent': 0.999,
        'skip_tensor_list': ['t'],
    }
    learned = load(QuantPost={'recon_level': 'layer-wise', 'lr': 0.2, 'simulate_activation_quant': True})
    assert of(learned, 'quantize')['reconstruction'] == {
        'level': 'layer-wise',
        'epochs': 20,
        'lr': 0.2,
        'regions': None,
        'region_weights_names': None,
        'simulate_activation_quant': True,
    }
    assert [note.path for note in load(QuantPost={'lr': 0.2, 'batch_size': 3}).notes] == [
        ('QuantPost', 'lr'),
        ('QuantPost', 'batch_size'),
    ]


def test_search() -> None:
    config = load(QuantPost={'algo': 'avg'}, HyperParameterOptimization={'ptq_algo': ['KL'], 'max_quant_count': 3})
    assert of(config, 'quantize')['search'] == {
        'algo': ['KL'],
        'bias_correction': [True, False],
        'weight_quantize_type': ['channel_wise_abs_max'],
        'hist_percent': [0.98, 0.999],
        'batch_nums': [10, 30],
        'trials': 3,
    }
    assert [note.path for note in config.notes] == [('QuantPost', 'algo')]


def test_batches_instead_of_epochs() -> None:
    config = load(QuantAware=None, Distillation=None, TrainConfig={'train_iter': 250})
    assert config.saved_model is not None
    assert config.saved_model.batches == 250
    assert config.with_epochs(100).epochs == 3
    assert config.with_epochs(250).epochs == 1
    with pytest.raises(ConfigError, match='is a number of batches, not 0'):
        config.with_epochs(0)
    fixed = load(QuantAware=None, Distillation=None, TrainConfig=TRAIN)
    assert fixed.with_epochs(7) is fixed


def test_training() -> None:
    builder = {
        'optimizer': {'type': 'Adam', 'beta1': 0.8},
        'regularizer': {'type': 'L2Decay', 'coeff': 0.1},
        'grad_clip': {'type': 'ClipGradByValue', 'max': 2.0},
    }
    amp = {'custom_white_list': ['conv2d'], 'use_pure_fp16': True}
    config = load(
        Distillation=None,
        TrainConfig={**TRAIN, 'optimizer_builder': builder, 'amp_config': amp, 'target_metric': 0.7},
    )
    optimizer = config.compressor.optimizer
    assert optimizer is not None
    assert optimizer.model_dump(include={'type', 'beta1', 'weight_decay', 'gradient_clip', 'learning_rate'}) == {
        'type': 'Adam',
        'beta1': 0.8,
        'weight_decay': {'type': 'L2Decay', 'coeff': 0.1},
        'gradient_clip': {'type': 'ClipGradByValue', 'max': 2.0},
        'learning_rate': 0.02,
    }
    assert config.compressor.amp is not None
    assert config.compressor.amp.model_dump(exclude_none=True) == {
        'init_loss_scaling': 128.0,
        'use_pure_fp16': True,
        'custom_white_list': ['conv2d'],
    }
    assert config.saved_model is not None
    assert config.saved_model.target_metric == 0.7


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / 'act.yaml'
    file.write_text('Global: {}\nQuantAware:\nDistillation:\nTrainConfig:\n  epochs: 3\n', 'utf-8')
    config = load_config(file)
    assert {name: one.place.line for name, one in config.instances.items()} == {
        'quantize': 2,
        'distill': 3,
        'distiller_0': 3,
    }
