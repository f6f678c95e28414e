"""Initial values of networks that learn together, on their way into the scope in which they train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import paddle

from paddleslim_ng.core import Executor, GraphWrapper, has_array, shape_of, store_array, view_array
from paddleslim_ng.errors import GraphError

__all__ = ['PeerState', 'move_states']


class PeerState(NamedTuple):
    """What one peer needs.

    Attributes:
        graph: its own program, wrapped.
        names: ``{name of a parameter or state: name in the joint program}``.
        scope: has the values; the scope in which all train where None.
        startup: a startup program that makes them instead, or None.
    """

    graph: GraphWrapper
    names: dict[str, str]
    scope: Any
    startup: Any


def move_states(states: Sequence[PeerState], scope: Any, place: Any = None) -> None:
    """Put the values of all peers into ``scope`` under their new names; what is there under its old name leaves it.

    Args:
        states: one for each peer.
        scope: in which all train.
        place: device; the CPU where None.

    Raises:
        GraphError: a value is missing, of another shape, or wanted by two peers, or a new name is taken. The scopes are
            as they were then.
    """
    homes = [_home(state, scope, place) for state in states]
    _check_distinct(states, homes)
    for number, (state, home) in enumerate(zip(states, homes)):
        _check(number, state, home, scope)
    done: list[str] = []
    try:
        for state, home in zip(states, homes):
            for old, new in state.names.items():
                done.append(new)
                store_array(scope, new, view_array(home, old), place or paddle.CPUPlace())
    except BaseException:
        scope.erase(done)
        raise
    scope.erase([old for state, home in zip(states, homes) if home is scope for old in state.names])


def _home(state: PeerState, scope: Any, place: Any) -> Any:
    if state.startup is None:
        return state.scope if state.scope is not None else scope
    private = paddle.static.Scope()
    Executor(place).run(state.startup, scope=private)
    return private


def _check_distinct(states: Sequence[PeerState], homes: Sequence[Any]) -> None:
    for number, (state, home) in enumerate(zip(states, homes)):
        for other in range(number):
            common = state.names.keys() & states[other].names.keys() if homes[other] is home else set()
            if common:
                raise GraphError(
                    f'peers {other} and {number} would both begin with {min(common)!r} of one scope: give each a scope '
                    'or startup_program of its own'
                )


def _check(number: int, state: PeerState, home: Any, scope: Any) -> None:
    for old, new in state.names.items():
        if not has_array(home, old):
            raise GraphError(
                f'peer {number} has no initial value of {old!r}: run its startup program or load it, in the scope that '
                'the peer names, or give the peer its startup_program'
            )
        if shape_of(home, old) != state.graph.var(old).shape():
            raise GraphError(
                f'peer {number} has {old!r} of shape {list(state.graph.var(old).shape())}, and its scope one of shape '
                f'{list(shape_of(home, old))}'
            )
        if has_array(scope, new):
            raise GraphError(f'the scope already has a {new!r}: give another scope, other prefixes, or erase it')
