"""One label analysis of a program, from which the pruner and sensitivity analysis take their decisions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper, has_array, shape_of, view_array
from paddleslim_ng.core.teachers import teacher_reading
from paddleslim_ng.errors import GraphError, NotPrunableError
from paddleslim_ng.prune.channel_requests import Request
from paddleslim_ng.prune.channels import Analysis, Cut, Obstacle, analyse
from paddleslim_ng.prune.footprint import Footprint, footprint, kept_positions
from paddleslim_ng.prune.known_cuts import cut_from_positions, cut_from_shapes
from paddleslim_ng.prune.optimizer_state import followers
from paddleslim_ng.prune.records import recorded_positions
from paddleslim_ng.prune.scoring import Criterion, score_requests
from paddleslim_ng.prune.selection import Selection, Skipped, select, without_channels

__all__ = ['Explanation', 'PruningSession']

_log = logging.getLogger('paddleslim_ng')


@dataclass(frozen=True)
class Explanation:
    """Why a parameter can or cannot be pruned.

    Attributes:
        name: parameter.
        axis: the axis along which it makes channels, or -1 where it makes none.
        channels: size of that axis.
        free: channels that may leave.
        coupled: parameters (and axes) that lose positions together with it.
        obstacles: what keeps the others.
    """

    name: str
    axis: int
    channels: int
    free: int
    coupled: tuple[tuple[str, int], ...]
    obstacles: tuple[Obstacle, ...]

    def __str__(self) -> str:
        lines = [f'{self.name}: {self.free} of {self.channels} channels (axis {self.axis}) can be removed']
        lines += [f'  together with axis {axis} of {name}' for name, axis in self.coupled]
        lines += [f'  kept by {why}' for why in self.obstacles]
        return '\n'.join(lines)


class PruningSession:
    """One label analysis of a program, from which many decisions can be taken.

    Args:
        program: legacy or PIR program; it is not changed.
        scope: holds the parameters.
        criterion: see :class:`Pruner`.
        idx_selector: see :class:`Pruner`.
        round_to: see :class:`Pruner`.
        heads: see :class:`Pruner`.
        outputs: names or values that must keep their shape.
    """

    def __init__(
        self,
        program: Any,
        scope: Any,
        criterion: Criterion = 'l1_norm',
        idx_selector: Any = 'default_idx_selector',
        round_to: int = 1,
        heads: str = 'auto',
        outputs: Sequence[Any] | None = None,
    ) -> None:
        from paddleslim_ng.prune.idx_selector import get_idx_selector

        self.graph = GraphWrapper(program, out_nodes=[GraphWrapper.name_of(item) for item in outputs or ()])
        self.scope = scope
        self.criterion = criterion
        self.idx_selector = get_idx_selector(idx_selector)
        self.round_to = round_to
        self.analysis: Analysis = analyse(self.graph, heads=heads)
        self.frozen = self.analysis.frozen_roots()
        self.followers = followers(self.analysis)
        # Looking a parameter up here spares giving every value of the graph its name.
        self._parameters = {var.name(): var for var in self.analysis.parameters}
        self._scores: dict[str, npt.NDArray[np.float64]] = {}

    def parameter(self, name: str) -> VarWrapper:
        """Return the parameter of that name.

        Raises:
            GraphError: the program has none.
        """
        var = self._parameters.get(name) or self.graph.var(name)
        if not var.is_parameter():
            raise GraphError(f'{name!r} is not a parameter of the program')
        return var

    def request(self, name: str, ratio: float) -> Request:
        """Look a parameter up and resolve its classes.

        Raises:
            GraphError: the program has no parameter of that name.
        """
        var = self.parameter(name)
        axis = self.analysis.out_axes.get(var, 0)
        shape = var.shape()
        labels = self.analysis.parameter_axis(var, axis) if shape else np.zeros(0, dtype=np.int64)
        if var not in self.analysis.out_axes and len(shape) > 1:
            labels = np.zeros(0, dtype=np.int64)
        if len(self.frozen) < self.analysis.space.size:
            self.frozen = self.analysis.frozen_roots()
        request = Request(var, axis, labels, float(ratio))
        request.resolve(self.analysis)
        return request

    def channels_of(self, name: str) -> int:
        """Return how many channels a parameter makes."""
        var = self.parameter(name)
        return var.shape()[self.analysis.out_axes.get(var, 0)]

    def decide(self, names: Sequence[str], ratios: Sequence[float]) -> Selection:
        """Choose what leaves.

        Raises:
            NotPrunableError: none of the parameters can be pruned, or one belongs to a merged teacher.
            GraphError: the scope lacks a parameter, or its shape is not the program's.
        """
        self._check_teachers(names)
        requests = [self.request(name, ratio) for name, ratio in zip(names, ratios)]
        for request in requests:
            self._check_scope(request.var)
        scores = self._score([r for r in requests if len(r.labels)])
        selection = self.idx_selector.select(self, requests, scores)
        if selection.skipped and len(selection.skipped) == len(requests):
            raise NotPrunableError('no parameter can be pruned:\n' + _list_skipped(selection.skipped))
        for entry in selection.skipped:
            _log.warning('%s is not pruned: %s', entry.name, '; '.join(entry.reasons))
        return selection

    def _check_teachers(self, names: Sequence[str]) -> None:
        for name in names:
            teacher = teacher_reading(self.parameter(name))
            if teacher is not None:
                raise NotPrunableError(
                    f'{name!r} belongs to the merged teacher {teacher!r}, which stays as it is; to prune the teacher, '
                    'prune its own program before merging'
                )

    def _check_scope(self, var: VarWrapper) -> None:
        if shape_of(self.scope, var.name()) != var.shape():
            raise GraphError(
                f'{var.name()!r} has shape {list(shape_of(self.scope, var.name()))} in the scope and '
                f'{list(var.shape())} in the program; pass only_graph=True to bring the program to a scope that is '
                'cut already'
            )

    def _score(self, requests: Sequence[Request]) -> dict[str, npt.NDArray[np.float64]]:
        missing = [r for r in requests if r.name not in self._scores]
        if missing:
            self._scores.update(score_requests(self, missing))
        return {r.name: self._scores[r.name] for r in requests}

    def follow_scope(self, names: Sequence[str]) -> Selection | None:
        """Take the decision from a scope that has been cut; None where it has not.

        Raises:
            GraphError: the scope does not fit the program under any choice of channels.
            NotPrunableError: a parameter belongs to a merged teacher.
        """
        self._check_teachers(names)
        known = [var for var in self.analysis.parameters if has_array(self.scope, var.name())]
        shapes = {var: var.shape() for var in self.analysis.parameters}
        shapes.update({var: shape_of(self.scope, var.name()) for var in known})
        if all(shapes[var] == var.shape() for var in known):
            return None
        cut, unique = cut_from_shapes(self.analysis, shapes)
        if not unique:
            cut = self._cut_from_records(shapes)
        if cut is None:
            wrong = [f'{v.name()} {list(v.shape())} -> {list(shapes[v])}' for v in known if shapes[v] != v.shape()]
            why = 'under any choice of channels' if unique else 'or leaves open which channels were removed'
            raise GraphError(f'the scope does not fit this program {why}: ' + ', '.join(wrong[:8]))
        requests = [self.request(name, 0.0) for name in names]
        removed = {r.name: len(r.labels) - cut.count(r.labels) for r in requests}
        return Selection(cut, removed, [], [])

    def _cut_from_records(self, shapes: Mapping[VarWrapper, tuple[int, ...]]) -> Cut | None:
        """Take the positions that earlier cuts of this scope have left on record, where they explain the shapes."""
        kept: dict[tuple[VarWrapper, int], npt.NDArray[np.int64]] = {}
        for var, marks in self.analysis.parameters.items():
            for axis in marks:
                positions = recorded_positions(self.scope, var, axis) if shapes[var] != var.shape() else None
                if positions is not None:
                    kept[var, axis] = positions
        cut = cut_from_positions(self.analysis, kept)
        fits = all(
            cut.count(mark.labels) == shapes[var][axis]
            for var, marks in self.analysis.parameters.items()
            for axis, mark in marks.items()
        )
        return cut if fits else None

    def footprint(self, name: str, ratio: float) -> Footprint:
        """Return what leaves when ``name`` is pruned by ``ratio``: ``{parameter: [(axis, positions), ...]}``.

        Raises:
            NotPrunableError: the parameter cannot be pruned.
        """
        return self.footprint_of(self.decide([name], [ratio]).cut)

    def footprint_of(self, cut: Cut) -> Footprint:
        """Return what a decision removes: ``{parameter: [(axis, positions), ...]}``."""
        return footprint(self.analysis, cut)

    def shapes_of(self, cut: Cut) -> dict[str, tuple[int, ...]]:
        """Return the present shapes of everything that a decision would cut, accumulators included."""
        affected = kept_positions(self.analysis, cut)
        state = (one for var in affected for one in (var, *self.followers.get(var, ())) if one.persistable())
        return {one.name(): one.shape() for one in state}

    def exact_by_zeroing(self, name: str) -> bool:
        """Tell whether zeroing the footprint of ``name`` gives the metric that cutting it gives."""
        return len(self.request(name, 0.0).labels) > 0

    def explain(self, name: str) -> Explanation:
        """See :meth:`Pruner.explain`."""
        teacher = teacher_reading(self.parameter(name))
        if teacher is not None:
            why = Obstacle('merge', name, -1, f'it belongs to the merged teacher {teacher!r}')
            return Explanation(name, -1, 0, 0, (), (why,))
        request = self.request(name, 0.0)
        if not len(request.labels):
            return Explanation(name, -1, 0, 0, (), (Obstacle('program', name, -1, 'it has no channels of its own'),))
        free = int(request.sizes[~self.frozen[request.classes]].sum())
        coupled = tuple(
            (var.name(), axis)
            for var, marks in self.analysis.parameters.items()
            for axis, mark in sorted(marks.items())
            if (var is not request.var or axis != request.axis)
            and np.isin(self.analysis.space.find(mark.labels), request.classes).any()
        )
        obstacles = tuple(self.analysis.obstacles(request.labels, request.var))
        return Explanation(name, request.axis, len(request.labels), free, coupled, obstacles)

    def values(self, name: str) -> npt.NDArray[Any]:
        """Return a parameter's value from the scope, read-only."""
        return view_array(self.scope, name)

    def select(
        self,
        requests: Sequence[Request],
        scores: Mapping[str, npt.NDArray[np.float64]],
        counts: Mapping[str, int] | None = None,
    ) -> Selection:
        """Serve the requests by lowest score; what idx selectors call.

        Args:
            requests: the requests, those without channels of their own too.
            scores: one score per position along the channel axis of each request that has channels.
            counts: how many positions each of those is to lose, in place of its ratio.
        """
        rest, skipped = without_channels(requests)
        selection = select(self.analysis, rest, scores, self.round_to, counts)
        selection.skipped[:0] = skipped
        return selection


def _list_skipped(skipped: Sequence[Skipped]) -> str:
    return '\n'.join(f'  {entry.name}: {"; ".join(entry.reasons)}' for entry in skipped)
