"""Channel labels: which positions of which tensors and parameters leave together.

Every position of every axis that can carry channels gets an integer label. Rules (:mod:`paddleslim_ng.prune.rules`)
carry labels from the inputs of an operator to its outputs and parameters; a union-find over labels then gives the
classes of positions that only leave together. Labels that cannot leave are frozen, with the reason.

A merged teacher gets no labels: to the layers that are compared with it, its results are tensors of fixed size.

Arrays of labels are shared by reference between tensors wherever an operator leaves an axis as it is. That makes most
unions unnecessary and the walk linear in the number of operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.teachers import teacher_of, traced_to_teachers
from paddleslim_ng.prune.labels import NO_LABELS, Cut, LabelArray, LabelSpace, Layout, Mark, Obstacle, Size
from paddleslim_ng.prune.outputs import reads_data

__all__ = ['Analysis', 'Cut', 'LabelArray', 'LabelSpace', 'Layout', 'Mark', 'Obstacle', 'Size', 'analyse']

Rule = Callable[['Analysis', OpWrapper], None]


class Analysis:
    """Labels of one program: the state that rules read and write.

    Attributes:
        graph: the program.
        space: the union-find.
        layouts: labelled axes of each variable seen so far.
        out_axes: for each parameter that makes channels, the axis along which it makes them.
        sizes: what tensors of sizes count, entry by entry.
        edits: callables run by :meth:`apply_edits` once it is decided what leaves.
    """

    def __init__(self, graph: GraphWrapper, rules: Mapping[str, Rule], prefer: Mapping[Any, int] | None = None) -> None:
        self.graph = graph
        self.space = LabelSpace()
        self.layouts: dict[VarWrapper, Layout] = {}
        self.parameters: dict[VarWrapper, dict[int, Mark]] = {}
        self.out_axes: dict[VarWrapper, int] = {}
        self.sizes: dict[VarWrapper, tuple[Size, ...]] = {}
        self.edits: list[tuple[OpWrapper, tuple[LabelArray, ...], Callable[[Cut], None]]] = []
        self.prefer = dict(prefer or {})
        self.choices: dict[Any, tuple[int, ...]] = {}
        self._frozen: list[tuple[LabelArray, Obstacle, OpWrapper]] = []
        self._auxiliary: set[VarWrapper] = set()
        self._checks: list[Callable[[], None]] = []
        self._gradients: dict[OpWrapper, list[OpWrapper]] = {}
        self._rules = rules
        self._teachers = traced_to_teachers(graph)

    def run(self) -> None:
        """Walk the forward operators in order, then freeze what nobody reads (the program's outputs)."""
        forward = [op for op in self.graph.ops() if not (op.is_bwd_op() or op.is_opt_op())]
        if self._teachers:
            forward = [op for op in forward if teacher_of(op) is None]
        for op in forward:
            rule = self._rules.get(op.type())
            if rule is None:
                self.freeze_inputs(op, 'no rule for this operator')
            else:
                rule(self, op)
        for check in self._checks:
            check()
        self._unite_namesakes()
        self._freeze_outputs(forward)

    def _unite_namesakes(self) -> None:
        """On PIR, a parameter used twice under one name is two values that share one tensor."""
        groups: dict[str, list[VarWrapper]] = {}
        for var in self.parameters:
            groups.setdefault(var.name(), []).append(var)
        for first, *others in groups.values():
            for var in others:
                for axis in sorted({*self.parameters[first], *self.parameters[var]}):
                    self.unite(self.parameter_axis(first, axis), self.parameter_axis(var, axis))
                axes = self.out_axes
                if first in axes or var in axes:
                    axes[var] = axes[first] = axes.get(first, axes.get(var, 0))

    def _freeze_outputs(self, forward: list[OpWrapper]) -> None:
        wanted = {id(self.graph.var(item)) for item in self.graph.out_nodes}
        inside = {id(op) for op in forward if op.type() != 'fetch'}
        for op in forward:
            for var in op.all_outputs():
                layout = self.layouts.get(var)
                if not layout:
                    continue
                unread = var not in self._auxiliary and not any(id(reader) in inside for reader in var.outputs())
                if id(var) in wanted or (unread and reads_data(var)):
                    for axis, mark in layout.items():
                        self.freeze(mark.labels, op, 'output of the program', var, axis)

    # What rules read.

    def layout(self, var: VarWrapper) -> Layout:
        """Return the labelled axes of ``var``; a parameter read as a plain tensor gets labels on every axis."""
        if var.is_data or not var.is_parameter():
            return self.layouts.get(var, NO_LABELS)
        marks = self.parameters.setdefault(var, {})
        for axis, size in enumerate(var.shape()):
            if size > 1 and axis not in marks:
                marks[axis] = Mark(self.space.fresh(size), True)
        return marks

    def mark(self, var: VarWrapper, axis: int) -> Mark | None:
        """Return the labels of one axis of an activation, or None where the axis is fixed."""
        return self.layouts.get(var, NO_LABELS).get(axis)

    def parameter_axis(self, var: VarWrapper, axis: int) -> LabelArray:
        """Return the labels of a parameter's axis, new ones at first."""
        marks = self.parameters.setdefault(var, {})
        if axis not in marks:
            marks[axis] = Mark(self.space.fresh(var.shape()[axis]), True)
        return marks[axis].labels

    # What rules write.

    def set(self, var: VarWrapper, layout: Layout) -> None:
        """Give ``var`` labelled axes; an axis of size one cannot lose its only position and counts as fixed."""
        if any(len(mark.labels) == 1 for mark in layout.values()):
            makers = var.inputs()
            for axis, mark in layout.items():
                if len(mark.labels) == 1 and makers:
                    self.freeze(mark.labels, makers[0], 'the only position of its axis', var, axis)
            layout = {axis: mark for axis, mark in layout.items() if len(mark.labels) > 1}
        if layout:
            self.layouts[var] = layout

    def auxiliary(self, var: VarWrapper) -> None:
        """Note that ``var`` is a by-product; nobody reading it does not make it an output."""
        self._auxiliary.add(var)

    def unite(self, left: LabelArray, right: LabelArray) -> None:
        """Positions ``left[i]`` and ``right[i]`` leave together."""
        self.space.unite(left, right)

    def adopt(self, var: VarWrapper, axis: int, labels: LabelArray) -> None:
        """A parameter's axis follows ``labels``."""
        marks = self.parameters.setdefault(var, {})
        present = marks.get(axis)
        if present is None:
            marks[axis] = Mark(labels, True)
        else:
            self.unite(present.labels, labels)

    def makes_channels(self, var: VarWrapper, axis: int) -> LabelArray:
        """Declare ``axis`` the one along which parameter ``var`` makes channels, and return its labels."""
        self.out_axes.setdefault(var, axis)
        return self.parameter_axis(var, axis)

    def freeze(
        self, labels: LabelArray, op: OpWrapper, reason: str, var: VarWrapper | None = None, axis: int = -1
    ) -> None:
        """These labels stay, because of ``op``."""
        if self._teachers:
            reason += self._teacher_behind(op)
        obstacle = Obstacle(op.type(), var.name() if var is not None else '', axis, reason)
        self._frozen.append((labels, obstacle, op))

    def _teacher_behind(self, op: OpWrapper) -> str:
        """Say which result of a merged teacher an operator meets, if any."""
        origin = next((self._teachers[var] for var in op.all_inputs() if var in self._teachers), None)
        if origin is None:
            return ''
        return f' (reads {origin.name()} of the merged teacher {teacher_of(origin.inputs()[0])!r})'

    def freeze_axes(self, op: OpWrapper, var: VarWrapper, axes: Iterable[int], reason: str) -> None:
        """The labels of some axes of ``var`` stay."""
        layout = self.layout(var)
        for axis in axes:
            if axis in layout:
                self.freeze(layout[axis].labels, op, reason, var, axis)

    def check_later(self, check: Callable[[], None]) -> None:
        """Run ``check`` once every operator has been seen; it may freeze and unite labels."""
        self._checks.append(check)

    def freeze_inputs(self, op: OpWrapper, reason: str) -> None:
        """Every label that ``op`` reads stays, and so do whole parameters it reads."""
        for var in op.all_inputs():
            self.freeze_axes(op, var, range(len(var.shape())), reason)

    def on_cut(self, op: OpWrapper, labels: Iterable[LabelArray], edit: Callable[[Cut], None]) -> None:
        """Run ``edit`` when any of ``labels`` loses a position."""
        self.edits.append((op, tuple(labels), edit))

    # Results.

    def gradients(self, op: OpWrapper) -> list[OpWrapper]:
        """Return the gradient operators of a forward operator, the same before and after edits."""
        found = self._gradients.get(op)
        if found is None:
            found = self._gradients[op] = self.graph.editor.grad_ops(op)
        return found

    def apply_edits(self, cut: Cut) -> None:
        """Change the attributes and constants of operators to fit the decision."""
        for _, arrays, edit in self.edits:
            if any(cut.touches(labels) for labels in arrays):
                edit(cut)

    def frozen_roots(self) -> npt.NDArray[np.bool_]:
        """Return, for every label taken as a representative, whether its class is frozen."""
        frozen = np.zeros(self.space.size, dtype=np.bool_)
        for labels, _, _ in self._frozen:
            frozen[self.space.find(labels)] = True
        return frozen

    def obstacles(self, labels: LabelArray, start: VarWrapper | None = None) -> list[Obstacle]:
        """Return why any of ``labels`` is frozen, each obstacle once.

        Args:
            labels: of any axis.
            start: a parameter; each obstacle then has the path of operators from it.
        """
        roots = np.unique(self.space.find(labels))
        found: dict[Obstacle, OpWrapper] = {}
        for frozen, why, op in self._frozen:
            if np.isin(self.space.find(frozen), roots).any():
                found.setdefault(why, op)
        if start is None:
            return list(found)
        before = self._search(start, roots)
        return [why._replace(path=_path(before, op)) for why, op in found.items()]

    def _search(self, start: VarWrapper, roots: LabelArray) -> dict[int, tuple[OpWrapper, OpWrapper | None]]:
        """Walk breadth first over tensors that carry one of ``roots``; note how each forward operator was reached."""
        queue: list[OpWrapper] = []
        before: dict[int, tuple[OpWrapper, OpWrapper | None]] = {}

        def reach(ops: Iterable[OpWrapper], origin: OpWrapper | None) -> None:
            for op in ops:
                if op.idx() not in before and not (op.is_bwd_op() or op.is_opt_op()):
                    before[op.idx()] = (op, origin)
                    queue.append(op)

        reach(start.outputs(), None)
        for op in queue:
            for var in (*op.all_outputs(), *op.all_inputs()):
                layout = self.parameters.get(var) if var.is_parameter() else self.layouts.get(var)
                marks = layout.values() if layout else ()
                if any(np.isin(self.space.find(mark.labels), roots).any() for mark in marks):
                    reach((*var.inputs(), *var.outputs()), op)
        return before

    def label_arrays(self) -> list[LabelArray]:
        """Return every distinct label array in use, on variables and parameters."""
        marks = (
            mark
            for group in (self.layouts.values(), self.parameters.values())
            for one in group
            for mark in one.values()
        )
        return list({id(mark.labels): mark.labels for mark in marks}.values())


def _path(before: Mapping[int, tuple[OpWrapper, OpWrapper | None]], op: OpWrapper | None) -> tuple[str, ...]:
    """Follow :meth:`Analysis._search` back from ``op``; empty where it was not reached."""
    types: list[str] = []
    while op is not None and op.idx() in before:
        types.append(op.type())
        op = before[op.idx()][1]
    return tuple(reversed(types))


def analyse(graph: GraphWrapper, rules: Mapping[str, Rule] | None = None, heads: str = 'auto') -> Analysis:
    """Label the channels of a program.

    Args:
        graph: the program; its ``out_nodes``, if any, are kept whole beside the outputs that nobody reads.
        rules: table of operator rules; the library's own where None.
        heads: what stays free where a reshape splits channels into several axes, as attention does into heads and
            positions within a head: ``'heads'`` (the first), ``'dims'`` (the last), or ``'auto'``, which tries both per
            kind of reshape and takes what leaves more channels free.

    Returns:
        The finished analysis.
    """
    from paddleslim_ng.prune.rules import RULES

    table = RULES if rules is None else rules
    prefer: dict[Any, int] = {}
    best = _run(graph, table, prefer, heads)
    if heads != 'auto' or not best.choices:
        return best
    best_score = _free_classes(best)
    for signature, candidates in list(best.choices.items()):
        for axis in candidates:
            if axis == best.prefer.get(signature, candidates[-1]):
                continue
            trial = _run(graph, table, {**best.prefer, signature: axis}, heads)
            score = _free_classes(trial)
            if score > best_score:
                best, best_score = trial, score
    return best


def _run(graph: GraphWrapper, rules: Mapping[str, Rule], prefer: Mapping[Any, int], heads: str) -> Analysis:
    analysis = Analysis(graph, rules, prefer)
    if heads in ('heads', 'dims'):
        analysis.prefer[None] = 0 if heads == 'heads' else -1
    analysis.run()
    return analysis


def _free_classes(analysis: Analysis) -> int:
    """Count the classes that parameters can lose along the axes on which they make channels."""
    frozen = analysis.frozen_roots()
    total = 0
    for var, axis in analysis.out_axes.items():
        roots = np.unique(analysis.space.find(analysis.parameters[var][axis].labels))
        total += int(np.count_nonzero(~frozen[roots]))
    return total
