"""Errors of the layers of a quantized model on a runtime: as a table, as files, as pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.error_figures import ErrorFigures, Histogram
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['LayerError', 'RuntimeErrors']

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
