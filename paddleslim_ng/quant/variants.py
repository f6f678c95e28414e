"""All quantized forms of a model in one program: bits of every tensor are set in a scope, not in the program.

Weights are written into the program's own scope as what their integers stand for. Where activations are quantized, too,
a second program has a fake quantizer behind each, whose scale, limit and switch are state in that scope. So programs
are compiled once, and any choice of bits costs a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.analysis.metric_value import as_metric
from paddleslim_ng.core import Executor, store_array, view_array
from paddleslim_ng.errors import ConfigError, DataError, nearest_names
from paddleslim_ng.quant.bits import FLOAT_BITS
from paddleslim_ng.quant.building import spec_from_thresholds
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.observers import check_observer, threshold
from paddleslim_ng.quant.output_loss import OUTPUT_LOSSES, joined_batches, output_loss
from paddleslim_ng.quant.quantizers import abs_max_scale, fake_quantize, scale_of_threshold
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization
from paddleslim_ng.quant.statistics import CalibrationStatistics
from paddleslim_ng.quant.stored_tensors import kept_feeds
from paddleslim_ng.quant.switched_model import own_copy, switch_state, switched_model
from paddleslim_ng.quant.targets import find_targets
from paddleslim_ng.runtime.executor_flags import ignores_changed_weights
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['Metric', 'QuantizedVariants']

Array = npt.NDArray[Any]
#: A measure of the outputs against those in float, or a function of a model, the larger the better.
Metric = Union[str, Callable[[InferenceModel], Any]]


class QuantizedVariants:
    """A model whose tensors take any widths, one choice after another.

    The data are calibrated with in one pass and kept. Scales are those that :func:`spec_from_thresholds` makes of the
    observer's thresholds at the width in question.

    Args:
        model: a float model of either IR, with batch norm folded as a rule; it is left as it is.
        feeds: batches, as :func:`~paddleslim_ng.quant.read_feeds` makes them; kept in memory.
        algo: one of ``OBSERVERS``, for activations.
        hist_percent: for ``algo='hist'``.
        weight_quantize_type: one of ``WEIGHT_TYPES``.
        quantizable_op_type: types of operators; all that have weights where None.
        is_full_quantize: quantize operators without weights, too.
        skip_tensor_list: operators that read one of these tensors stay in float.
        not_quant_pattern: operators with such a name stay in float.
        place: device; the CPU where None.

    Attributes:
        model: the program and scope of the form that was last set.
        source: the float model that was given.
        exact: the float outputs, all batches joined, one array for each fetch.
        statistics: of the activations.
        template: what is quantized, at 8 bits.

    Raises:
        ConfigError: an unknown name, nothing that can be quantized, or Paddle's oneDNN flag is set on a legacy program.
        DataError: no batch, or one that the program cannot run on.
        GraphError: a batch lacks an input, or the scope a parameter.

    Example:
        >>> variants = slim.quant.QuantizedVariants(model, feeds, algo='mse')
        >>> variants.loss({'conv2d_0.w_0': 4})
    """

    def __init__(
        self,
        model: InferenceModel,
        feeds: Iterable[Feed],
        *,
        algo: str = 'hist',
        hist_percent: float = 0.9999,
        weight_quantize_type: str = 'channel_wise_abs_max',
        quantizable_op_type: Collection[str] | None = None,
        is_full_quantize: bool = False,
        skip_tensor_list: Iterable[str] = (),
        not_quant_pattern: Iterable[str] = ('skip_quant',),
        place: Any = None,
    ) -> None:
        if ignores_changed_weights(model.program):
            raise ConfigError(
                "FLAGS_use_mkldnn is set: with it, Paddle's executor keeps the first weights it has seen of a legacy "
                'program, so that all widths would seem alike. Unset it'
            )
        self._algo, self._percentile = check_observer(algo), hist_percent
        chosen: dict[str, Any] = {
            'skip_tensor_list': list(skip_tensor_list),
            'not_quant_pattern': list(not_quant_pattern),
        }
        targets = find_targets(model.program, types=quantizable_op_type, full=is_full_quantize, **chosen)
        if not targets.operators:
            raise ConfigError(f'no operator can be quantized; in float stay {dict(targets.skipped) or "all"}')
        self.feeds = kept_feeds(feeds, model.feeds)
        self._place = place
        self._runner = Executor(place)
        self.statistics: CalibrationStatistics = calibrate(
            model.program, self.feeds, targets.activations, model.scope, executor=self._runner
        )
        self._building: dict[str, Any] = {
            'scope': model.scope,
            'weight_quantize_type': weight_quantize_type,
            'quantizable_op_type': quantizable_op_type,
            'is_full_quantize': is_full_quantize,
            **chosen,
        }
        self.source = model
        limits = {name: self._limit(name, 8) for name in targets.activations}
        self.template = spec_from_thresholds(model.program, limits, **self._building)
        if not self.template.operators:
            raise ConfigError(f'no operator can be quantized: {dict(self.template.skipped)}')
        self.model = self._plain = own_copy(model)
        self._switched: InferenceModel | None = None
        self._bits: dict[str, int] = {}
        self.exact = self.outputs()

    @property
    def settings(self) -> str:
        """What the scales depend on besides network and data, in words."""
        shown = {name: value for name, value in self._building.items() if name != 'scope'}
        return repr({'algo': self._algo, 'hist_percent': self._percentile, **shown})

    @property
    def tensors(self) -> list[str]:
        """Names of all tensors that can be quantized: weights and activations."""
        return list(self.template.tensors)

    def tensor(self, name: str, bits: int) -> TensorQuantization:
        """Return the quantization of a tensor at a width.

        Raises:
            ConfigError: there is no such tensor, or width.
        """
        known = self._known(name)
        if known.kind == 'weight':
            scale = abs_max_scale(view_array(self.source.scope, name), bits, known.axis)
        else:
            scale = scale_of_threshold(self._limit(name, bits), bits)
        return TensorQuantization(name, bits, scale, known.axis, kind=known.kind)

    def spec(self, bits: Mapping[str, int]) -> QuantizationSpec:
        """Return the quantization with given bits; tensors without any, or with 32, stay in float, and are not read.

        Raises:
            ConfigError: there is no such tensor or width, or nothing is quantized.
        """
        tensors = {name: self.tensor(name, width) for name, width in bits.items() if width != FLOAT_BITS}
        reads = {
            output: tuple(name for name in names if name in tensors)
            for output, names in self.template.operators.items()
        }
        kept = {output: names for output, names in reads.items() if names}
        if not kept:
            raise ConfigError('no tensor is quantized')
        skipped = {output: 'its tensors stay in float' for output in reads if output not in kept}
        return QuantizationSpec(tensors, kept, {**self.template.skipped, **skipped})

    def set(self, bits: Mapping[str, int]) -> None:
        """Let tensors have given bits; those without any, or with 32, are in float.

        Raises:
            ConfigError: there is no such tensor, or width.
        """
        wanted = {name: int(width) for name, width in bits.items() if width != FLOAT_BITS}
        changed = [name for name in self.tensors if wanted.get(name) != self._bits.get(name)]
        made = {name: self.tensor(name, width) for name, width in wanted.items()}
        rounds_activations = any(tensor.kind == 'activation' for tensor in made.values())
        if rounds_activations and self._switched is None:
            self._switched = switched_model(self._plain, self.template)
        for name in changed:
            self._write(name, made.get(name))
        self._bits = wanted
        self.model = self._switched if rounds_activations and self._switched is not None else self._plain

    def outputs(self) -> list[Array]:
        """Return the outputs with the bits that are set, all batches joined."""
        return joined_batches([self._run(feed) for feed in self.feeds])

    def loss(self, bits: Mapping[str, int], metric: Metric = 'kl', baseline: float | None = None) -> float:
        """Set bits and return what they cost.

        Args:
            bits: see :meth:`set`.
            metric: one of ``OUTPUT_LOSSES``, the outputs on the data against those in float; or a function of
                :attr:`model` that returns a number, the larger the better.
            baseline: what the function returns in float, from which its value is subtracted; evaluated where None.

        Raises:
            ConfigError: an unknown measure, or a function that returns no number.
            DataError: outputs or a metric that are not finite.
        """
        check_metric(metric)
        if isinstance(metric, str):
            self.set(bits)
            return output_loss(metric, self.exact, self.outputs())
        before = self.metric({}, metric) if baseline is None else baseline
        return before - self.metric(bits, metric)

    def metric(self, bits: Mapping[str, int], metric: Callable[[InferenceModel], Any]) -> float:
        """Set bits and return what a function makes of the model.

        Raises:
            ConfigError: it returned no number.
            DataError: the number is not finite.
        """
        self.set(bits)
        return as_metric(metric(self.model), 'metric')

    def _known(self, name: str) -> TensorQuantization:
        found = self.template.tensors.get(name)
        if found is None:
            raise ConfigError(f'{name!r} is not quantized{nearest_names(name, self.template.tensors)}')
        return found

    def _limit(self, name: str, bits: int) -> float:
        return threshold(self.statistics[name], self._algo, bits=bits, percentile=self._percentile)

    def _write(self, name: str, tensor: TensorQuantization | None) -> None:
        scope = self.model.scope
        if self._known(name).kind == 'weight':
            array = view_array(self.source.scope, name)
            store_array(scope, name, array if tensor is None else fake_quantize(array, tensor), self._place)
            return
        for state, value in switch_state(name, tensor).items():
            store_array(scope, state, value, self._place)

    def _run(self, feed: Feed) -> list[Array]:
        given = {name: feed[name] for name in self.model.feeds}
        try:
            found = self._runner.run(self.model.program, given, self.model.fetches, scope=self.model.scope)
        except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
            shapes = {name: list(np.shape(array)) for name, array in given.items()}
            raise DataError(f'the program cannot run on a batch of shapes {shapes}: {error}') from error
        return [np.asarray(array) for array in found]


def check_metric(metric: Metric) -> None:
    """Raise ConfigError where a metric is neither a function nor the name of a measure."""
    if not callable(metric) and metric not in OUTPUT_LOSSES:
        raise ConfigError(f'metric must be a function of the model or one of {list(OUTPUT_LOSSES)}, not {metric!r}')
