"""Gradients that ranks reduce in vectors: after channels have left, the parts of a vector have other sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.errors import GraphError

__all__ = ['COLLECTIVES', 'repack_gradients']

# Canonical types of operators that add something up over the ranks.
COLLECTIVES = frozenset(
    {'all_reduce', 'c_allreduce_sum', 'c_allreduce_avg', 'c_reduce_sum', 'reduce', 'reduce_scatter', 'c_reducescatter'}
)
_PASSING = frozenset({'cast', 'scale'})
_GRADIENT = '@GRAD'


def repack_gradients(graph: GraphWrapper) -> int:
    """Bring the reduction of gradients in a program whose parameters were cut to the sizes that they have now.

    :func:`paddleslim_ng.distributed.distribute` packs gradients into vectors and unpacks them by offsets, which are
    constants of the program. Collectives of another make, one for each gradient, have none.

    Args:
        graph: a training program of either IR, in which parameters (on PIR: and gradients) have their new shapes.

    Returns:
        The number of vectors.

    Raises:
        GraphError: only the weights that masks keep are sent, whose number the program does not know.
    """
    count = 0
    for collective in [op for op in graph.ops() if op.type() in COLLECTIVES]:
        if _sends_kept_only(collective):
            raise GraphError(
                'gradients are reduced with kept_only=True, by masks that fit the uncut network: prune first, and '
                'distribute the pruned program'
            )
        sources, parts = list(_sources(collective)), list(_parts(collective))
        if not sources or len(sources) != len(parts):
            continue
        start = 0
        for source, (part, reshape) in zip(sources, parts):
            shape = list(_shape_of(graph, source))
            end = start + math.prod(shape)
            part.set_attr('starts', [start])
            part.set_attr('ends', [end])
            reshape.set_attr('shape', shape)
            start = end
        count += 1
    return count


def _shape_of(graph: GraphWrapper, gradient: VarWrapper) -> tuple[int, ...]:
    """Return the shape of a gradient; legacy programs say it in its parameter's, before shapes are inferred."""
    name = gradient.name().split(_GRADIENT)[0]
    return graph.var(name).shape() if graph.ir == 'legacy' and graph.has_var(name) else gradient.shape()


def _sends_kept_only(collective: OpWrapper) -> bool:
    maker = _maker(collective.all_inputs()[0], collective)
    makers = [maker]
    if maker is not None and maker.type() == 'concat':
        makers += [_maker(var, maker) for var in maker.inputs('X')]
    return any(op is not None and op.type() == 'gather' for op in makers)


def _is_reshape(op: OpWrapper) -> bool:
    return op.type().startswith('reshape')


def _maker(var: VarWrapper, before: OpWrapper) -> OpWrapper | None:
    """Return what wrote a variable last before an operator; legacy programs write some more than once."""
    makers = [op for op in var.inputs() if op.idx() < before.idx()]
    return max(makers, key=lambda op: op.idx()) if makers else None


def _sources(collective: OpWrapper) -> Iterator[VarWrapper]:
    """Yield the gradients that a collective's vector is packed from, in its order."""
    concat = _maker(collective.all_inputs()[0], collective)
    for _ in range(2):
        if concat is None or concat.type() != 'concat':
            return
        flat = [(_maker(var, concat), var) for var in concat.inputs('X')]
        inner = flat[-1][0]
        if len(flat) == 2 and inner is not None and inner.type() == 'concat':
            concat = inner  # in front of the vector stands a number of the one before it
            continue
        for op, _ in flat:
            if op is None or not _is_reshape(op):
                return
            var = op.inputs('X')[0]
            cast = _maker(var, op)
            yield cast.inputs('X')[0] if cast is not None and cast.type() == 'cast' else var
        return


def _parts(collective: OpWrapper) -> Iterator[tuple[OpWrapper, OpWrapper]]:
    """Yield the slices of what arrives, each with the operator that gives it its shape, in the order of the offsets."""
    pending = [collective]
    found = []
    while pending:
        maker = pending.pop()
        for var in maker.all_outputs():
            for op in var.outputs():
                if op.idx() <= maker.idx():
                    continue
                if op.type() in _PASSING or _skips_first(op):
                    pending.append(op)
                elif op.type() == 'slice':
                    found += [(op, after) for after in op.all_outputs()[0].outputs() if _is_reshape(after)]
    yield from sorted(found, key=lambda pair: pair[0].idx())


def _skips_first(op: OpWrapper) -> bool:
    """Tell whether a slice drops the number in front of a vector, and goes to its end."""
    if op.type() != 'slice' or list(op.attr('starts') or ()) != [1]:
        return False
    return list(op.attr('ends') or ()) == [2**31 - 1]
