"""Structured pruning of a program: the public :class:`Pruner`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import clone_program
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune import equivalence
from paddleslim_ng.prune.graph_cut import cut_graph
from paddleslim_ng.prune.report import ParameterReport, PruneReport
from paddleslim_ng.prune.scope_cut import ScopeCut, catch_up_state, cut_scope
from paddleslim_ng.prune.scoring import Criterion
from paddleslim_ng.prune.selection import Selection
from paddleslim_ng.prune.session import Explanation, PruningSession

__all__ = ['Pruner']

_log = logging.getLogger('paddleslim_ng')

Verify = Union[bool, float, None]


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
            NotPrunableError: none of the parameters can be pruned, or one belongs to a merged teacher.
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
        old_values = None
        if param_backup:
            old_values = {name: np.array(value) for name, value in (backup.backup if backup else {}).items()}
        return clone, old_values, old_shapes

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
