"""Collective operators of every Paddle version, and many tensors sent as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.insertion import Insertion, insertable
from paddleslim_ng.core.packed_gradients import COLLECTIVES

__all__ = ['COLLECTIVES', 'all_reduce', 'broadcast', 'buckets', 'together']

Send = Callable[[Insertion, VarWrapper], VarWrapper]
_END = 2**31 - 1
# Gloo adds half-precision numbers up wrongly on Paddle 3, so they travel in single precision.
_SENT_AS_THEY_ARE = frozenset({'float32', 'float64', 'int32', 'int64'})


def all_reduce(here: Insertion, var: VarWrapper) -> VarWrapper:
    """Insert the sum over all ranks of a temporary, which the sum replaces."""
    if insertable(here.graph, 'c_allreduce_sum'):
        return here.op('c_allreduce_sum', {'X': var}, {'ring_id': 0, 'use_calc_stream': True}, into=var)
    slot = 'X' if here.graph.ir == 'pir' else 'x'
    return here.op('all_reduce', {slot: var}, {'ring_id': 0, 'reduce_type': 0}, into=var)


def broadcast(here: Insertion, var: VarWrapper) -> VarWrapper:
    """Insert the sending of a temporary from rank 0 to all; what arrives replaces it.

    On Paddle 2 the operator leaves the result of rank 0 unwritten unless it is its own input.
    """
    if insertable(here.graph, 'c_broadcast'):
        return here.op('c_broadcast', {'X': var}, {'ring_id': 0, 'root': 0, 'use_calc_stream': True}, into=var)
    slot = 'X' if here.graph.ir == 'pir' else 'x'
    return here.op('broadcast', {slot: var}, {'ring_id': 0, 'root': 0}, into=var)


def buckets(variables: Sequence[VarWrapper], limit: int) -> Iterator[list[VarWrapper]]:
    """Sort variables by element type into groups of up to ``limit`` bytes, in their order; larger ones go alone."""
    by_type: dict[str, list[VarWrapper]] = {}
    for var in variables:
        by_type.setdefault(var.dtype(), []).append(var)
    for group in by_type.values():
        bucket: list[VarWrapper] = []
        used = 0
        for var in group:
            size = 4 * math.prod(var.shape())
            if bucket and used + size > limit:
                yield bucket
                bucket, used = [], 0
            bucket.append(var)
            used += size
        yield bucket


def together(
    here: Insertion,
    variables: Sequence[VarWrapper],
    send: Send,
    factor: float = 1.0,
    after: VarWrapper | None = None,
    masks: Sequence[VarWrapper] = (),
) -> VarWrapper:
    """Send variables as one vector, and let every later reader read what arrived.

    The vector is a copy, and what arrives is copied back: no memory is shared that the executor does not know of.

    Args:
        here: place, behind everything that writes the variables.
        variables: of one element type and of known shapes.
        send: inserts the collective.
        factor: what arrives is multiplied by it.
        after: the vector of the collective before this one. A number of it travels along, so that the executor, which
            runs in parallel what it can, starts the collectives in one order on all ranks.
        masks: one per variable, or none: only what they keep is sent, and the rest arrives as zeros.

    Returns:
        The vector that arrived.
    """
    dtype = variables[0].dtype()
    wire = dtype if dtype in _SENT_AS_THEY_ARE else 'float32'
    vector = _packed(here, variables, wire)
    kept = _packed(here, masks, wire) if masks else None
    if kept is not None:
        places = here.op('where_index', {'Condition': here.op('cast', {'X': kept}, {'out_dtype': 'bool'})})
        index = here.op('reshape', {'X': places}, {'shape': [-1]})
        vector = here.op('gather', {'X': vector, 'Index': index})
    if after is not None:
        first = _cast(here, here.op('slice', {'Input': after}, _range(0, 1)), wire)
        vector = here.op('concat', {'X': [first, vector]})
    vector = send(here, vector)
    arrived = vector if after is None else here.op('slice', {'Input': vector}, _range(1, _END))
    if factor != 1.0:
        arrived = here.op('scale', {'X': arrived}, {'scale': factor})
    if kept is not None:
        zeros = here.op('scale', {'X': kept}, {'scale': 0.0})
        arrived = here.op('scatter', {'X': zeros, 'Ids': index, 'Updates': arrived}, {'overwrite': True})
    _unpack(here, arrived, variables)
    return vector


def _cast(here: Insertion, var: VarWrapper, dtype: str) -> VarWrapper:
    return var if var.dtype() == dtype else here.op('cast', {'X': var}, {'out_dtype': dtype})


def _packed(here: Insertion, variables: Sequence[VarWrapper], wire: str) -> VarWrapper:
    """Insert the concatenation of variables; Paddle 2 cannot reshape all types, so they are cast first."""
    flat = [here.op('reshape', {'X': _cast(here, var, wire)}, {'shape': [-1]}) for var in variables]
    return here.op('concat', {'X': flat})


def _unpack(here: Insertion, vector: VarWrapper, variables: Sequence[VarWrapper]) -> None:
    start = 0
    for var in variables:
        shape, dtype = list(var.shape()), var.dtype()
        end = start + math.prod(shape)
        part = here.op('slice', {'Input': vector}, _range(start, end))
        if dtype in _SENT_AS_THEY_ARE:
            here.op('reshape', {'X': part}, {'shape': shape}, into=var)
        else:
            shaped = here.op('reshape', {'X': part}, {'shape': shape})
            here.op('cast', {'X': shaped}, {'out_dtype': dtype}, into=var)
        start = end


def _range(start: int, end: int) -> dict[str, list[int]]:
    return {'axes': [0], 'starts': [start], 'ends': [end], 'infer_flags': [1], 'decrease_axis': []}
