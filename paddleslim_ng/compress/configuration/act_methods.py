"""PaddleSlim's sections of compression methods as plugins and strategies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from paddleslim_ng.compress.configuration import act_sections as act
from paddleslim_ng.compress.configuration.act_draft import Draft
from paddleslim_ng.compress.configuration.act_training import quantization_start
from paddleslim_ng.compress.configuration.problems import KeyPath

__all__ = ['METHODS']

_TEACHER: Final = re.compile(r'teacher(\d*)_(.+)')
_DISTILLERS: Final = {
    'l2': 'L2Distiller',
    'l2_loss': 'L2Distiller',
    'soft_label': 'SoftLabelDistiller',
    'soft_label_loss': 'SoftLabelDistiller',
}
# Those of TensorRT, as in PaddleSlim.
_TENSORRT: Final = ('conv2d', 'depthwise_conv2d', 'elementwise_add', 'leaky_relu', 'mul', 'pool2d')
_FORMAT: Final = 'has no effect: files hold quantize_linear operators'


def _channel_prune(section: act.ChannelPrune, sections: Mapping[str, Any], draft: Draft) -> None:
    ratio = section.pruned_ratio
    names = section.prune_params_name
    draft.add('pruners', 'pruner', 'StructurePruner', {'criterions': {'*': section.criterion}}, origin='ChannelPrune')
    options: dict[str, Any] = {'pruner': 'pruner', **_named(names)}
    options['channel_ratios'] = dict(zip(names or (), ratio)) if isinstance(ratio, list) else ratio
    draft.add('strategies', 'prune', 'UniformPruneStrategy', options, origin='ChannelPrune')
    draft.note(('ChannelPrune', 'pruned_ratio'), 'what is left is brought to a multiple of 8 channels')


def _asp(section: act.ASPPrune, sections: Mapping[str, Any], draft: Draft) -> None:
    options = {'pattern': '2:4', **_named(section.prune_params_name)}
    draft.add('strategies', 'asp', 'UnstructuredPruneStrategy', options, origin='ASPPrune')


def _unstructured(section: act.UnstructurePrune, sections: Mapping[str, Any], draft: Draft) -> None:
    origin = 'UnstructurePrune'
    options = section.model_dump(include={'prune_params_type', 'local_sparsity'})
    if section.prune_strategy == 'gmp':
        options['ratio'] = section.ratio
        if section.gmp_config is not None:
            options.update(_phases(section.gmp_config, draft))
        draft.add('strategies', 'sparse', 'GMPStrategy', options, origin=origin)
    else:
        options['mode'] = section.prune_mode
        options[section.prune_mode] = getattr(section, section.prune_mode)
        draft.add('strategies', 'sparse', 'UnstructuredPruneStrategy', options, origin=origin)


def _phases(config: act.GmpConfig, draft: Draft) -> dict[str, Any]:
    if config.resume_iteration > 0:
        path = ('UnstructurePrune', 'gmp_config', 'resume_iteration')
        raise draft.refuse(path, 'is not needed: a job goes on from its checkpoints')
    names = ('stable_iterations', 'pruning_iterations', 'pruning_steps', 'initial_ratio')
    for name in names:
        draft.origins['strategies', 'sparse', name] = ('UnstructurePrune', 'gmp_config', name)
    return {**config.model_dump(include={*names}), 'tuning_iterations': config.tunning_iterations}


def _static_masks(section: act.TrainConfig, sections: Mapping[str, Any], draft: Draft) -> None:
    if section.sparse_model and 'UnstructurePrune' not in sections:
        options = {'mode': 'static', 'prune_params_type': 'conv1x1_only'}
        draft.add('strategies', 'keep_sparse', 'UnstructuredPruneStrategy', options, origin='TrainConfig')


def _distillation(section: act.Distillation, sections: Mapping[str, Any], draft: Draft) -> None:
    origin = 'Distillation'
    nested = bool(section.node) and isinstance(section.node[0], list)
    groups: Sequence[Any] = section.node if nested else [section.node]
    losses = section.loss if isinstance(section.loss, list) else [section.loss] * len(groups)
    alphas = section.alpha if isinstance(section.alpha, list) else [section.alpha] * len(groups)
    names: list[str] = []
    for number, (group, loss, alpha) in enumerate(zip(groups, losses, alphas)):
        path = (origin, 'node', number) if nested else (origin, 'node')
        for maps in _pairs(group, 0, path, draft) or [{}]:
            names.append(f'distiller_{len(names)}')
            draft.add('distillers', names[-1], *_distiller(loss, alpha, maps), origin=origin)
    teacher: Any = 'original'
    if section.teacher_model_dir is not None:
        teacher = {
            'model_dir': section.teacher_model_dir,
            'model_filename': section.teacher_model_filename,
            'params_filename': section.teacher_params_filename,
        }
    for name in ('teacher_model_filename', 'teacher_params_filename'):
        if section.teacher_model_dir is None and getattr(section, name) is not None:
            draft.note((origin, name), 'has no effect without teacher_model_dir')
    options = {'distillers': names, 'teacher': teacher, 'task_weight': 0.0}
    draft.add('strategies', 'distill', 'DistillationStrategy', options, origin=origin)


def _several_teachers(section: act.MultiTeacherDistillation, sections: Mapping[str, Any], draft: Draft) -> None:
    origin = 'MultiTeacherDistillation'
    names: list[str] = []
    for number, (group, loss, alpha) in enumerate(zip(section.node, section.loss, section.alpha)):
        for maps in _pairs(group, number, (origin, 'node', number), draft) or [{'teacher': number}]:
            names.append(f'distiller_{len(names)}')
            draft.add('distillers', names[-1], *_distiller(loss, alpha, maps), origin=origin)
    models: Sequence[str | None] = section.teacher_model_filename or [None] * len(section.loss)
    params: Sequence[str | None] = section.teacher_params_filename or [None] * len(section.loss)
    teachers = [
        {'model_dir': folder, 'model_filename': model, 'params_filename': param}
        for folder, model, param in zip(section.teacher_model_dir, models, params)
    ]
    options = {'distillers': names, 'teacher': teachers, 'task_weight': 0.0}
    draft.add('strategies', 'distill', 'DistillationStrategy', options, origin=origin)


def _pairs(names: Sequence[str], teacher: int, path: KeyPath, draft: Draft) -> list[dict[str, Any]]:
    """Return the maps to compare: names that both networks have, or pairs ``[teacher_x, x]``."""
    if not any(_TEACHER.fullmatch(name) for name in names):
        return [{'student_feature_map': name, 'teacher_feature_map': name, 'teacher': teacher} for name in names]
    found: list[dict[str, Any]] = []
    for place in range(0, len(names), 2):
        match = _TEACHER.fullmatch(names[place])
        if match is None or place + 1 == len(names) or _TEACHER.fullmatch(names[place + 1]):
            raise draft.refuse(path, 'must be names of the network, or pairs of teacher_<name> and a name')
        number = int(match[1]) - 1 if match[1] else teacher
        if number != teacher:
            raise draft.refuse(path, f'{names[place]!r} is of another teacher than teacher{teacher + 1}')
        found.append({'student_feature_map': names[place + 1], 'teacher_feature_map': match[2], 'teacher': teacher})
    return found


def _distiller(loss: str, alpha: float, maps: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class and the options of a distiller."""
    options = {**maps, 'weight': alpha}
    return (_DISTILLERS[loss], options) if loss in _DISTILLERS else ('LossDistiller', {**options, 'loss': loss})


def _quant_aware(section: act.QuantAware, sections: Mapping[str, Any], draft: Draft) -> None:
    options = section.model_dump(exclude={'dtype', 'for_tensorrt', 'onnx_format'})
    if section.for_tensorrt:
        options['quantize_op_types'] = list(_TENSORRT)
        if 'quantize_op_types' in section.model_fields_set:
            draft.note(('QuantAware', 'quantize_op_types'), 'has no effect beside for_tensorrt')
    if not section.onnx_format:
        draft.note(('QuantAware', 'onnx_format'), _FORMAT)
    options['start_epoch'] = quantization_start(sections.get('TrainConfig'), sections)
    draft.add('strategies', 'quantize', 'QuantizationStrategy', options, origin='QuantAware')


def _quant_post(section: act.QuantPost, sections: Mapping[str, Any], draft: Draft) -> None:
    recon = ('epochs', 'lr', 'regions', 'region_weights_names', 'simulate_activation_quant')
    options = section.model_dump(exclude={'batch_size', 'onnx_format', 'recon_level', 'skip_tensor_list', *recon})
    options['skip_tensor_list'] = section.skip_tensor_list or []
    if section.recon_level is not None:
        options['reconstruction'] = {
            'level': section.recon_level,
            **{name: getattr(section, name) for name in recon if getattr(section, name) is not None},
        }
    for name in sorted(section.model_fields_set & {*recon}):
        if section.recon_level is None:
            draft.note(('QuantPost', name), 'has no effect without recon_level')
    if not section.onnx_format:
        draft.note(('QuantPost', 'onnx_format'), _FORMAT)
    if 'batch_size' in section.model_fields_set:
        draft.note(('QuantPost', 'batch_size'), 'batches are those of the reader')
    search = sections.get('HyperParameterOptimization')
    if isinstance(search, act.HyperParameterOptimization):
        for name in ('algo', 'hist_percent', 'batch_nums', 'bias_correction'):
            options.pop(name)
            if name in section.model_fields_set:
                draft.note(('QuantPost', name), 'has no effect: HyperParameterOptimization searches for it')
        options['search'] = {
            'algo': search.ptq_algo,
            'bias_correction': search.bias_correct,
            'weight_quantize_type': search.weight_quantize_type,
            'hist_percent': search.hist_percent,
            'batch_nums': search.batch_num,
            'trials': search.max_quant_count,
        }
    draft.add('strategies', 'quantize', 'PostTrainingQuantStrategy', options, origin='QuantPost')


def _named(names: Sequence[str] | None) -> dict[str, str]:
    return {} if names is None else {'pruned_params': '|'.join(map(re.escape, names))}


# In the order in which the strategies are called: the network is cut before a teacher is compared with it, and
# integers come last.
METHODS: Final[Mapping[str, Callable[[Any, Mapping[str, Any], Draft], None]]] = {
    'ChannelPrune': _channel_prune,
    'ASPPrune': _asp,
    'UnstructurePrune': _unstructured,
    'TrainConfig': _static_masks,
    'Distillation': _distillation,
    'MultiTeacherDistillation': _several_teachers,
    'QuantAware': _quant_aware,
    'QuantPost': _quant_post,
}
