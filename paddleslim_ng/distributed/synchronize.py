"""Data parallelism in a static training program: mean gradients over the ranks, and rank 0's initial parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.gradients import gradient_of, updates_of
from paddleslim_ng.core.initial_values import initial_values
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.distributed.collectives import COLLECTIVES, all_reduce, broadcast, buckets, together
from paddleslim_ng.distributed.ranks import Ranks, read_ranks
from paddleslim_ng.errors import DistributedError, GraphError, UnsupportedOpError

__all__ = ['BUCKET_BYTES', 'distribute', 'require_all_reduce', 'unreduced_parameters']

BUCKET_BYTES = 32 << 20
_LOSS_SCALING = frozenset({'check_finite_and_unscale', 'update_loss_scaling'})


def distribute(
    program: Any,
    startup_program: Any = None,
    *,
    ranks: Ranks | None = None,
    bucket_bytes: int = BUCKET_BYTES,
    kept_only: bool = False,
) -> int:
    """Make a finished training program train on all ranks as one process would on their batches together.

    The gradients, as the backward pass leaves them, are packed into vectors, added up over the ranks, divided by their
    number, and handed to what comes next: clipping, decay and the optimizer thus see what one process would see. The
    startup program ends with sending rank 0's parameters to all. Gradients masked by a sparse pruner are reduced masked
    where the pruner came first; the outcome is the same either way.

    Args:
        program: of either IR, after ``minimize``; edited in place.
        startup_program: initializes its parameters; edited in place. Without one, every rank must start from the same
            parameters, such as those of a file or a seed.
        ranks: the job; what the launcher says where None. For one rank nothing is changed.
        bucket_bytes: size of the vectors; 0 sends every gradient by itself.
        kept_only: of parameters with a ``<name>_mask``, send the gradients of the weights that stay. Pays on slow
            networks alone; the pruner must have put its masks in before.

    Returns:
        The number of collectives that a step makes.

    Raises:
        DistributedError: gradients are reduced already.
        GraphError: the program updates no parameter, a shape is not known, or ``kept_only`` finds no mask.
        UnsupportedOpError: gradients of sparse embeddings, or loss scaling, which would have to be agreed on first.

    Example:
        >>> optimizer.minimize(loss)
        >>> slim.distributed.distribute(main_program, startup_program)
    """
    who = read_ranks() if ranks is None else ranks
    graph = GraphWrapper(program)
    gradients = _gradients(graph)
    masks = _masks(graph, gradients) if kept_only else {}
    initial = _initialized(startup_program, graph) if startup_program is not None else None
    if who.size == 1:
        return 0
    here = Insertion(graph, after=_last_writer(list(gradients.values())), role='backward')
    sent: VarWrapper | None = None
    count = 0
    for masked in (False, True):
        by_id = {id(var): name for name, var in gradients.items() if (name in masks) == masked}
        for bucket in buckets([gradients[name] for name in by_id.values()], bucket_bytes):
            keeping = [masks[by_id[id(var)]] for var in bucket] if masked else []
            sent = together(here, bucket, all_reduce, 1.0 / who.size, sent, keeping)
            count += 1
    if initial is not None:
        _broadcast_initial(*initial, bucket_bytes)
    return count


def _gradients(graph: GraphWrapper) -> dict[str, VarWrapper]:
    """Return the gradients to reduce by their parameters' names, after checking that they can be."""
    if any(op.type() in COLLECTIVES for op in graph.ops()):
        raise DistributedError('the program reduces gradients already; distribute a program once')
    scaling = [op.type() for op in graph.ops() if op.type() in _LOSS_SCALING]
    if scaling:
        raise UnsupportedOpError(
            f'{scaling[0]} decides on every rank for itself whether a step counts; train without loss scaling '
            '(bfloat16 needs none)',
            op=scaling[0],
        )
    found = {var.name(): grad for var in _updated(graph) if (grad := gradient_of(graph, var)) is not None}
    if not found:
        raise GraphError('the program updates no parameter; call minimize before distribute')
    for grad in found.values():
        if _is_sparse(grad):
            raise UnsupportedOpError(f'{grad.name()!r} is a sparse gradient; build the embedding with sparse=False')
        if any(n < 0 for n in grad.shape()):
            raise GraphError(f'the shape {list(grad.shape())} of gradient {grad.name()!r} is not known')
    return found


def _masks(graph: GraphWrapper, gradients: Mapping[str, VarWrapper]) -> dict[str, VarWrapper]:
    """Return the masks in the program by their parameters' names."""
    found = {}
    for name, gradient in gradients.items():
        mask = graph.var(f'{name}_mask') if graph.has_var(f'{name}_mask') else None
        if mask is not None and mask.persistable() and mask.shape() == gradient.shape():
            found[name] = mask
    if not found:
        raise GraphError('kept_only needs masks in the program: make the pruner after minimize and before distribute')
    return found


def _is_sparse(var: VarWrapper) -> bool:
    """Tell whether a gradient holds some rows alone, as legacy programs have them; on PIR gradients are dense."""
    return any(op.attr('is_sparse') is True for op in var._producers)


def _updated(graph: GraphWrapper) -> list[VarWrapper]:
    return [var for var in graph.all_parameters() if updates_of(graph, var)]


def _last_writer(variables: Sequence[VarWrapper]) -> OpWrapper:
    writers = [op for var in variables for op in var._producers if not op.is_opt_op() or len(var._producers) == 1]
    return max(writers, key=lambda op: op.idx())


def _initialized(startup_program: Any, graph: GraphWrapper) -> tuple[GraphWrapper, list[VarWrapper]]:
    """Return what the startup program gives the parameters of the training program."""
    startup = GraphWrapper(startup_program)
    return startup, initial_values(startup, {var.name() for var in graph.all_parameters()})


def _broadcast_initial(graph: GraphWrapper, values: Sequence[VarWrapper], bucket_bytes: int) -> None:
    here = Insertion(graph)
    sent: VarWrapper | None = None
    for bucket in buckets(values, bucket_bytes):
        sent = together(here, bucket, broadcast, after=sent)


def unreduced_parameters(program: Any) -> list[str]:
    """Return the parameters that the program updates by gradients which are not added up over the ranks."""
    graph = GraphWrapper(program)
    reached = set(_reached(graph))
    return [
        parameter.name()
        for parameter in _updated(graph)
        if not any(id(var) in reached for op in updates_of(graph, parameter) for var in op.inputs('Grad'))
    ]


def _reached(graph: GraphWrapper) -> Iterator[int]:
    """Yield the ids of all temporaries that depend on an all-reduce within one step."""
    pending = [var for op in graph.ops() if op.type() in COLLECTIVES for var in op.all_outputs()]
    seen = {id(var) for var in pending}
    while pending:
        var = pending.pop()
        yield id(var)
        for reader in var._consumers:
            for out in reader.all_outputs():
                if id(out) not in seen and not out.persistable():
                    seen.add(id(out))
                    pending.append(out)


def require_all_reduce(program: Any, *, ranks: Ranks | None = None) -> None:
    """Make sure that a training program of several ranks adds the gradients of all its parameters up.

    Args:
        program: of either IR.
        ranks: the job; what the launcher says where None. One rank needs nothing.

    Raises:
        DistributedError: naming parameters that every rank would train for itself.
    """
    who = read_ranks() if ranks is None else ranks
    if who.size == 1:
        return
    missing = unreduced_parameters(program)
    if missing:
        more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
        raise DistributedError(
            f'{who.size} ranks train {", ".join(map(repr, missing[:3]))}{more} each for itself: the program has no '
            'all-reduce of their gradients. Call slim.distributed.init() before fleet.init() and minimize through '
            'fleet.distributed_optimizer, or call slim.distributed.distribute(program, startup_program)'
        )
