"""Integers from calibration alone, when training is over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.readers import Feed
from paddleslim_ng.compress.rebuilding import is_quantized
from paddleslim_ng.compress.strategies.saved_files import (
    ModelPaths,
    evaluation_feeds,
    evaluation_model,
    search_folder,
    train_feeds,
    write_models,
)
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.quant import (
    ExportedModel,
    Learning,
    QuantizedModel,
    export_quantized,
    quant_post_hpo,
    quantize_model,
)
from paddleslim_ng.quant.observers import check_observer
from paddleslim_ng.quant.post_training import ACTIVATION_TYPES
from paddleslim_ng.quant.quantization_trials import SearchedModel
from paddleslim_ng.quant.quantized_model import ROUND_TYPES
from paddleslim_ng.quant.spec import largest_integer
from paddleslim_ng.quant.static_arguments import check_named
from paddleslim_ng.runtime import InferenceModel, save_inference_model

__all__ = ['PostTrainingQuantStrategy']

_LOG = logging.getLogger('paddleslim_ng')


class PostTrainingQuantStrategy(Strategy):
    """Quantizes the network once, after the last epoch, by what it computes on the first batches of training.

    The programs of the job stay in float; the files hold integers. Data comes from ``train_reader``, or from
    ``eval_reader`` where nothing trains.

    Args:
        start_epoch: has no meaning here, and is 0.
        end_epoch: the same.
        weight_bits: width of the integers of weights.
        activation_bits: the same for activations.
        weight_quantize_type: one scale for each output channel, or ``'abs_max'``, one for a weight.
        quantize_op_types: types of operators; all that have weights where None.
        is_full_quantize: quantize operators without weights, too.
        not_quant_pattern: operators with such a name stay in float.
        skip_tensor_list: operators that read one of these tensors stay in float.
        float_model_save_path: path without suffix of the model in float.
        int8_model_save_path: path without suffix of the model whose weights are integers.
        mobile_model_save_path: file for Paddle Lite, with kernels of integers for Arm.
        inference_model_save_path: path without suffix of the model for Paddle Inference.
        save_in_nodes: inputs of the saved models; those that layers with weights depend on where None.
        save_out_nodes: their outputs; what the network computes before losses and metrics where None.
        algo: which magnitude of an activation the largest integer stands for.
        hist_percent: for ``'hist'``, the share of elements that is not cut off.
        batch_nums: batches to calibrate with; all where None.
        round_type: ``'round'``, or ``'adaround'``, which learns how weights are rounded.
        bias_correction: correct biases afterwards.
        activation_quantize_type: after training, all mean fixed scales.
        fold: fold batch norms into the weights before them.
        reconstruction: options of learned rounding, an object with ``level``, ``epochs``, ``lr``, ``regions``,
            ``region_weights_names`` and ``simulate_activation_quant``.
        search: options to choose from, an object with ``algo``, ``bias_correction``, ``weight_quantize_type``,
            ``hist_percent``, ``batch_nums`` and ``trials``; the quantized model nearest to the float one on the
            evaluation data is taken. Its trials lie beside the first file that is written, in a folder whose name ends
            in ``.search``, until the search is done: one that was interrupted goes on.

    Attributes:
        quantized: what :func:`slim.quant.quantize_model` or :func:`slim.quant.quant_post_hpo` returned; None before.
        models: what was written, by ``'float'``, ``'int8'``, ``'mobile'`` and ``'inference'``.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> compressor.add_strategy(PostTrainingQuantStrategy(int8_model_save_path='int8/model', batch_nums=10))
    """

    def __init__(
        self,
        start_epoch: int = 0,
        end_epoch: int = 0,
        weight_bits: int = 8,
        activation_bits: int = 8,
        weight_quantize_type: str = 'channel_wise_abs_max',
        quantize_op_types: Sequence[str] | None = None,
        is_full_quantize: bool = False,
        not_quant_pattern: Sequence[str] = ('skip_quant',),
        skip_tensor_list: Sequence[str] = (),
        float_model_save_path: str | None = None,
        int8_model_save_path: str | None = None,
        mobile_model_save_path: str | None = None,
        inference_model_save_path: str | None = None,
        save_in_nodes: Sequence[str] | None = None,
        save_out_nodes: Sequence[str] | None = None,
        algo: str = 'hist',
        hist_percent: float = 0.9999,
        batch_nums: int | None = None,
        round_type: str = 'round',
        bias_correction: bool = False,
        activation_quantize_type: str = 'range_abs_max',
        fold: bool = True,
        reconstruction: Any = None,
        search: Any = None,
    ) -> None:
        super().__init__(start_epoch, end_epoch)
        if start_epoch or end_epoch:
            raise ConfigError('start_epoch and end_epoch have no meaning here: the strategy acts after the last epoch')
        check_observer(algo)
        largest_integer(weight_bits)
        largest_integer(activation_bits)
        check_named('round_type', round_type, ROUND_TYPES)
        check_named('activation_quantize_type', activation_quantize_type, ACTIVATION_TYPES)
        if batch_nums is not None and (isinstance(batch_nums, bool) or batch_nums < 1):
            raise ConfigError(f'batch_nums is a number of batches, not {batch_nums!r}')
        if search is not None and reconstruction is not None:
            raise ConfigError('search and reconstruction do not go together')
        self.batch_nums, self.fold, self.reconstruction, self.search = batch_nums, fold, reconstruction, search
        self.quantize_op_types = list(quantize_op_types) if quantize_op_types is not None else None
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self._options: dict[str, Any] = {
            'weight_quantize_type': weight_quantize_type,
            'quantizable_op_type': self.quantize_op_types,
            'not_quant_pattern': list(not_quant_pattern),
            'skip_tensor_list': list(skip_tensor_list),
            'algo': algo,
            'hist_percent': hist_percent,
            'round_type': 'adaround' if reconstruction is not None else round_type,
            'bias_correction': bias_correction,
        }
        self.is_full_quantize = is_full_quantize
        self.paths = ModelPaths(
            float_model_save_path, int8_model_save_path, mobile_model_save_path, inference_model_save_path
        )
        self.save_in_nodes, self.save_out_nodes = save_in_nodes, save_out_nodes
        self.quantized: Any = None
        self.models: dict[str, Any] | None = None

    def on_compression_end(self, context: Context) -> None:
        """Quantize, and write the files."""
        if is_quantized(context.eval_program):
            raise ConfigError(f'{self.name} quantizes after training, and another strategy has trained with integers')
        if context.ranks.rank:
            return
        model = evaluation_model(context, context.eval_program, self.save_in_nodes, self.save_out_nodes)
        found = self._search(context, model) if self.search is not None else self._quantize(context, model)
        self.quantized = found
        final, spec = found.model, found.spec
        feed = next(iter(train_feeds(context, model, 1)))
        outputs = [GraphWrapper.name_of(item) for item in final.fetches]

        def export(path: str) -> Any:
            return export_quantized(final.program, spec, path, final.feeds, outputs, final.scope, feed=feed)

        self.models = write_models(self.paths, model, export, feed, context.place)
        for made in self.models.values():
            if isinstance(made, ExportedModel):
                self.quantized = replace(found, exported=made)
                break

    def _quantize(self, context: Context, model: InferenceModel) -> QuantizedModel:
        feeds = list(train_feeds(context, model, self.batch_nums))
        found = quantize_model(
            model,
            feeds,
            fold=self.fold,
            is_full_quantize=self.is_full_quantize,
            reconstruction=self._reconstruction(feeds),
            place=context.place,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            **self._options,
        )
        _LOG.info('%s: %s', self.name, found)
        return found

    def _reconstruction(self, feeds: Sequence[Feed]) -> dict[str, Any] | None:
        given = self.reconstruction
        if given is None:
            return None
        images = max(len(np.atleast_1d(next(iter(feed.values())))) for feed in feeds)
        return {
            'level': given.level,
            'regions': given.regions,
            'region_weights': given.region_weights_names,
            'activations': given.simulate_activation_quant,
            'learning': Learning(given.epochs * len(feeds), images, given.lr),
        }

    def _search(self, context: Context, model: InferenceModel) -> SearchedModel:
        space = self.search
        feeds = list(train_feeds(context, model, max(space.batch_nums)))
        compared = list(evaluation_feeds(context, model)) if context.eval_reader is not None else None
        kinds = ['conv2d', 'depthwise_conv2d', 'mul'] if self.quantize_op_types is None else self.quantize_op_types
        with search_folder(self.paths) as folder:
            source, target = Path(folder, 'float', 'model'), Path(folder, 'quantized')
            outputs = [GraphWrapper.name_of(item) for item in model.fetches]
            save_inference_model(model.program, source, model.feeds, outputs, model.scope, feed=feeds[0])
            search = partial(
                quant_post_hpo,
                None,
                context.place,
                source,
                target,
                train_dataloader=feeds,
                eval_dataloader=compared,
                quantizable_op_type=kinds,
                is_full_quantize=self.is_full_quantize,
                weight_quantize_type=list(space.weight_quantize_type),
                algo=list(space.algo),
                bias_correct=list(space.bias_correction),
                hist_percent=list(space.hist_percent),
                batch_num=list(space.batch_nums),
                optimize_model=self.fold,
                runcount_limit=space.trials,
                weight_bits=self.weight_bits,
                activation_bits=self.activation_bits,
            )
            try:
                found = search()
            except CheckpointError as error:
                _LOG.warning('%s: the search starts anew: %s', self.name, error)
                found = search(resume=False)
            _LOG.info('%s: %s', self.name, found)  # while its files are there
            return found
