"""What a decision takes from each parameter: positions, and shapes without them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, Layout
from paddleslim_ng.prune.records import Positions

__all__ = ['Footprint', 'cut_shape', 'footprint', 'kept_positions']

Footprint = dict[str, list[tuple[int, Positions]]]


def kept_positions(analysis: Analysis, cut: Cut) -> dict[VarWrapper, list[tuple[int, npt.NDArray[np.bool_]]]]:
    """Return, for each parameter that loses positions, the axes and masks of what stays."""
    if cut.kept is None:
        cut.kept = {}
        for var, marks in analysis.parameters.items():
            axes = [(axis, cut.keep(mark.labels)) for axis, mark in sorted(marks.items()) if cut.touches(mark.labels)]
            if axes:
                cut.kept[var] = axes
    return cut.kept


def footprint(analysis: Analysis, cut: Cut) -> Footprint:
    """Return ``{parameter: [(axis, removed positions), ...]}``: what is zeroed or cut out of the scope."""
    return {
        var.name(): [(axis, np.flatnonzero(~mask)) for axis, mask in axes]
        for var, axes in kept_positions(analysis, cut).items()
    }


def cut_shape(var: VarWrapper, layout: Layout, cut: Cut) -> tuple[int, ...]:
    """Return the shape of a variable without the positions that leave."""
    shape = list(var.shape())
    for axis, mark in layout.items():
        # Programs from paddle.jit.save do not say the shape of what only a backward pass reads.
        if axis < len(shape) and shape[axis] >= 0:
            shape[axis] = cut.count(mark.labels)
    return tuple(shape)
