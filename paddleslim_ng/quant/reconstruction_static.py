"""Post-training quantization with reconstruction, from files to files, with PaddleSlim's arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.blocks import LEVELS
from paddleslim_ng.quant.post_training import ACTIVATION_TYPES
from paddleslim_ng.quant.quantized_model import QuantizedModel, quantize_model
from paddleslim_ng.quant.reconstruction import Learning
from paddleslim_ng.quant.static_arguments import check_named, file_prefix, load_with_feeds, one_source
from paddleslim_ng.quant.stored_tensors import kept_feeds

__all__ = ['quant_recon_static']


def quant_recon_static(
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
    recon_level: str = 'layer-wise',
    simulate_activation_quant: bool = False,
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
    is_use_cache_file: bool = False,
    cache_dir: str = './temp_recon_quantization',
    regions: Sequence[Sequence[str]] | None = None,
    region_weights_names: Sequence[Sequence[str]] | None = None,
    epochs: int = 20,
    drop_prob: float = 0.5,
    lr: float = 0.1,
    limit: int = 6,
) -> QuantizedModel:
    """Quantize a saved inference model, with weights rounded so that layers or regions compute what they do in float.

    The arguments of PaddleSlim; those that are not here are those of
    :func:`~paddleslim_ng.quant.quant_post_static`. Calibration data is kept in memory.

    Args:
        executor: its place is used; the CPU where None.
        model_dir: path without suffix, or folder, of the float model.
        quantize_model_path: folder of the quantized model.
        batch_generator: gives batches.
        sample_generator: gives samples, ``batch_size`` of which become a batch.
        data_loader: gives batches.
        model_filename: name of the program file in ``model_dir``.
        params_filename: name of the parameter file in ``model_dir``.
        save_model_filename: name of the program file that is written.
        save_params_filename: name of the parameter file, the same but for the suffix.
        batch_size: samples in a batch; a step of learning draws as many from all of the data.
        batch_nums: batches to use; all where None.
        scope: takes the float parameters; a new one where None.
        algo: one of :data:`~paddleslim_ng.quant.OBSERVERS`.
        recon_level: ``'layer-wise'`` or ``'region-wise'``; see :func:`~paddleslim_ng.quant.reconstruct`.
        simulate_activation_quant: learn with rounded activations, too. Recommended; False is PaddleSlim's default.
        hist_percent: for ``algo='hist'``.
        bias_correction: correct biases afterwards.
        quantizable_op_type: types of operators; all that have weights where None.
        is_full_quantize: quantize operators without weights, too.
        weight_bits: width of the integers of weights.
        activation_bits: width of the integers of activations.
        activation_quantize_type: one of :data:`~paddleslim_ng.quant.ACTIVATION_TYPES`.
        weight_quantize_type: one of :data:`~paddleslim_ng.quant.WEIGHT_TYPES`.
        optimize_model: fold batch norm into the weights first. Recommended; False is PaddleSlim's default.
        onnx_format: ``quantize_linear`` operators and integers on disk; else the older ``fake_quantize`` operators.
        skip_tensor_list: operators that read one of these tensors stay in float.
        is_use_cache_file: of no effect, as in PaddleSlim.
        cache_dir: of no effect, as in PaddleSlim.
        regions: pairs of an input and an output, which are learned instead of what ``recon_level`` finds.
        region_weights_names: for each of the regions, which weights are learned; all where None.
        epochs: passes over the calibration data for each layer or region.
        drop_prob: fraction of the elements of activations that stay in float in a step, with
            ``simulate_activation_quant``.
        lr: step size of Adam.
        limit: largest number of weights in a region.

    Returns:
        The quantization; ``print`` it for a report.

    Raises:
        ConfigError: an argument that has no such value, before anything is read, or a region of no use.
        DataError: the model or the data cannot be used.
        GraphError: a region does not exist.
        EquivalenceError: the files do not compute what was meant; none are written then.

    Example:
        >>> slim.quant.quant_recon_static(
        ...     exe,
        ...     'float/model',
        ...     'int4',
        ...     data_loader=images,
        ...     batch_size=32,
        ...     weight_bits=4,
        ...     optimize_model=True,
        ...     recon_level='region-wise',
        ...     simulate_activation_quant=True,
        ... )
    """
    check_named('recon_level', recon_level, LEVELS)
    check_named('activation_quantize_type', activation_quantize_type, ACTIVATION_TYPES)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f'epochs must be a positive whole number, not {epochs!r}')
    if region_weights_names is not None and regions is None:
        raise ConfigError('region_weights_names go with regions')
    Learning(lr=lr, drop=drop_prob)  # checked before anything is read
    source, samples = one_source(batch_generator, sample_generator, data_loader)
    prefix = file_prefix(quantize_model_path, save_model_filename, save_params_filename)
    model, reader = load_with_feeds(
        executor, model_dir, scope, model_filename, params_filename, source, samples, batch_size, batch_nums
    )
    feeds = kept_feeds(reader, model.feeds)
    images = max(len(np.atleast_1d(next(iter(feed.values())))) for feed in feeds)
    learning = Learning(epochs * len(feeds), images, lr, drop=drop_prob)
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
        round_type='adaround',
        reconstruction={
            'level': recon_level,
            'limit': limit,
            'regions': regions,
            'region_weights': region_weights_names,
            'activations': simulate_activation_quant,
            'learning': learning,
        },
        bias_correction=bias_correction,
        place=getattr(executor, 'place', None),
    )
