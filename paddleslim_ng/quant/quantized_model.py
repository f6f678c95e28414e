"""Post-training quantization of a model in memory: calibration, scales, learned rounding, files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.batch_norm_folding import FoldedModel, fold_batch_norm
from paddleslim_ng.quant.bias_correction import CorrectedModel, correct_biases
from paddleslim_ng.quant.building import WEIGHT_TYPES, spec_from_thresholds
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.data_sources import Feed, FirstKept
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.observers import check_observer, threshold
from paddleslim_ng.quant.reconstruction import ReconstructedModel, reconstruct
from paddleslim_ng.quant.spec import QuantizationSpec, largest_integer
from paddleslim_ng.quant.static_arguments import check_named
from paddleslim_ng.quant.statistics import CalibrationStatistics
from paddleslim_ng.quant.stored_tensors import kept_feeds
from paddleslim_ng.quant.targets import find_targets
from paddleslim_ng.runtime import InferenceModel

__all__ = ['ROUND_TYPES', 'QuantizedModel', 'check_quantization', 'quantize_model']

# How weights become integers: the nearest ones, or those that reconstruction chooses.
ROUND_TYPES: Final = ('round', 'adaround')


@dataclass(frozen=True)
class QuantizedModel:
    """What post-training quantization made.

    Attributes:
        spec: which tensors are integers, on what scale, and what stays in float and why.
        statistics: what calibration saw; other observers can be tried on it without another pass.
        model: the float model that was quantized: with batch norm folded, weights reconstructed and biases corrected,
            where that was asked for.
        folded: what folding did, or None.
        exported: the files and how they were checked, or None where none were written.
        reconstructed: what adaptive rounding did, or None.
        corrected: what bias correction did, or None. ``model`` has its biases only if the outputs on the calibration
            data are nearer to those in float with them.
    """

    spec: QuantizationSpec
    statistics: CalibrationStatistics
    model: InferenceModel
    folded: FoldedModel | None
    exported: ExportedModel | None
    reconstructed: ReconstructedModel | None = None
    corrected: CorrectedModel | None = None

    def __str__(self) -> str:
        """Report in words."""
        seen = self.statistics
        lines = [
            f'{len(self.spec.operators)} operators quantized, {len(self.spec.skipped)} left in float; calibrated on '
            f'{seen.images} images in {seen.batches} batches'
        ]
        if self.folded is not None:
            lines.append(f'{len(self.folded.folded)} batch norms folded, {len(self.folded.skipped)} not')
        if self.reconstructed is not None:
            lines.append(str(self.reconstructed))
        if self.corrected is not None:
            lines.append(str(self.corrected))
        if self.exported is not None:
            lines.append(str(self.exported))
        else:
            lines += [f'in float: {name}: {reason}' for name, reason in self.spec.skipped.items()]
        return '\n'.join(lines)


def quantize_model(
    model: InferenceModel,
    feeds: Iterable[Feed],
    path_prefix: str | os.PathLike[str] | None = None,
    *,
    algo: str = 'hist',
    hist_percent: float = 0.9999,
    weight_bits: int = 8,
    activation_bits: int = 8,
    weight_quantize_type: str = 'channel_wise_abs_max',
    fold: bool = True,
    format: str = 'quantize_linear',
    quantizable_op_type: Collection[str] | None = None,
    is_full_quantize: bool = False,
    skip_tensor_list: Iterable[str] = (),
    not_quant_pattern: Iterable[str] = ('skip_quant',),
    round_type: str = 'round',
    reconstruction: Mapping[str, Any] | None = None,
    bias_correction: bool = False,
    place: Any = None,
) -> QuantizedModel:
    """Calibrate a model in memory and quantize it; :func:`quant_post_static` does so with files.

    Args:
        model: a program of either IR with its feeds, fetches and scope; none of them is changed.
        feeds: calibration data, by :func:`read_feeds`.
        path_prefix: path without suffix of the files; None writes none.
        algo: one of :data:`OBSERVERS`: which magnitude of an activation the largest integer stands for.
        hist_percent: for ``'hist'``, the fraction of the elements that is not cut off.
        weight_bits: width of the integers of weights, 2 to 16.
        activation_bits: the same for activations; it may differ.
        weight_quantize_type: one of :data:`WEIGHT_TYPES`.
        fold: fold batch norms into the weights before them.
        format: one of :data:`FORMATS`.
        quantizable_op_type: canonical types of operators; all that have weights where None.
        is_full_quantize: quantize operators without weights, too.
        skip_tensor_list: operators that read one of these tensors stay in float.
        not_quant_pattern: operators with such a name stay in float.
        round_type: one of :data:`ROUND_TYPES`: ``'adaround'`` chooses the integers of weights by
            :func:`~paddleslim_ng.quant.reconstruct`.
        reconstruction: options of that function.
        bias_correction: correct biases, last of all, by :func:`~paddleslim_ng.quant.correct_biases`. The corrected ones
            are taken if they bring the outputs on the calibration data nearer to those in float. Both keep the
            calibration data in memory.
        place: device; the CPU where None.

    Returns:
        The quantization with its statistics and files.

    Raises:
        ConfigError: an unknown name, or a number out of range; nothing has been run then.
        DataError: calibration data or weights that cannot be used.
        GraphError: the model lacks a parameter, or a tensor to be skipped.
        EquivalenceError: folded or exported, the model computes something else.

    Example:
        >>> model = slim.runtime.load_inference_model('float/model')
        >>> feeds = slim.quant.read_feeds(data_inputs(model.program), images, batch_size=8)
        >>> print(slim.quant.quantize_model(model, feeds, 'int8/model', algo='KL'))
    """
    check_quantization(algo, weight_bits, activation_bits, weight_quantize_type)
    check_named('round_type', round_type, ROUND_TYPES)
    if reconstruction is not None and round_type != 'adaround':
        raise ConfigError("options of reconstruction go with round_type='adaround'")
    folded = fold_batch_norm(model.program, model.feeds, model.fetches, model.scope) if fold else None
    part = folded.model if folded is not None else model
    chosen: dict[str, Any] = {
        'skip_tensor_list': _existing(skip_tensor_list, model, part),
        'not_quant_pattern': not_quant_pattern,
    }
    targets = find_targets(part.program, types=quantizable_op_type, full=is_full_quantize, **chosen)
    if not targets.operators:
        raise ConfigError(f'no operator can be quantized; in float stay {dict(targets.skipped) or "all"}')
    several = bias_correction or round_type == 'adaround'
    source = FirstKept(kept_feeds(feeds, part.feeds) if several else feeds)
    seen = calibrate(part.program, source, targets.activations, part.scope, executor=Executor(place))
    limits = {
        name: threshold(seen[name], algo, bits=activation_bits, percentile=hist_percent) for name in targets.activations
    }
    spec = spec_from_thresholds(
        part.program,
        limits,
        scope=part.scope,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight_quantize_type=weight_quantize_type,
        quantizable_op_type=quantizable_op_type,
        is_full_quantize=is_full_quantize,
        **chosen,
    )
    options = (reconstruction or {}) if round_type == 'adaround' else None
    found = _refined(QuantizedModel(spec, seen, part, folded, None), source, options, bias_correction, place)
    return found if path_prefix is None else _written(found, path_prefix, format, source.first)


def _refined(
    found: QuantizedModel,
    feeds: Iterable[Feed],
    reconstruction: Mapping[str, Any] | None,
    bias_correction: bool,
    place: Any,
) -> QuantizedModel:
    """Let weights be reconstructed where options for it are given, and correct biases where that helps."""
    part = found.model
    if reconstruction is not None:
        reconstructed = reconstruct(part, found.spec, feeds, place=place, **reconstruction)
        found = replace(found, model=reconstructed.model, reconstructed=reconstructed)
    if bias_correction:
        corrected = correct_biases(found.model, found.spec, feeds, target=part, place=place)
        found = replace(found, corrected=corrected)
        if corrected.error_after < corrected.error_before:
            found = replace(found, model=corrected.model, spec=corrected.spec)
    return found


def _written(
    found: QuantizedModel, path_prefix: str | os.PathLike[str], format: str, feed: Feed | None
) -> QuantizedModel:
    program, names, fetches, scope = found.model
    exported = export_quantized(program, found.spec, path_prefix, names, fetches, scope, format=format, feed=feed)
    found.spec.save(Path(f'{os.fspath(path_prefix)}.quantization.json'))
    return replace(found, exported=exported)


def check_quantization(algo: str, weight_bits: int, activation_bits: int, weight_quantize_type: str) -> None:
    """Raise ConfigError where one of these arguments has no such value."""
    check_observer(algo)
    largest_integer(weight_bits)
    largest_integer(activation_bits)
    check_named('weight_quantize_type', weight_quantize_type, tuple(WEIGHT_TYPES))


def _existing(names: Iterable[str], before: InferenceModel, after: InferenceModel) -> list[str]:
    """Return the tensors to be skipped that are left after folding; unknown ones are errors later."""
    given = [names] if isinstance(names, str) else list(names)
    old, new = GraphWrapper(before.program), GraphWrapper(after.program)
    return [name for name in given if new.has_var(name) or not old.has_var(name)]
