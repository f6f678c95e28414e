"""Post-training quantization: a float model and some of its data become a model of integers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.batch_norm_folding import FoldedModel, fold_batch_norm
from paddleslim_ng.quant.bias_correction import CorrectedModel, correct_biases
from paddleslim_ng.quant.building import WEIGHT_TYPES, spec_from_thresholds
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.observers import check_observer, threshold
from paddleslim_ng.quant.reconstruction import ReconstructedModel, reconstruct
from paddleslim_ng.quant.spec import QuantizationSpec, largest_integer
from paddleslim_ng.quant.static_arguments import check_named, file_prefix, load_with_feeds, one_source
from paddleslim_ng.quant.statistics import CalibrationStatistics
from paddleslim_ng.quant.stored_tensors import kept_feeds
from paddleslim_ng.quant.targets import find_targets
from paddleslim_ng.runtime import InferenceModel

__all__ = [
    'ACTIVATION_TYPES',
    'ROUND_TYPES',
    'QuantizedModel',
    'quant_post',
    'quant_post_static',
    'quantize_model',
]

# PaddleSlim's names of activation quantizers. After training they are one and the same: fixed scales, by the observer.
ACTIVATION_TYPES: Final = ('range_abs_max', 'moving_average_abs_max', 'abs_max')
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
    _check(algo, weight_bits, activation_bits, weight_quantize_type)
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
    source = _FirstKept(kept_feeds(feeds, part.feeds) if several else feeds)
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
    reconstructed = corrected = None
    final = part
    if round_type == 'adaround':
        reconstructed = reconstruct(part, spec, source, place=place, **(reconstruction or {}))
        final = reconstructed.model
    if bias_correction:
        corrected = correct_biases(final, spec, source, target=part, place=place)
        if corrected.error_after < corrected.error_before:
            final, spec = corrected.model, corrected.spec
    exported = None
    if path_prefix is not None:
        program, names, fetches, scope = final
        exported = export_quantized(program, spec, path_prefix, names, fetches, scope, format=format, feed=source.first)
        spec.save(Path(f'{os.fspath(path_prefix)}.quantization.json'))
    return QuantizedModel(spec, seen, final, folded, exported, reconstructed, corrected)


def quant_post_static(
    executor: Any,
    model_dir: str | os.PathLike[str],
    quantize_model_path: str | os.PathLike[str],
    batch_generator: Any = None,
    sample_generator: Any = None,
    data_loader: Any = None,
    model_filename: str | None = None,
    params_filename: str | None = None,
    save_model_filename: str = 'model.pdmodel',
    save_params_filename: str = 'model.pdiparams',
    batch_size: int = 1,
    batch_nums: int | None = None,
    scope: Any = None,
    algo: str = 'hist',
    round_type: str = 'round',
    hist_percent: float = 0.9999,
    bias_correction: bool = False,
    quantizable_op_type: Sequence[str] | None = None,
    is_full_quantize: bool = False,
    weight_bits: int = 8,
    activation_bits: int = 8,
    activation_quantize_type: str = 'range_abs_max',
    weight_quantize_type: str = 'channel_wise_abs_max',
    optimize_model: bool = False,
    onnx_format: bool = True,
    skip_tensor_list: Sequence[str] | None = None,
    deploy_backend: str | None = None,
) -> QuantizedModel:
    """Quantize a saved inference model with the arguments of PaddleSlim.

    Exactly one of ``batch_generator``, ``sample_generator`` and ``data_loader`` gives the calibration data, in any form
    that :func:`read_feeds` knows: generator functions, DataLoaders, lists of arrays, arrays.

    Args:
        executor: its place is used; the CPU where None.
        model_dir: path without suffix, or folder, of a model of either format; see ``load_inference_model``.
        quantize_model_path: folder of the quantized model.
        batch_generator: gives batches.
        sample_generator: gives samples, ``batch_size`` of which become a batch.
        data_loader: gives batches.
        model_filename: name of the program file in ``model_dir``.
        params_filename: name of the parameter file in ``model_dir``.
        save_model_filename: name of the program file that is written.
        save_params_filename: name of the parameter file, the same but for the suffix.
        batch_size: samples in a batch.
        batch_nums: batches to calibrate with; all where None.
        scope: takes the float parameters; a new one where None.
        algo: one of :data:`OBSERVERS`.
        round_type: ``'round'``, to the nearest integer, or ``'adaround'``, to the one below or above that keeps the
            outputs of each layer nearest to those in float; ``quant_recon_static`` has more options.
        hist_percent: for ``algo='hist'``.
        bias_correction: correct the biases; see :func:`quantize_model`.
        quantizable_op_type: types of operators; all that have weights where None.
        is_full_quantize: quantize operators without weights, too.
        weight_bits: width of the integers of weights.
        activation_bits: width of the integers of activations.
        activation_quantize_type: one of :data:`ACTIVATION_TYPES`, which mean the same after training.
        weight_quantize_type: one of :data:`WEIGHT_TYPES`.
        optimize_model: fold batch norm into the weights first. Recommended; False is PaddleSlim's default.
        onnx_format: ``quantize_linear`` operators and integers on disk; else the older ``fake_quantize`` operators.
        skip_tensor_list: operators that read one of these tensors stay in float.
        deploy_backend: None; the quantization is the same for Paddle Lite and Paddle Inference.

    Returns:
        The quantization; ``print`` it for a report.

    Raises:
        ConfigError: an argument that has no such value, before anything is read.
        DataError: the model or the data cannot be used.
        EquivalenceError: the files do not compute what was meant; none are written then.

    Example:
        >>> slim.quant.quant_post_static(exe, 'float/model', 'int8', data_loader=images, batch_size=8)
    """
    _check(algo, weight_bits, activation_bits, weight_quantize_type)
    check_named('activation_quantize_type', activation_quantize_type, ACTIVATION_TYPES)
    check_named('round_type', round_type, ROUND_TYPES)
    check_named('deploy_backend', deploy_backend, (None,))
    source, samples = one_source(batch_generator, sample_generator, data_loader)
    prefix = file_prefix(quantize_model_path, save_model_filename, save_params_filename)
    model, feeds = load_with_feeds(
        executor, model_dir, scope, model_filename, params_filename, source, samples, batch_size, batch_nums
    )
    return quantize_model(
        model,
        feeds,
        prefix,
        algo=algo,
        hist_percent=hist_percent,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight_quantize_type=weight_quantize_type,
        fold=optimize_model,
        format='quantize_linear' if onnx_format else 'fake_quantize',
        quantizable_op_type=quantizable_op_type,
        is_full_quantize=is_full_quantize,
        skip_tensor_list=skip_tensor_list or (),
        round_type=round_type,
        bias_correction=bias_correction,
        place=getattr(executor, 'place', None),
    )


# PaddleSlim's older name.
quant_post = quant_post_static


class _FirstKept:
    """Iterates over feeds and keeps the first one, for the comparison of what is written."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = feeds
        self.first: Feed | None = None

    def __iter__(self) -> Iterator[Feed]:
        for feed in self._feeds:
            if self.first is None:
                self.first = dict(feed)
            yield feed


def _check(algo: str, weight_bits: int, activation_bits: int, weight_quantize_type: str) -> None:
    check_observer(algo)
    largest_integer(weight_bits)
    largest_integer(activation_bits)
    check_named('weight_quantize_type', weight_quantize_type, tuple(WEIGHT_TYPES))


def _existing(names: Iterable[str], before: InferenceModel, after: InferenceModel) -> list[str]:
    """Return the tensors to be skipped that are left after folding; unknown ones are errors later."""
    given = [names] if isinstance(names, str) else list(names)
    old, new = GraphWrapper(before.program), GraphWrapper(after.program)
    return [name for name in given if new.has_var(name) or not old.has_var(name)]
