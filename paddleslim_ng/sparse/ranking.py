"""From weights to masks: scores, cuts and what a cut keeps, for single weights, blocks and N:M patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.sparse.layer_ratios import layer_counts
from paddleslim_ng.sparse.n_of_m import Pattern, keep_n_of_m
from paddleslim_ng.sparse.options import Options
from paddleslim_ng.sparse.scores import BlockMeans, Blocks, Magnitudes, Mask
from paddleslim_ng.sparse.selection import Cut, Part, count_of, select

__all__ = ['WHOLE', 'Weights', 'coarse_blocks', 'find_cuts', 'keep', 'keep_pattern']

WHOLE = ''
_BLOCK_SHARE = 0.05


class Weights:
    """The weights that are ranked, as they lie in the scope or in the backup.

    Args:
        values: ``{parameter: weights}``.
        masks: ``{parameter: mask}`` of what has left and stays away; nothing where weights may come back.
    """

    def __init__(self, values: Mapping[str, npt.NDArray[Any]], masks: Mapping[str, Mask]) -> None:
        self.values = values
        self.masks = masks
        wide = any(array.dtype == np.float64 for array in values.values())
        self.dtype: Any = np.float64 if wide else np.float32

    def left(self) -> int:
        """Return how many weights have left already."""
        return sum(int(mask.size - np.count_nonzero(mask)) for mask in self.masks.values())

    def part(self, name: str, options: Options) -> Part:
        """Return the scores of one parameter."""
        values, mask = self.values[name], self.masks.get(name)
        if options.block == (1, 1) or values.ndim < 2:
            return Part(Magnitudes(values, mask, self.dtype))
        blocks = Blocks(values.shape, *options.block)
        return Part(BlockMeans(blocks.means(values, mask).astype(self.dtype)), blocks.sizes())


def find_cuts(weights: Weights, options: Options, ratio: float) -> dict[str, Cut]:
    """Find what a ratio drops.

    Args:
        weights: all prunable weights.
        options: which weights are ranked together.
        ratio: share of all of them to drop.

    Returns:
        ``{parameter: cut}`` where every parameter is ranked by itself, else one cut under ``''``.
    """
    if not options.by_layer:
        total = sum(array.size for array in weights.values.values())
        count = count_of(ratio, total)
        if count <= weights.left():
            return {WHOLE: Cut(0.0)}
        return {WHOLE: select([weights.part(name, options) for name in weights.values], count)}
    counts = _counts({name: array.size for name, array in weights.values.items()}, options, ratio)
    return {name: select([weights.part(name, options)], counts[name]) for name in weights.values}


def _counts(sizes: Mapping[str, int], options: Options, ratio: float) -> dict[str, int]:
    given = options.layer_ratios
    if isinstance(given, str):
        return layer_counts(sizes, ratio, given)
    if given is None:
        return {name: count_of(ratio, size) for name, size in sizes.items()}
    return {name: count_of(given.get(name, ratio), size) for name, size in sizes.items()}


def keep(weights: Weights, name: str, cut: Cut, options: Options) -> tuple[npt.NDArray[np.bool_], int]:
    """Tell what a cut keeps of one parameter.

    Returns:
        True where a weight stays; and how many ties of the cut were used up here.
    """
    scores = weights.part(name, options).scores
    kept = np.empty(len(scores), np.bool_)
    left, start = cut.ties, 0
    for chunk in scores.chunks():
        own = chunk >= chunk.dtype.type(cut.value)
        if left:
            ties = np.flatnonzero(chunk == chunk.dtype.type(cut.value))[:left]
            own[ties] = False
            left -= len(ties)
        kept[start : start + len(chunk)] = own
        start += len(chunk)
    shape = weights.values[name].shape
    if options.block == (1, 1) or len(shape) < 2:
        return kept.reshape(shape), cut.ties - left
    return Blocks(shape, *options.block).spread(kept), cut.ties - left


def keep_pattern(weights: Weights, name: str, pattern: Pattern, axis: int) -> npt.NDArray[np.bool_]:
    """Tell what an N:M pattern keeps of one parameter."""
    return keep_n_of_m(weights.values[name], weights.masks.get(name), pattern, axis)


def coarse_blocks(shapes: Mapping[str, tuple[int, ...]], options: Options) -> list[str]:
    """Return the parameters of which one block holds so much that their sparsity cannot come near the ratio."""
    rows, columns = options.block
    if options.block == (1, 1):
        return []
    return [name for name, shape in shapes.items() if rows * columns / max(1, int(np.prod(shape[:2]))) >= _BLOCK_SHARE]
