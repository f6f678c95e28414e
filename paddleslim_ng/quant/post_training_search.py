"""Search for the options of post-training quantization that keep a model nearest to its float self."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Union

import paddle

from paddleslim_ng.analysis.fingerprint import fingerprint
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.batch_norm_folding import fold_batch_norm
from paddleslim_ng.quant.data_sources import read_feeds
from paddleslim_ng.quant.output_distance import MetricDistance, OutputDistance
from paddleslim_ng.quant.quantization_trials import QuantizationTrials, SearchedModel, TrialRequest
from paddleslim_ng.quant.search_space import SearchSpace
from paddleslim_ng.quant.spec import largest_integer
from paddleslim_ng.quant.static_arguments import all_spellings, file_prefix, one_source
from paddleslim_ng.quant.targets import find_targets
from paddleslim_ng.quant.trial_data import SharedCalibration, StoredFeeds, joined_feeds
from paddleslim_ng.quant.trial_log import TrialLog
from paddleslim_ng.runtime import InferenceModel, load_inference_model

__all__ = ['quant_post_hpo']

Range = Union[float, Sequence[float]]
_EVALUATION_BATCH: Final = 32


def quant_post_hpo(
    executor: Any,
    place: Any,
    model_dir: str | os.PathLike[str],
    quantize_model_path: str | os.PathLike[str],
    train_sample_generator: Any = None,
    eval_sample_generator: Any = None,
    train_dataloader: Any = None,
    eval_dataloader: Any = None,
    eval_function: Callable[..., Any] | None = None,
    model_filename: str | None = None,
    params_filename: str | None = None,
    save_model_filename: str = 'model.pdmodel',
    save_params_filename: str = 'model.pdiparams',
    scope: Any = None,
    quantizable_op_type: Sequence[str] = ('conv2d', 'depthwise_conv2d', 'mul'),
    is_full_quantize: bool = False,
    weight_bits: int = 8,
    activation_bits: int = 8,
    weight_quantize_type: str | Sequence[str] = ('channel_wise_abs_max',),
    algo: str | Sequence[str] = ('KL', 'hist', 'avg', 'mse'),
    bias_correct: bool | Sequence[bool] = (True, False),
    hist_percent: Range = (0.98, 0.999),
    batch_size: Range = (10, 30),
    batch_num: Range = (10, 30),
    optimize_model: bool = False,
    onnx_format: bool = True,
    is_use_cache_file: bool = False,
    cache_dir: str = './temp_post_training',
    runcount_limit: int = 30,
    *,
    max_seconds: float | None = None,
    seed: int = 0,
    resume: bool = True,
) -> SearchedModel:
    """Search for options of post-training quantization with the arguments of PaddleSlim.

    The tree-structured Parzen estimator of optuna proposes options. Calibration is shared: trials that differ in the
    observer, or in how weights and biases are treated, use the same statistics, and those of more images add to those
    of fewer. After every trial the best model so far is on disk, and a log beside it, ``<name>.search.json``: a search
    that was killed goes on where it was, to the same result as without interruption.

    Args:
        executor: handed to ``eval_function``; its place is used where ``place`` is None.
        place: device; the CPU where neither says.
        model_dir: path without suffix, or folder, of a model of either format; see ``load_inference_model``.
        quantize_model_path: folder of the quantized model.
        train_sample_generator: gives samples to calibrate with, in any form that :func:`read_feeds` knows.
        eval_sample_generator: gives samples to compare the outputs on.
        train_dataloader: gives batches to calibrate with, instead of samples.
        eval_dataloader: gives batches to compare on. Where no data is given for that, it is the calibration data, as
            many as the smallest calibration takes.
        eval_function: ``function(executor, program, feed names, fetch targets)`` returns a metric, an accuracy perhaps.
            The distance of a trial is then ``|quantized - float| / |float|`` of it; without it, that of the outputs:
            the root of the mean square difference over that of the float outputs (PaddleSlim compares sorted outputs,
            which cannot tell which output moved).
        model_filename: name of the program file in ``model_dir``.
        params_filename: name of the parameter file in ``model_dir``.
        save_model_filename: name of the program file that is written.
        save_params_filename: name of the parameter file, the same but for the suffix.
        scope: takes the float parameters; a new one where None.
        quantizable_op_type: types of operators; ``'mul'`` stands for ``matmul`` and ``matmul_v2``, too.
        is_full_quantize: quantize every operator that can be, with weights or without.
        weight_bits: width of the integers of weights.
        activation_bits: width of the integers of activations.
        weight_quantize_type: one or more of :data:`WEIGHT_TYPES` to choose from.
        algo: one or more of :data:`OBSERVERS`.
        bias_correct: whether biases are corrected; both to choose from. Corrected ones are taken where they bring the
            outputs on the calibration data nearer to those in float.
        hist_percent: smallest and largest value for ``'hist'``, or one value.
        batch_size: smallest and largest number of samples in a batch, or one. What counts is the number of samples in
            all batches; calibration runs them by the smallest. With ``train_dataloader`` batches are what they are.
        batch_num: smallest and largest number of batches, or one. Where the data ends earlier, all of it is used.
        optimize_model: fold batch norm into the weights first. Recommended; False is PaddleSlim's default.
        onnx_format: ``quantize_linear`` operators and integers on disk; else the older ``fake_quantize`` operators.
        is_use_cache_file: has no meaning any more, as with PaddleSlim.
        cache_dir: has no meaning any more, as with PaddleSlim.
        runcount_limit: number of trials, those before an interruption included.
        max_seconds: no trial starts when all trials took this long together; the first one always runs.
        seed: of the search.
        resume: go on with the log that is there; False starts anew.

    Returns:
        The best model; ``print`` it for a report.

    Raises:
        ConfigError: an argument that has no such value, before anything is read.
        DataError: the model or the data cannot be used.
        CheckpointError: the log that is there is damaged, or of a search with other settings.
        EquivalenceError: no trial gave files that compute what was meant; the message has the reason of the last one.

    What ``eval_function`` raises passes through; the best model so far stays, and the search can be resumed.

    Example:
        >>> found = slim.quant.quant_post_hpo(
        ...     exe, paddle.CPUPlace(), 'float/model', 'int8', train_sample_generator=samples, max_seconds=600
        ... )
        >>> print(found)
    """
    space = SearchSpace.of(algo, weight_quantize_type, bias_correct, hist_percent, batch_size, batch_num)
    _check(runcount_limit, max_seconds, weight_bits, activation_bits)
    source, samples = one_source(None, train_sample_generator, train_dataloader)
    compared = _evaluation(eval_sample_generator, eval_dataloader)
    prefix = file_prefix(quantize_model_path, save_model_filename, save_params_filename)
    device = place if place is not None else getattr(executor, 'place', None)
    home = scope if scope is not None else paddle.static.Scope()
    model = load_inference_model(
        model_dir, home, executor, model_filename=model_filename, params_filename=params_filename
    )
    format = 'quantize_linear' if onnx_format else 'fake_quantize'
    types = None if is_full_quantize else all_spellings(quantizable_op_type)
    request = TrialRequest(types, is_full_quantize, weight_bits, activation_bits, format, samples)
    settings = {
        **request._asdict(),
        'model': fingerprint(model.program, model.scope),
        'space': space.to_dict(),
        'fold': optimize_model,
        'metric': 'outputs' if eval_function is None else 'eval_function',
        'seed': seed,
    }
    log = TrialLog.open(prefix.with_name(f'{prefix.name}.search.json'), settings, resume=resume)
    part = fold_batch_norm(model.program, model.feeds, model.fetches, model.scope).model if optimize_model else model
    targets = find_targets(part.program, types=types, full=is_full_quantize)
    if not targets.operators:
        raise ConfigError(f'no operator can be quantized; in float stay {dict(targets.skipped) or "all"}')
    graph = GraphWrapper(part.program)
    inputs = [graph.var(name) for name in part.feeds]
    feeds = StoredFeeds(read_feeds(inputs, source, samples=samples, batch_size=1))
    size = int(space.batch_size[0]) if samples else 1
    distance: Callable[[InferenceModel], float]
    if eval_function is not None:
        distance = MetricDistance(eval_function, executor, part)
    else:
        if compared is not None:
            batches = list(read_feeds(inputs, compared[0], samples=compared[1], batch_size=_EVALUATION_BATCH))
        else:
            batches = list(joined_feeds(feeds.first(size * int(space.batch_num[0])), size))
        distance = OutputDistance(part, batches, device)
    calibration = SharedCalibration(part, targets.activations, feeds, size, device)
    trials = QuantizationTrials(part, targets, feeds, calibration, distance, request, device, prefix, log)
    return trials.run(space, seed, runcount_limit, max_seconds)


def _evaluation(samples: Any, loader: Any) -> tuple[Any, bool] | None:
    """Return the data to compare on, and whether it comes as samples; None where there is none."""
    if samples is not None and loader is not None:
        raise ConfigError('give one of eval_sample_generator and eval_dataloader')
    if samples is None and loader is None:
        return None
    return (samples, True) if samples is not None else (loader, False)


def _check(runs: int, seconds: float | None, *bits: int) -> None:
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
        raise ConfigError(f'runcount_limit must be a positive whole number, not {runs!r}')
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f'max_seconds must be positive or None, not {seconds!r}')
    for width in bits:
        largest_integer(width)
