"""Post-training quantization of saved models, with PaddleSlim's names and arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from paddleslim_ng.quant.quantized_model import ROUND_TYPES, QuantizedModel, check_quantization, quantize_model
from paddleslim_ng.quant.static_arguments import check_named, file_prefix, load_with_feeds, one_source

__all__ = ['ACTIVATION_TYPES', 'quant_post', 'quant_post_static']

# PaddleSlim's names of activation quantizers. After training they are one and the same: fixed scales, by the observer.
ACTIVATION_TYPES: Final = ('range_abs_max', 'moving_average_abs_max', 'abs_max')


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
    check_quantization(algo, weight_bits, activation_bits, weight_quantize_type)
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
