"""What the verdict says of quantized models: their kernels, how far outputs moved, and what runtimes get wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from paddleslim_ng.deploy.engine_row import EngineRow, percent

__all__ = ['DEFECTS', 'about_quantization']

#: What int8 products by a matrix (fc) suffer from on an engine.
DEFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        'int8': 'Paddle 2.6 and 3.3 take the scales of its weights as if the matrix were transposed, and cut off what '
        'exceeds these',
        'lite_x86': 'Paddle Lite 2.13 leaves its bias out, and returned garbage on batches of 64',
    }
)
_CURE: Final = 'where accuracy suffers, leave it in float (skip_tensor_list, quantizable_op_type)'


def about_quantization(rows: Sequence[EngineRow], baseline: str | None = None) -> list[str]:
    """Return sentences about the quantized models among the rows, empty where there are none.

    Args:
        rows: one for each model and engine.
        baseline: label of the model that the others are compared with.
    """
    labels = dict.fromkeys(row.model for row in rows if row.quantized)
    sentences = []
    for label in labels:
        own = [row for row in rows if row.model == label]
        sentences += [*_kernels(label, own), *_distance(label, own, baseline), *_defects(label, own)]
    return sentences


def _kernels(label: str, rows: Sequence[EngineRow]) -> list[str]:
    """Say of every engine with integer kernels how many there are."""
    return [
        f'{label} on {row.title}: {row.kernels}{"" if row.latency else "; structure verified, not executed"}'
        for row in rows
        if row.kernels is not None
    ]


def _distance(label: str, rows: Sequence[EngineRow], baseline: str | None) -> list[str]:
    """Say how far the outputs are from those of the original: once simulated in float, and on every other engine."""
    parts: dict[str, str] = {}
    for row in rows:
        figures = row.distance
        if figures is None or not math.isfinite(figures.relative_difference):
            continue
        where = row.title if row.engine in DEFECTS else 'simulated in float'
        share = percent(figures.relative_difference)
        parts.setdefault(where, f'{share} of their scale, {where} (top-1 agreement {figures.top1:.1%})')
    if not parts:
        return []
    return [f'outputs of {label} differ from those of {baseline} on these inputs by {", ".join(parts.values())}']


def _defects(label: str, rows: Sequence[EngineRow]) -> list[str]:
    """Name the defects of runtimes that a model meets."""
    return [
        f'{label} on {row.title} has {row.kernels.int8_products} x int8 fc: {DEFECTS[row.engine]}; {_CURE}'
        for row in rows
        if row.engine in DEFECTS and row.latency is not None and row.kernels is not None and row.kernels.int8_products
    ]
