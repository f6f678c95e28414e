"""Deep mutual learning: networks that train together and teach each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program, cut_program
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.core.merging import MergedProgram, merge_program
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.dist.combine import combine
from paddleslim_ng.dist.losses_program import building, check_number
from paddleslim_ng.dist.peer_state import PeerState, move_states
from paddleslim_ng.dist.peers import Peer, check_peers
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.runtime import data_inputs
from paddleslim_ng.runtime.model_requirements import ancestors

__all__ = ['MutualLearning', 'MutualPeer', 'dml']


@dataclass(frozen=True)
class MutualPeer:
    """A peer within the joint program. Variables and Values are those of the joint program.

    Attributes:
        prefix: what its names begin with.
        names: ``{name in the peer's own program: name in the joint program}``.
        logits: its class scores.
        own_loss: the loss it came with.
        divergence: the mean of the Kullback-Leibler divergences of the others' probabilities from its own.
        loss: ``own_loss + weight * divergence``.
    """

    prefix: str
    names: Mapping[str, str] = field(repr=False)
    logits: Any
    own_loss: Any
    divergence: Any
    loss: Any


@dataclass(frozen=True)
class MutualLearning:
    """Peers in one program.

    Attributes:
        program: the joint program, to be trained with one optimizer on ``total``.
        startup_program: empty, for the optimizer's state; parameters are in the scope already.
        peers: in the order given.
        total: the sum of the peers' losses.
    """

    program: Any
    startup_program: Any
    peers: tuple[MutualPeer, ...]
    total: Any

    def variable(self, peer: int, item: Any) -> Any:
        """Return what a name, Variable or Value of a peer's own program is in the joint program.

        Raises:
            ConfigError: there is no such peer.
            GraphError: the peer has no such variable, or it is no longer in the program.
        """
        names = self._peer(peer).names
        old = GraphWrapper.name_of(item)
        if old not in names:
            raise GraphError(f'peer {peer} has no variable {old!r} in the joint program')
        return GraphWrapper(self.program).var(names[old]).raw

    def extract(self, peer: int, program: Any = None) -> Any:
        """Return the inference program of one peer: from its inputs to its logits, in test mode.

        Its parameters are those of the joint program, under the same names and in the same scope, so that
        ``slim.runtime.save_inference_model`` writes them and no others.

        Args:
            peer: its number.
            program: what the joint program has become, such as its pruned descendant; the joint program where None.

        Raises:
            ConfigError: there is no such peer.
            GraphError: the program has no such logits.

        Example:
            >>> mutual = slim.dist.dml([first, second])
            >>> student = mutual.extract(0)
            >>> slim.runtime.save_inference_model(student, 'student/model', ['image'], [mutual.peers[0].logits])
        """
        kept = self._peer(peer)
        graph = GraphWrapper(clone_program(self.program if program is None else program, for_test=True))
        logits = graph.var(kept.logits)
        needed = ancestors([logits])
        feeds = [var.name() for var in data_inputs(graph) if var.name() in needed]
        return cut_program(graph.program, feeds, [logits.name()])

    def _peer(self, peer: int) -> MutualPeer:
        if isinstance(peer, bool) or not isinstance(peer, int) or not 0 <= peer < len(self.peers):
            raise ConfigError(f'peers are numbered from 0 to {len(self.peers) - 1}; there is no {peer!r}')
        return self.peers[peer]


def dml(
    peers: Sequence[Peer],
    *,
    weight: float = 1.0,
    temperature: float = 1.0,
    prefixes: Sequence[str] | None = None,
    scope: Any = None,
    place: Any = None,
) -> MutualLearning:
    """Build the joint program of several networks that teach each other (Zhang et al., 2018).

    Peer k minimizes ``own_loss_k + weight * divergence_k``, where ``divergence_k`` is the mean over the other peers l
    of ``T**2 * KL(softmax(logits_l / T) || softmax(logits_k / T))``, a mean over the samples. The others' probabilities
    are constants for it, so that one optimizer on the total gives each peer its own gradient. All peers are updated at
    once, on the same batch.

    The peers share their inputs; all else is copied under prefixes, so that they may be of one architecture and even
    of one program. Initial values come from the peers' scopes, or from their startup programs.

    Args:
        peers: two or more.
        weight: of the divergence.
        temperature: T; the paper has 1.
        prefixes: of the peers' names; ``peer0_``, ``peer1_``, ... where None.
        scope: gets all parameters; Paddle's global scope where None. Values that are there under a peer's own names
            move, those of other scopes are copied.
        place: device of the parameters; where they are now if None.

    Returns:
        The joint program and what is of interest in it.

    Raises:
        ConfigError: fewer than two peers, unusable numbers or prefixes.
        GraphError: a program with backward or optimizer operators, an unknown variable, logits or inputs that do not
            fit together, parameters that are not initialized, two peers with the very same initial values.

    In case of an error, programs and scopes are as they were.

    Example:
        >>> mutual = slim.dist.dml(
        ...     [
        ...         slim.dist.Peer(main_1, logits_1, loss_1, startup_program=startup_1),
        ...         slim.dist.Peer(main_2, logits_2, loss_2, startup_program=startup_2),
        ...     ]
        ... )
        >>> with paddle.static.program_guard(mutual.program, mutual.startup_program):
        ...     optimizer.minimize(mutual.total)
        >>> exe.run(mutual.startup_program)
        >>> exe.run(mutual.program, feed=feed, fetch_list=[peer.loss for peer in mutual.peers])
    """
    number = check_number('weight', weight, least=0.0)
    heat = check_number('temperature', temperature, positive=True)
    graphs = check_peers(peers)
    chosen = _prefixes(prefixes, len(peers))
    where = scope if scope is not None else global_scope()
    with ir_mode(graphs[0].ir == 'pir'):
        program, startup = paddle.static.Program(), paddle.static.Program()
    program.random_seed = peers[0].program.random_seed
    merged = [_merge(program, *given) for given in zip(peers, graphs, chosen)]
    members = _build(program, peers, graphs, merged, number, heat)
    total, _ = combine([(member.loss, 1.0) for member in members], program)
    states = [
        PeerState(graph, {name: copy.names[name] for name in copy.state}, peer.scope, peer.startup_program)
        for peer, graph, copy in zip(peers, graphs, merged)
    ]
    move_states(states, where, place)
    return MutualLearning(program, startup, members, total)


def _prefixes(given: Sequence[str] | None, count: int) -> list[str]:
    found = [f'peer{number}_' for number in range(count)] if given is None else list(given)
    if len(found) != count or len(set(found)) != count or not all(isinstance(text, str) and text for text in found):
        raise ConfigError(f'prefixes are {count} different texts, not {given!r}')
    return found


def _merge(program: Any, peer: Peer, graph: GraphWrapper, prefix: str) -> MergedProgram:
    target = GraphWrapper(program)
    inputs = {var.name(): peer.inputs.get(var.name(), var.name()) for var in data_inputs(graph)}
    return merge_program(target, graph, inputs, prefix, frozen=False, own_inputs=() if target.ops() else inputs.keys())


def _build(
    program: Any,
    peers: Sequence[Peer],
    graphs: Sequence[GraphWrapper],
    merged: Sequence[MergedProgram],
    weight: float,
    heat: float,
) -> tuple[MutualPeer, ...]:
    graph = GraphWrapper(program)
    found = [
        [graph.var(copy.names[own.name_of(item)]) for item in (peer.logits, peer.loss)]
        for peer, own, copy in zip(peers, graphs, merged)
    ]
    with building(graph, 'dml') as e:
        divergences = _divergences(e, [logits for logits, _ in found], heat)
    members = []
    for copy, (logits, loss), divergence in zip(merged, found, divergences):
        joint, _ = combine([(loss.raw, 1.0), (divergence.raw, weight)], program)
        members.append(MutualPeer(copy.prefix, copy.names, logits.raw, loss.raw, divergence.raw, joint))
    return tuple(members)


def _divergences(e: Expressions, logits: Sequence[VarWrapper], heat: float) -> list[VarWrapper]:
    """Return, for each peer, the mean divergence of the others' fixed probabilities from its own."""
    logs = [e.log_softmax(e.scale(x, 1.0 / heat)) for x in logits]
    fixed = [e.stop(x) for x in logs]
    probabilities = [e.exp(x) for x in fixed]
    found = []
    for place, own in enumerate(logs):
        parts = [
            e.mean(e.sum(e.multiply(probability, e.subtract(log, own)), [-1]))
            for other, (log, probability) in enumerate(zip(fixed, probabilities))
            if other != place
        ]
        found.append(e.scale(e.here.op('sum', {'X': parts}), heat**2 / len(parts)))
    return found
