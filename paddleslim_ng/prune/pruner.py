"""Structured pruning of a program: the public :class:`Pruner` and the session that sensitivity analysis shares."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program, has_array, load_array, shape_of
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.errors import ConfigError, GraphError, NotPrunableError
from paddleslim_ng.prune import equivalence
from paddleslim_ng.prune.apply import (
    Footprint,
    ScopeCut,
    catch_up_state,
    cut_graph,
    cut_scope,
    footprint,
    kept_positions,
)
from paddleslim_ng.prune.channels import Analysis, Cut, Obstacle, analyse
from paddleslim_ng.prune.optimizer_state import followers
from paddleslim_ng.prune.records import recorded_positions
from paddleslim_ng.prune.report import ParameterReport, PruneReport
from paddleslim_ng.prune.scoring import Criterion, score_requests
from paddleslim_ng.prune.selection import (
    Request,
    Selection,
    Skipped,
    cut_from_positions,
    cut_from_shapes,
    select,
    without_channels,
)

__all__ = ['Explanation', 'Pruner', 'PruningSession']

_log = logging.getLogger('paddleslim_ng')

Verify = Union[bool, float, None]


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


class Pruner:
    """Removes channels from static-graph programs of either IR.

    Args:
        criterion: how channels are scored: ``'l1_norm'``, ``'l0_norm'``, ``'l2_norm'``, ``'geometry_median'``, another
            name or object of :mod:`paddleslim_ng.prune.criterion`, or a callable ``(group, values, graph) -> {name:
            {axis: scores}}`` as in PaddleSlim.
        idx_selector: how channels are chosen from their scores: ``'default_idx_selector'`` removes the lowest; see
            :mod:`paddleslim_ng.prune.idx_selector` for the others; or a callable ``(group, scores, ratios) -> [(name,
            axis, indices, transforms)]`` as in PaddleSlim.
        round_to: bring the number of channels that stay to a multiple of this.
        heads: what may leave where channels are split into heads: ``'auto'``, whole ``'heads'``, or ``'dims'`` of each.

    Attributes:
        report: :class:`~paddleslim_ng.prune.report.PruneReport` of the last call.

    Example:
        >>> pruner = slim.prune.Pruner()
        >>> pruned, _, _ = pruner.prune(program, paddle.static.global_scope(), ['conv1_weights'], [0.5])
        >>> print(pruner.report)
    """

    def __init__(
        self,
        criterion: Criterion = 'l1_norm',
        idx_selector: Any = 'default_idx_selector',
        *,
        round_to: int = 1,
        heads: str = 'auto',
    ) -> None:
        from paddleslim_ng.prune.idx_selector import get_idx_selector
        from paddleslim_ng.prune.scoring import check_criterion

        if round_to < 1:
            raise ConfigError(f'round_to must be 1 or more, got {round_to}')
        if heads not in ('auto', 'heads', 'dims'):
            raise ConfigError(f"heads must be 'auto', 'heads' or 'dims', got {heads!r}")
        self.criterion = check_criterion(criterion)
        self.idx_selector = get_idx_selector(idx_selector)
        self.round_to = round_to
        self.heads = heads
        self.report = PruneReport()

    def prune(
        self,
        program: Any,
        scope: Any,
        params: Iterable[str],
        ratios: Iterable[float],
        place: Any = None,
        lazy: bool = False,
        only_graph: bool = False,
        param_backup: bool = False,
        param_shape_backup: bool = False,
        *,
        verify: Verify = None,
        feeds: Mapping[str, npt.NDArray[Any]] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> tuple[Any, dict[str, npt.NDArray[Any]] | None, dict[str, tuple[int, ...]] | None]:
        """Remove the least important channels of some parameters and whatever depends on them.

        Args:
            program: legacy or PIR program, for inference or training; it is not changed.
            scope: holds the parameters; Paddle's global scope where None. Changed unless ``only_graph``.
            params: names of parameters that make channels (filters of convolutions, weights of linear layers, tables).
            ratios: share of channels to remove from each, in [0, 1).
            place: device for the check; the CPU where None.
            lazy: set the channels to zero in the scope instead of removing them; the program keeps its shapes.
            only_graph: change the program only. Where the scope has been cut already, it dictates what is left; else
                the channels are chosen as they would be, so a training and an evaluation program may be pruned in
                either order. Optimizer state that the first call could not know of is then cut in the scope after all.
            param_backup: also return the old values of what changed in the scope.
            param_shape_backup: also return the old shapes.
            verify: run the equivalence check. None: where the program has no backward operators, the scope is cut and
                nothing is zeroed only. True and False force and skip it; a number is its relative tolerance.
            feeds: inputs for the check, ``{data name: array}``; made up where None.
            outputs: names or values that must keep their shape and are compared by the check; by default whatever no
                operator reads.

        Returns:
            ``(pruned program, parameter backup or None, shape backup or None)``.

        Raises:
            ConfigError: lengths differ, a ratio is outside [0, 1), or a name is listed twice.
            GraphError: an unknown name, or a scope that lacks a value or does not fit the program.
            NotPrunableError: none of the parameters can be pruned.
            EquivalenceError: the check failed; the scope is as it was.
        """
        scope = scope if scope is not None else global_scope()
        names, shares = _check_request(params, ratios)
        clone = clone_program(program)
        session = PruningSession(clone, scope, self.criterion, self.idx_selector, self.round_to, self.heads, outputs)
        decided = session.follow_scope(names) if only_graph else None
        selection = decided or session.decide(names, shares)
        self.report = _report(session, names, shares, selection)
        backup: ScopeCut | None = None
        if not only_graph:
            backup = cut_scope(session.analysis, selection.cut, scope, session.followers, zero=lazy)
        elif decided is not None:
            backup = catch_up_state(session.analysis, selection.cut, scope, session.followers)
        old_shapes = session.shapes_of(selection.cut) if param_shape_backup else None
        check = _tolerance(verify, session, lazy or only_graph)
        before = equivalence.persistable_values(session.graph, scope) if check is not None else {}
        if not lazy:
            cut_graph(session.analysis, selection.cut, session.followers)
        if backup is not None:
            backup.commit()
        if check is not None and backup is not None:
            try:
                self.report.equivalence = equivalence.verify_equivalence(
                    program,
                    clone,
                    scope,
                    before,
                    footprint=session.footprint_of(selection.cut),
                    feeds=feeds,
                    outputs=outputs,
                    tolerance=check,
                    place=place,
                )
            except BaseException:
                backup.restore()
                raise
        return (
            clone,
            dict(backup.backup) if param_backup and backup is not None else {} if param_backup else None,
            old_shapes,
        )

    def explain(self, program: Any, param: str, outputs: Sequence[Any] | None = None) -> Explanation:
        """Tell what leaves together with the channels of a parameter, and what keeps those that cannot leave.

        Args:
            program: legacy or PIR program.
            param: name of a parameter.
            outputs: names or values that must keep their shape, beside those that no operator reads.

        Raises:
            GraphError: the program has no such parameter.
        """
        return PruningSession(program, None, self.criterion, self.idx_selector, 1, self.heads, outputs).explain(param)


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
            NotPrunableError: none of the parameters can be pruned.
            GraphError: the scope lacks a parameter, or its shape is not the program's.
        """
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
        """
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
        """Return a parameter's value from the scope."""
        return load_array(self.scope, name)

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


def _check_request(params: Iterable[str], ratios: Iterable[float]) -> tuple[list[str], list[float]]:
    names, shares = list(params), [float(r) for r in ratios]
    if not names:
        raise ConfigError('params is empty; name at least one parameter to prune')
    if len(names) != len(shares):
        raise ConfigError(f'{len(names)} params but {len(shares)} ratios; give one ratio for each')
    for name, share in zip(names, shares):
        if not 0.0 <= share < 1.0:
            raise ConfigError(f'ratio {share} of {name!r} is outside [0, 1)')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f'listed twice in params: {twice}')
    return names, shares


def _tolerance(verify: Verify, session: PruningSession, scope_kept: bool) -> float | None:
    """Return the tolerance of the check, or None where it is not to run."""
    if verify is False or scope_kept:
        return None
    if verify is None and any(op.is_bwd_op() for op in session.graph.ops()):
        return None
    return equivalence.DEFAULT_TOLERANCE if verify is None or verify is True else float(verify)


def _report(
    session: PruningSession, names: Sequence[str], ratios: Sequence[float], selection: Selection
) -> PruneReport:
    report = PruneReport(skipped=list(selection.skipped), notes=list(selection.notes))
    for name, ratio in zip(names, ratios):
        if name in selection.removed:
            channels = session.channels_of(name)
            report.pruned.append(ParameterReport(name, ratio, channels, selection.removed[name]))
    for note in selection.notes:
        _log.info(note)
    return report


def _list_skipped(skipped: Sequence[Skipped]) -> str:
    return '\n'.join(f'  {entry.name}: {"; ".join(entry.reasons)}' for entry in skipped)
