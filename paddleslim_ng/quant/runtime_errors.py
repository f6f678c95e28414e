"""Error of every layer of a quantized model on the runtime that executes it, and which layers are to blame."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.blocks import find_blocks
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.error_figures import ErrorFigures, ErrorSums, Histogram
from paddleslim_ng.quant.export import quantized_part
from paddleslim_ng.quant.layer_runs import Runtime, RuntimeFunction, opened_runtime, run_part
from paddleslim_ng.quant.local_agreement import Step, independent_groups
from paddleslim_ng.quant.placement import operator_of
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.stored_tensors import kept_feeds
from paddleslim_ng.runtime.atomic import atomic_write
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['LayerError', 'RuntimeErrors', 'runtime_errors']

Array = npt.NDArray[Any]
_BY: Final = ('own', 'accumulated')
_COLUMNS: Final = ('sqnr', 'cosine', 'relative', 'largest')


@dataclass(frozen=True)
class LayerError:
    """The error of one layer.

    Attributes:
        output: the tensor that the layer makes: that of the bias, batch norm and activation behind the operator.
        operators: its quantized operators, by their first outputs.
        weights: its quantized weights.
        accumulated: error of the output in the quantized model, layers before it included.
        own: error of the output where the layer's inputs are those in float.
        histogram: values of the output in the float model and in the quantized one.
    """

    output: str
    operators: tuple[str, ...]
    weights: tuple[str, ...]
    accumulated: ErrorFigures
    own: ErrorFigures
    histogram: Histogram


@dataclass(frozen=True)
class RuntimeErrors:
    """What :func:`runtime_errors` found.

    Attributes:
        runtime: what executed the files.
        format: of the files.
        layers: in program order.
        outputs: error of each output of the model, by name, in the file that has no other outputs.
        disturbance: how much more the outputs differ in the file whose layers are outputs, too, relative to the largest
            one. Where it is not 0, fetching the layers kept the runtime from fusing some of them.
    """

    runtime: str
    format: str
    layers: tuple[LayerError, ...]
    outputs: Mapping[str, ErrorFigures]
    disturbance: float

    def ranked(self, by: str = 'own') -> list[LayerError]:
        """Return the layers with the largest errors first.

        Args:
            by: ``'own'`` or ``'accumulated'``.

        Raises:
            ConfigError: another name.
        """
        if by not in _BY:
            raise ConfigError(f'layers are ranked by one of {list(_BY)}, not {by!r}')
        return sorted(self.layers, key=lambda layer: getattr(layer, by).sqnr)

    def __str__(self) -> str:
        """Report as a table, culprits first."""
        lines = [f'{len(self.layers)} layers on {self.runtime} ({self.format}), the largest own errors first']
        lines.append('   own dB   cosine   all dB   cosine  layer')
        for layer in self.ranked():
            own, total = layer.own, layer.accumulated
            lines.append(
                f'{own.sqnr:9.2f} {own.cosine:8.5f} {total.sqnr:8.2f} {total.cosine:8.5f}  {layer.output}'
                f' ({", ".join(layer.weights) or "no weight"})'
            )
        lines += [
            f'output {name}: {found.sqnr:.2f} dB, cosine {found.cosine:.6f}' for name, found in self.outputs.items()
        ]
        if self.disturbance:
            lines.append(f'with all layers fetched, the outputs differ by {self.disturbance:.3g} of the largest one')
        return '\n'.join(lines)

    def to_json(self) -> str:
        """Return all figures and histograms as JSON text; infinite ones are null."""
        content = {
            'runtime': self.runtime,
            'format': self.format,
            'disturbance': self.disturbance,
            'outputs': {name: _row(found) for name, found in self.outputs.items()},
            'layers': [
                {
                    'output': layer.output,
                    'operators': list(layer.operators),
                    'weights': list(layer.weights),
                    'own': _row(layer.own),
                    'accumulated': _row(layer.accumulated),
                    'histogram': {
                        name: getattr(layer.histogram, name).tolist() for name in ('edges', 'exact', 'found')
                    },
                }
                for layer in self.layers
            ],
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` in one step."""
        atomic_write(path, self.to_json() + '\n')

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a row for each layer in one step."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator='\n')
        table.writerow(['output', 'weights', *(f'{by}_{name}' for by in _BY for name in _COLUMNS)])
        for layer in self.layers:
            figures = [getattr(getattr(layer, by), name) for by in _BY for name in _COLUMNS]
            table.writerow([layer.output, ' '.join(layer.weights), *figures])
        atomic_write(path, text.getvalue())

    def plot(self, path: str | os.PathLike[str] | None = None, *, worst: int = 6, by: str = 'own') -> Any:
        """Draw signal to noise of all layers, and histograms of the worst ones; see ``plot_runtime_errors``."""
        from paddleslim_ng.quant.error_plots import plot_runtime_errors

        return plot_runtime_errors(self, path, worst=worst, by=by)


def _row(figures: ErrorFigures) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(figures).items()}


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
        layers = _layers(part, spec)
        work = _Comparison(part, quantized, kept_feeds(feeds, part.feeds), execute, place)
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
    return RuntimeErrors(str(name), format, found, outputs, _distance(alone.outputs, together.outputs))


@dataclass(frozen=True)
class _Layer:
    output: str
    inputs: tuple[str, ...]
    operators: tuple[str, ...]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class _Whole:
    """Errors by tensor, and the outputs of each batch."""

    sums: Mapping[str, ErrorSums]
    outputs: list[list[Array]]


def _layers(model: InferenceModel, spec: QuantizationSpec) -> list[_Layer]:
    graph = GraphWrapper(model.program)
    here = QuantizationSpec(
        spec.tensors, {name: reads for name, reads in spec.operators.items() if graph.has_var(name)}, {}
    )
    found = {
        operator: _Layer(block.output, block.inputs, block.operators, block.weights)
        for block in find_blocks(graph, here, model.fetches)
        for operator in block.operators
    }
    weights = {tensor.name for tensor in spec.of_kind('weight')}
    for name, reads in here.operators.items():
        if name not in found:
            inputs = tuple(var.name() for var in operator_of(graph, name).all_inputs() if not var.persistable())
            found[name] = _Layer(name, inputs, (name,), tuple(read for read in reads if read in weights))
    unique = {layer.output: layer for name in here.operators for layer in [found[name]]}
    return list(unique.values())


class _Comparison:
    """Runs the quantized program on the runtime, and the float one in Paddle's executor."""

    def __init__(
        self,
        exact: InferenceModel,
        quantized: InferenceModel,
        feeds: Sequence[Feed],
        runtime: RuntimeFunction,
        place: Any,
    ) -> None:
        self._exact, self._quantized = exact, quantized
        self._feeds, self._runtime = feeds, runtime
        self._runner = Executor(place)

    def whole(self, names: Sequence[str]) -> _Whole:
        """Compare tensors of the whole model."""
        exact = self._in_float(names)
        found = run_part(self._quantized, self._quantized.feeds, names, self._feeds, self._runtime)
        count = len(self._exact.fetches)
        return _Whole(_sums(names, exact, found), [row[:count] for row in found])

    def layers(self, layers: Sequence[_Layer]) -> dict[str, ErrorSums]:
        """Compare layers, each of which is fed what it reads in float."""
        sums: dict[str, ErrorSums] = {}
        for group in independent_groups(Step(layer.output, layer.inputs) for layer in layers):
            inputs = list(dict.fromkeys(name for step in group for name in step.inputs))
            outputs = [step.output for step in group]
            rows = self._in_float([*inputs, *outputs])
            feeds = [dict(zip(inputs, row)) for row in rows]
            found = run_part(self._quantized, inputs, outputs, feeds, self._runtime)
            sums.update(_sums(outputs, [row[len(inputs) :] for row in rows], found))
        return sums

    def _in_float(self, names: Sequence[str]) -> list[list[Array]]:
        program, inputs, _, scope = self._exact
        rows = []
        for feed in self._feeds:
            given = {name: feed[name] for name in inputs}
            computed = [name for name in names if name not in given]
            arrays = self._runner.run(program, given, computed, scope=scope) if computed else []
            values = {**given, **dict(zip(computed, map(np.asarray, arrays)))}
            rows.append([np.asarray(values[name]) for name in names])
        return rows


def _sums(
    names: Sequence[str], exact: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]
) -> dict[str, ErrorSums]:
    sums = {name: ErrorSums() for name in names}
    for before, after in zip(exact, found):
        for name, a, b in zip(names, before, after):
            sums[name].add(name, a, b)
    return sums


def _distance(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> float:
    worst = 0.0
    for first, second in zip(before, after):
        for a, b in zip(first, second):
            scale = float(np.max(np.abs(a), initial=0.0))
            worst = max(worst, float(np.max(np.abs(a - b), initial=0.0)) / (scale or 1.0))
    return worst
