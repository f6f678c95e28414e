"""Tables and pictures of what the tensors of an analysed model hold in float and quantized."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddleslim_ng.core import load_array
from paddleslim_ng.quant.analysed_model import AnalysedModel
from paddleslim_ng.quant.error_plots import plot_boxes, plot_histograms
from paddleslim_ng.quant.quantizers import fake_quantize
from paddleslim_ng.quant.tensor_summary import COLUMNS, TensorSummary
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['summaries', 'write_statistics']


def summaries(analysed: AnalysedModel, axis: int | None = None) -> tuple[list[TensorSummary], list[TensorSummary]]:
    """Return what activations and weights hold, over all of the data.

    Args:
        analysed: the model with its quantization and data.
        axis: see :class:`TensorSummary`.

    Raises:
        ConfigError: a tensor has no such axis.
        DataError: tensors that are not finite.
    """
    layers = analysed.layers()
    model, _ = analysed.form(list(layers))
    readers = {
        name: layer
        for layer, outputs in layers.items()
        for output in outputs
        for name in analysed.spec.operators[output]
    }
    names = [tensor.name for tensor in analysed.spec.of_kind('activation')]
    activations = [TensorSummary(name, readers[name], axis) for name in names]
    for exact, found in zip(analysed.outputs(analysed.model, names), analysed.outputs(model, names)):
        for summary, a, b in zip(activations, exact, found):
            summary.add(a, fake_quantize(b, analysed.spec.tensors[summary.name]))
    weights = []
    for tensor in analysed.spec.of_kind('weight'):
        weights.append(TensorSummary(tensor.name, None, axis))
        weights[-1].add(load_array(analysed.model.scope, tensor.name), load_array(model.scope, tensor.name))
    return activations, weights


def write_statistics(
    folder: Path, activations: Sequence[TensorSummary], weights: Sequence[TensorSummary]
) -> list[dict[str, Any]]:
    """Write PaddleSlim's table and pictures, and return the rows of the table.

    Args:
        folder: where to.
        activations: what activations hold.
        weights: what weights hold.
    """
    rows = [summary.row() for summary in (*activations, *weights)]
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    table.writeheader()
    table.writerows(rows)
    atomic_write(folder / 'statistic.csv', text.getvalue())
    for kind, group in (('activation', activations), ('weight', weights)):
        if group:
            exact = {item.name: item.exact_sample for item in group}
            found = {item.name: item.found_sample for item in group}
            plot_boxes(exact, folder / f'fp_{kind}_boxplot.pdf', f'{kind}s in float')
            plot_boxes(found, folder / f'quantized_{kind}_boxplot.pdf', f'quantized {kind}s')
            plot_histograms({item.name: item.histogram() for item in group}, folder / f'{kind}_histplot.pdf')
    return rows
