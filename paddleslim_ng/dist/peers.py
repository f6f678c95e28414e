"""Networks that are to learn together, and whether they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.dist.combine import own_variable
from paddleslim_ng.dist.losses_program import check_shapes, features
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.runtime import data_inputs

__all__ = ['Peer', 'check_peers']


@dataclass(frozen=True)
class Peer:
    """A network that is to learn with others.

    Attributes:
        program: its training program, without backward and optimizer operators; it stays as it is.
        logits: class scores before softmax [..., C], a name, Variable or Value of ``program``.
        loss: its own loss, such as the cross-entropy with the labels; a scalar.
        scope: has its initial values; the scope of :func:`dml` where None.
        startup_program: makes its initial values, and leaves every scope alone; takes the place of ``scope``.
        inputs: ``{input: input of the first peer}`` where the names differ.
    """

    program: Any
    logits: Any
    loss: Any
    scope: Any = None
    startup_program: Any = None
    inputs: Mapping[str, str] = field(default_factory=dict)


def check_peers(peers: Sequence[Peer]) -> list[GraphWrapper]:
    """Wrap the programs of networks that are to learn together, and see whether they can.

    Raises:
        ConfigError: there are not two or more peers.
        GraphError: a program cannot be trained further, or logits, losses or inputs do not fit together.
    """
    if len(peers) < 2 or not all(isinstance(peer, Peer) for peer in peers):
        raise ConfigError(f'mutual learning takes two or more slim.dist.Peer, not {peers!r:.80}')
    graphs = [GraphWrapper(peer.program) for peer in peers]
    for number, (peer, graph) in enumerate(zip(peers, graphs)):
        training = [op.type() for op in graph.ops() if op.is_bwd_op() or op.is_opt_op()]
        if training:
            raise GraphError(
                f'peer {number} has backward or optimizer operators, such as {training[0]!r}: give its program before '
                'minimize, which is called on the total'
            )
        if graph.ir != graphs[0].ir:
            raise GraphError(f'peer 0 is a {graphs[0].ir} program and peer {number} a {graph.ir} program')
        logits, loss = features(graph, own_variable(graph, peer.logits)), own_variable(graph, peer.loss)
        if loss.shape() not in ((), (1,)):
            raise GraphError(f'the loss {loss.name()!r} of peer {number} has the shape {list(loss.shape())}: no scalar')
        first = graphs[0].var(peers[0].logits)
        check_shapes(first, logits[0])
        if first.dtype() != logits[0].dtype():
            raise GraphError(f'the logits of peer 0 are {first.dtype()}, those of peer {number} {logits[0].dtype()}')
        _check_inputs(number, peer, graph, graphs[0])
    return graphs


def _check_inputs(number: int, peer: Peer, graph: GraphWrapper, first: GraphWrapper) -> None:
    inputs = {var.name(): var for var in data_inputs(graph)}
    shared = {var.name(): var for var in data_inputs(first)}
    unknown = [name for name in peer.inputs if name not in inputs]
    if unknown or (number == 0 and peer.inputs):
        raise GraphError(f'inputs of peer {number} are {sorted(inputs)}; {dict(peer.inputs)} names others, or renames')
    for name, var in inputs.items():
        counterpart = shared.get(peer.inputs.get(name, name))
        if counterpart is None:
            raise GraphError(
                f'peer {number} reads {name!r}, and the first peer has the inputs {sorted(shared)}: say in inputs= '
                'which of these it is'
            )
        check_shapes(counterpart, var)
        if counterpart.dtype() != var.dtype():
            raise GraphError(f'peer {number} reads {name!r} as {var.dtype()}, the first peer as {counterpart.dtype()}')
