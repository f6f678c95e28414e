"""Scores for the parameters of a request, by a named criterion, a criterion object or a caller's function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import OpWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.channel_requests import Request
from paddleslim_ng.prune.criterion import ChannelCriterion, Scorer, finite_values, get_criterion

if TYPE_CHECKING:
    from paddleslim_ng.prune.session import PruningSession

__all__ = ['Criterion', 'Group', 'GroupMember', 'PruneInfo', 'check_criterion', 'group_of', 'score_requests']

Scores = npt.NDArray[np.float64]


class GroupMember(NamedTuple):
    """One parameter axis of a group of channels that leave together.

    Attributes:
        name: parameter.
        axis: axis of it.
        transforms: always empty, since labels say which positions of this axis correspond to the master's.
    """

    name: str
    axis: int
    transforms: Sequence[Any] = ()


class PruneInfo(NamedTuple):
    """A group member with the operator that reads it, as PaddleSlim's ``all_prune_info`` lists them."""

    name: str
    axis: int
    transform: Sequence[Any]
    op: OpWrapper


class Group(list[GroupMember]):
    """Parameter axes that lose positions together; the first, the master, is the one that was asked for."""

    def __init__(self, members: Iterable[GroupMember], operators: Mapping[str, OpWrapper]) -> None:
        super().__init__(members)
        self._operators = operators

    @property
    def master(self) -> dict[str, Any]:
        """``{'name': ..., 'axis': ...}`` of the parameter that was asked for."""
        return {'name': self[0].name, 'axis': self[0].axis}

    def variables(self) -> list[str]:
        """Return the names of all members."""
        return [member.name for member in self]

    def all_prune_info(self) -> list[PruneInfo]:
        """Return the members that a forward operator reads, with that operator."""
        return [PruneInfo(*member, self._operators[member.name]) for member in self if member.name in self._operators]


CriterionFunction = Callable[[Group, Mapping[str, npt.NDArray[Any]], Any], Mapping[str, Mapping[int, npt.NDArray[Any]]]]
Criterion = Union[str, ChannelCriterion, CriterionFunction]


def check_criterion(criterion: Criterion) -> Criterion:
    """Return ``criterion`` if it can be used.

    Raises:
        ConfigError: an unknown name, or neither a name nor an object with ``score`` nor a callable.
    """
    if isinstance(criterion, str):
        get_criterion(criterion)
    elif isinstance(criterion, type) or not (callable(criterion) or isinstance(criterion, ChannelCriterion)):
        raise ConfigError(f'criterion must be a name, an object with a score method or a callable, got {criterion!r}')
    return criterion


def group_of(session: PruningSession, request: Request) -> Group:
    """List the parameter axes that lose positions together with a request's parameter, that one first."""
    analysis = session.analysis
    members = [GroupMember(request.name, request.axis)]
    operators: dict[str, OpWrapper] = {}
    for var, marks in analysis.parameters.items():
        for axis, mark in sorted(marks.items()):
            if not np.isin(analysis.space.find(mark.labels), request.classes).any():
                continue
            if var is not request.var or axis != request.axis:
                members.append(GroupMember(var.name(), axis))
            reader = next((op for op in var.outputs() if not op.is_bwd_op() and not op.is_opt_op()), None)
            if reader is not None:
                operators[var.name()] = reader
    return Group(members, operators)


def score_requests(session: PruningSession, requests: Sequence[Request]) -> dict[str, Scores]:
    """Score the channels of each requested parameter; one whose channels all have to stay gets zeros.

    Raises:
        ConfigError: the criterion does not apply to a parameter, or returns nothing usable for it.
        DataError: a parameter holds NaN or infinite values.
    """
    result: dict[str, Scores] = {r.name: np.zeros(len(r.labels)) for r in requests}
    scored = [r for r in requests if not session.frozen[r.classes].all()]
    criterion = session.criterion
    found = get_criterion(criterion) if isinstance(criterion, str) else criterion
    if isinstance(found, ChannelCriterion):
        scores: Mapping[str, Any] = found.score(session, scored)
    else:
        score_one = _apply if isinstance(criterion, str) else _call
        scores = {r.name: score_one(found, session, r) for r in scored}
    result.update((r.name, _checked(scores, r)) for r in scored)
    return result


def _apply(scorer: Any, session: PruningSession, request: Request) -> Scores:
    function: Scorer = scorer
    return function(finite_values(session, request.name), request.axis)


def _call(criterion: Any, session: PruningSession, request: Request) -> Any:
    group = group_of(session, request)
    values = {member.name: np.array(finite_values(session, member.name)) for member in group}
    result = criterion(group, values, session.graph)
    try:
        return result[request.name][request.axis]
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f'the criterion must return {{name: {{axis: scores}}}} with an entry for {request.name!r}, '
            f'axis {request.axis}'
        ) from error


def _checked(scores: Mapping[str, Any], request: Request) -> Scores:
    """Return a request's scores as a vector of the right length.

    Raises:
        ConfigError: they are missing, of another length, no numbers, or not finite.
    """
    try:
        vector = np.asarray(scores[request.name], dtype=np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'the criterion returned no scores for {request.name!r}') from error
    if len(vector) != len(request.labels) or not np.isfinite(vector).all():
        raise ConfigError(
            f'the criterion must return {len(request.labels)} finite scores for {request.name!r}, got {len(vector)} '
            f'of which {int(np.count_nonzero(np.isfinite(vector)))} are finite'
        )
    return vector
