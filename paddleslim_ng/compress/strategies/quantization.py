"""Training with the rounding of integers simulated, and the files that come of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.rebuilding import is_quantized
from paddleslim_ng.compress.shared_network import shared_network
from paddleslim_ng.compress.strategies.saved_files import ModelPaths, evaluation_model, first_feed, write_models
from paddleslim_ng.compress.strategies.teachers import state_names
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant import export_aware, float_program, freeze_batch_norm, quant_aware
from paddleslim_ng.quant.aware_config import read_config

__all__ = ['QuantizationStrategy']

_LOG = logging.getLogger('paddleslim_ng')


class QuantizationStrategy(Strategy):
    """Trains with fake quantizers from ``start_epoch`` on, and saves the integers at the end.

    Before its first epoch, :func:`slim.quant.quant_aware` rewrites the training and the evaluation program, which is
    evaluated quantized from there on. The quantizers stay until the end of the job. Where another strategy builds the
    training program anew, as distillation does, they are put into the new one with the scales that they had. Files are
    written when ``end_epoch`` is reached, and again at the end of the job if training went on after it; each is
    reloaded and compared.

    Args:
        start_epoch: see :class:`~paddleslim_ng.compress.Strategy`.
        end_epoch: see there.
        weight_bits: width of the integers of weights, or ``{weight: width}`` of every one.
        activation_bits: the same for activations.
        weight_quantize_type: one scale for each output channel, or ``'abs_max'``, one for a weight.
        quantize_op_types: types of operators; all that have weights where None.
        is_full_quantize: quantize operators without weights, too.
        not_quant_pattern: operators with such a name stay in float.
        skip_tensor_list: operators that read one of these tensors stay in float.
        float_model_save_path: path without suffix of the model with float weights.
        int8_model_save_path: path without suffix of the model whose weights are integers.
        mobile_model_save_path: file for Paddle Lite, with kernels of integers for Arm.
        inference_model_save_path: path without suffix of the model for Paddle Inference.
        save_in_nodes: inputs of the saved models; those that layers with weights depend on where None.
        save_out_nodes: their outputs; what the network computes before losses and metrics where None.
        quantizer: an object whose ``arguments()`` returns further arguments of ``quant_aware``, such as functions.
        activation_quantize_type: how scales of activations follow the batches.
        moving_rate: decay of the moving average.
        window_size: batches in the window of ``range_abs_max``.
        use_pact: learn where activations are cut off.
        quant_delay: batches after ``start_epoch`` that are computed in float.
        freeze_bn_delay: batches after ``start_epoch`` when batch norms begin to use their moving statistics.

    Attributes:
        models: what was written, by ``'float'``, ``'int8'``, ``'mobile'`` and ``'inference'``; None before the end.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> strategy = QuantizationStrategy(start_epoch=5, int8_model_save_path='int8/model')
        >>> compressor.add_strategy(strategy)
    """

    def __init__(
        self,
        start_epoch: int = 0,
        end_epoch: int = 0,
        weight_bits: int | Mapping[str, int] = 8,
        activation_bits: int | Mapping[str, int] = 8,
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
        quantizer: Any = None,
        activation_quantize_type: str = 'moving_average_abs_max',
        moving_rate: float = 0.9,
        window_size: int = 10000,
        use_pact: bool = False,
        quant_delay: int = 0,
        freeze_bn_delay: int | None = None,
    ) -> None:
        super().__init__(start_epoch, end_epoch)
        if freeze_bn_delay is not None and (isinstance(freeze_bn_delay, bool) or freeze_bn_delay < 0):
            raise ConfigError(f'freeze_bn_delay is a number of batches, not {freeze_bn_delay!r}')
        config = {
            'weight_bits': weight_bits,
            'activation_bits': activation_bits,
            'weight_quantize_type': weight_quantize_type,
            'activation_quantize_type': 'pact' if use_pact else activation_quantize_type,
            'quantize_op_types': list(quantize_op_types) if quantize_op_types is not None else None,
            'is_full_quantize': is_full_quantize,
            'not_quant_pattern': list(not_quant_pattern),
            'skip_tensor_list': list(skip_tensor_list),
            'moving_rate': moving_rate,
            'window_size': window_size,
            'quant_delay': quant_delay,
        }
        self._arguments = _with_quantizer(config, quantizer)
        read_config(self._arguments['config'])
        self.freeze_bn_delay = freeze_bn_delay
        self.paths = ModelPaths(
            float_model_save_path, int8_model_save_path, mobile_model_save_path, inference_model_save_path
        )
        self.save_in_nodes, self.save_out_nodes = save_in_nodes, save_out_nodes
        self.models: dict[str, Any] | None = None
        self._attached = False
        self._steps = 0
        self._state: list[str] = []
        self._frozen: Any = None

    def on_epoch_begin(self, context: Context) -> None:
        """Put the quantizers in, in the first epoch of this strategy."""
        if not self._attached and self.is_active(context.epoch_id):
            self._attach(context)

    def _attach(self, context: Context) -> None:
        if is_quantized(context.train_program):
            raise ConfigError(
                f'{self.name}: the network is quantized already, by another strategy or in an earlier round, and '
                'quantizers stay until the end of the job: let one strategy do it, beside the rounds'
            )
        evaluated = self._quantized(context, context.eval_program, for_test=True)
        train = self._quantized(context, context.train_program)
        self._remember(context.train_program, train)
        context.replace_programs(self, train, evaluated, note={'what': 'both'})
        self._attached = True

    def _quantized(self, context: Context, program: Any, *, for_test: bool = False) -> Any:
        return quant_aware(program, context.place, scope=context.scope, for_test=for_test, **self._arguments)

    def _remember(self, before: Any, after: Any) -> None:
        """Note which tensors are the quantizers'."""
        self._state = sorted(set(state_names(after)) - set(state_names(before)))

    def on_batch_begin(self, context: Context) -> None:
        """Follow the training program where it has been built anew, and freeze batch norms when it is time."""
        if not self._attached:
            return
        if not is_quantized(context.train_program):
            self._follow(context)
        due = self.freeze_bn_delay is not None and self._steps >= self.freeze_bn_delay
        if due and self._frozen is not context.train_program:
            freeze_batch_norm(context.train_program)
            self._frozen = context.train_program

    def _follow(self, context: Context) -> None:
        """Quantize a training program that has come without quantizers, and let scales be what they were."""
        scope = context.scope
        former = {name: load_array(scope, name) for name in self._state if has_array(scope, name)}
        train = self._quantized(context, context.train_program)
        for name, array in former.items():
            store_array(scope, name, array, context.place)
        self._remember(context.train_program, train)
        context.replace_programs(self, train, note={'what': 'train'})

    def on_batch_end(self, context: Context) -> None:
        """Count the batches."""
        if self._attached:
            self._steps += 1
            if self._steps == self._arguments['config']['quant_delay']:
                context.generation += 1  # what was evaluated in float does not compare with what follows

    def on_epoch_end(self, context: Context) -> None:
        """Save the models where this strategy ends."""
        if self._attached and context.epoch_id + 1 == self.end_epoch:
            self._save(context)

    def on_compression_end(self, context: Context) -> None:
        """Save the models of what training has come to."""
        if not self._attached:
            if self.paths != ModelPaths():
                _LOG.warning('%s has quantized nothing, and saves nothing', self.name)
        elif self.models is None or not self.end_epoch or context.epoch > self.end_epoch:
            self._save(context)

    def _save(self, context: Context) -> None:
        if self.paths == ModelPaths():
            return
        with shared_network(context.eval_program, context.scope, context.ranks):
            if context.ranks.rank == 0:
                self._write(context)

    def _write(self, context: Context) -> None:
        quantized, scope = context.eval_program, context.scope
        bare = float_program(quantized)
        model = evaluation_model(context, bare, self.save_in_nodes, self.save_out_nodes)
        feed = first_feed(context, model)
        outputs = [GraphWrapper.name_of(item) for item in model.fetches]

        def export(path: str) -> Any:
            return export_aware(quantized, path, model.feeds, outputs, scope, feed=feed)

        self.models = write_models(self.paths, model, export, feed, context.place)
        for kind, made in self.models.items():
            _LOG.info('%s: %s: %s', self.name, kind, made)

    def state_dict(self) -> Mapping[str, Any]:
        """Return whether quantizers are there, the names of their tensors, and how many batches they have seen."""
        return {'attached': self._attached, 'steps': self._steps, 'state': list(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._attached, self._steps = bool(state['attached']), int(state['steps'])
        self._state = list(state['state'])

    def restore_from_checkpoint(self, context: Context) -> None:
        """Put the quantizers in again."""
        if context.replayed is None:
            return
        state = self.state_dict()
        if context.replayed.note['what'] == 'both':
            self._attach(context)
        else:
            self._follow(context)
        self.load_state_dict(state)


def _with_quantizer(config: dict[str, Any], quantizer: Any) -> dict[str, Any]:
    """Return the arguments of ``quant_aware``."""
    if quantizer is None:
        return {'config': config}
    if not callable(getattr(quantizer, 'arguments', None)):
        raise ConfigError(f'a quantizer has arguments(), which returns arguments of quant_aware; not {quantizer!r}')
    given = dict(quantizer.arguments())
    return {**given, 'config': {**config, **given.get('config', {})}}
