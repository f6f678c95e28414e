"""What a program would cost after a cut, worked out from the labels without cutting anything.

Merged teachers and distillation losses do not count: they do not leave with the channels, nor stay with the student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paddleslim_ng.analysis.op_costs import product_work
from paddleslim_ng.analysis.shapes import ConcreteShapes, forward_ops_of
from paddleslim_ng.core import VarWrapper
from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Layout
from paddleslim_ng.prune.known_cuts import kinds_of_classes

__all__ = ['COSTS', 'CutCost', 'FlopsAfterCut', 'InputShapes', 'ParamsAfterCut', 'get_cost', 'marginal_costs']

InputShapes = Mapping[str, Sequence['int | None']]


class CutCost(Protocol):
    """A cost as a function of what leaves."""

    def __call__(self, cut: Cut) -> int:
        """Return the cost of the program after ``cut``."""
        ...


def _after(shape: Sequence[int], layout: Layout, cut: Cut) -> tuple[int, ...]:
    sizes = list(shape)
    for axis, mark in layout.items():
        if cut.touches(mark.labels):
            sizes[axis] = cut.count(mark.labels)
    return tuple(sizes)


class FlopsAfterCut:
    """Multiply-accumulates of convolutions and matrix products, as :func:`paddleslim_ng.analysis.flops` counts them.

    Args:
        analysis: finished analysis of the program.
        input_shapes: sizes that the program leaves open, as for ``flops``.
    """

    def __init__(self, analysis: Analysis, input_shapes: InputShapes | None = None) -> None:
        self._analysis = analysis
        self._shapes = ConcreteShapes(analysis.graph, input_shapes)
        self._fixed = 0
        self._ops = []
        for op in forward_ops_of(analysis.graph, 'student'):
            work = product_work(op, self._shapes)
            if work and any(self._layout(var) for var in (*op.all_inputs(), *op.all_outputs())):
                self._ops.append(op)
            else:
                self._fixed += work

    def _layout(self, var: VarWrapper) -> Layout:
        layouts: Mapping[VarWrapper, Layout] = self._analysis.parameters
        return layouts.get(var) or self._analysis.layouts.get(var) or {}

    def __call__(self, cut: Cut) -> int:
        """Return the multiply-accumulates after ``cut``, for the batch that ``flops`` divides by."""

        def shape(var: VarWrapper) -> tuple[int, ...]:
            return _after(self._shapes(var), self._layout(var), cut)

        return self._fixed + sum(product_work(op, shape) for op in self._ops)


class ParamsAfterCut:
    """Elements of the parameters, as :func:`paddleslim_ng.analysis.model_size` counts them.

    Args:
        analysis: finished analysis of the program.
        input_shapes: not needed here.
    """

    def __init__(self, analysis: Analysis, input_shapes: InputShapes | None = None) -> None:
        self._analysis = analysis
        declared = {var.name() for var in analysis.graph.all_parameters()}
        operators = forward_ops_of(analysis.graph, 'student')
        read = {var.name(): var for op in operators for var in op.all_inputs() if var.persistable()}
        self._vars = [var for name, var in read.items() if name in declared or not declared]

    def __call__(self, cut: Cut) -> int:
        """Return the number of elements after ``cut``."""
        parameters = self._analysis.parameters
        return sum(math.prod(_after(var.shape(), parameters.get(var, {}), cut)) for var in self._vars)


COSTS: Mapping[str, type[FlopsAfterCut] | type[ParamsAfterCut]] = {'flops': FlopsAfterCut, 'params': ParamsAfterCut}
"""Costs by name."""


def get_cost(name: str) -> type[FlopsAfterCut] | type[ParamsAfterCut]:
    """Return the cost called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in COSTS:
        raise ConfigError(f'unknown target {name!r}{nearest_names(name, COSTS)}; known: {sorted(COSTS)}')
    return COSTS[name]


def marginal_costs(analysis: Analysis, classes: LabelArray, cost: CutCost) -> npt.NDArray[np.float64]:
    """Return what each class alone would save.

    Classes that occur equally often on every tensor save the same, so one of each kind is tried.

    Args:
        analysis: finished analysis.
        classes: representatives of the classes.
        cost: see :data:`COSTS`.
    """
    space = analysis.space
    position = np.full(space.size, -1, dtype=np.int64)
    position[classes] = np.arange(len(classes))
    roots = space.roots()
    kind_of, available = kinds_of_classes([position[roots[labels]] for labels in analysis.label_arrays()], len(classes))
    none = np.zeros(space.size, dtype=np.bool_)
    whole = cost(Cut(space, none))
    saved = np.zeros(len(available), dtype=np.float64)
    for kind in range(len(available)):
        alone = none.copy()
        alone[classes[np.flatnonzero(kind_of == kind)[0]]] = True
        saved[kind] = whole - cost(Cut(space, alone))
    return saved[kind_of]
