"""Error of every layer of a quantized model on the runtime that executes it, and which layers are to blame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.export import quantized_part
from paddleslim_ng.quant.layer_comparison import LayerComparison, largest_difference, layers_of
from paddleslim_ng.quant.layer_errors import LayerError, RuntimeErrors
from paddleslim_ng.quant.layer_runs import Runtime, opened_runtime
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.stored_tensors import kept_feeds
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['runtime_errors']


def runtime_errors(
    model: InferenceModel,
    spec: QuantizationSpec,
    feeds: Iterable[Feed],
    *,
    format: str = 'quantize_linear',
    runtime: Runtime = 'int8',
    place: Any = None,
) -> RuntimeErrors:
    """Run the quantized model, and each of its layers alone, on the runtime, and compare with the float model.

    The quantized program is the one that ``export_quantized`` saves. It is saved with the outputs of its layers as
    outputs, for the error that has added up, and cut into layers that are fed what they read in float, for the error
    that each of them makes itself.

    Args:
        model: the float model that was quantized (``QuantizedModel.model``); it runs in Paddle's executor.
        spec: its quantization.
        feeds: batches.
        format: of the files, one of ``FORMATS``.
        runtime: ``'executor'`` (Paddle's), ``'plain'``, ``'onednn'`` or ``'int8'`` (Paddle Inference, in a process of
            its own), or a function that is given the path of a saved model without suffix and a list of batches, and
            returns the outputs of each: so Paddle Lite and other runtimes plug in.
        place: device of the float model; the CPU where None.

    Returns:
        The errors; ``print`` them for a table of culprits.

    Raises:
        ConfigError: an unknown format or runtime.
        DataError: no batch, a batch that the model cannot run on, or tensors that are not finite.
        GraphError: ``spec`` does not fit the model.
        DeployError: the runtime fails.

    Example:
        >>> errors = slim.quant.runtime_errors(done.model, done.spec, feeds, runtime='int8')
        >>> errors.save_csv('errors.csv')
    """
    with opened_runtime(runtime) as execute:
        part, quantized = quantized_part(model, spec, format)
        layers = layers_of(part, spec)
        work = LayerComparison(part, quantized, kept_feeds(feeds, part.feeds), execute, place)
        fetches = [GraphWrapper.name_of(item) for item in part.fetches]
        alone = work.whole(fetches)
        together = work.whole(list(dict.fromkeys([*fetches, *(layer.output for layer in layers)])))
        own = work.layers(layers)
    found = tuple(
        LayerError(
            layer.output,
            layer.operators,
            layer.weights,
            together.sums[layer.output].figures(),
            own[layer.output].figures(),
            together.sums[layer.output].histogram(),
        )
        for layer in layers
    )
    outputs = {name: alone.sums[name].figures() for name in fetches}
    name = runtime if isinstance(runtime, str) else getattr(runtime, '__name__', type(runtime).__name__)
    return RuntimeErrors(str(name), format, found, outputs, largest_difference(alone.outputs, together.outputs))
