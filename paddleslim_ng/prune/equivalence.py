"""The proof behind a prune: the original with the removed channels zeroed computes what the pruned program computes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import (
    Executor,
    GraphWrapper,
    OpWrapper,
    VarWrapper,
    clone_program,
    has_array,
    store_array,
    view_array,
)
from paddleslim_ng.core.paddle_compat import global_scope, new_scope
from paddleslim_ng.core.teachers import teacher_of
from paddleslim_ng.errors import EquivalenceError, GraphError
from paddleslim_ng.prune.footprint import Footprint
from paddleslim_ng.prune.outputs import reads_data
from paddleslim_ng.prune.records import recorded_positions
from paddleslim_ng.prune.report import EquivalenceFigures
from paddleslim_ng.runtime import data_inputs, synthesize_feeds

__all__ = ['DEFAULT_TOLERANCE', 'output_names', 'persistable_values', 'run_in', 'verify_equivalence', 'zeroed']

_log = logging.getLogger('paddleslim_ng')

DEFAULT_TOLERANCE = 1e-4
# Operators whose results nobody wants for themselves: the first lays out the memory of recurrent layers.
_BOOKKEEPING = frozenset({'coalesce_tensor'})

Array = npt.NDArray[Any]


def verify_equivalence(
    original: Any,
    pruned: Any,
    scope: Any = None,
    original_values: Mapping[str, Array] | None = None,
    *,
    footprint: Footprint | None = None,
    feeds: Mapping[str, Array] | None = None,
    outputs: Sequence[Any] | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    place: Any = None,
) -> EquivalenceFigures:
    """Compare the original program, its removed channels zeroed, with the pruned program on the same feeds.

    :meth:`Pruner.prune` does this by itself. To repeat it with other feeds, keep the values that were cut:

        pruned, backup, _ = pruner.prune(program, scope, names, ratios, param_backup=True)
        figures = slim.prune.verify_equivalence(program, pruned, scope, backup, feeds=my_batch)

    Both programs run in scopes of their own, as evaluation clones; nothing of the caller's changes. Do it before
    training goes on: parameters that were not cut are taken from ``scope``.

    Args:
        original: program before pruning, either IR.
        pruned: the program after pruning.
        scope: holds the parameters of ``pruned``; Paddle's global scope where None.
        original_values: ``{parameter: array}`` from before, at least of everything that was cut: the backup that
            ``prune(..., param_backup=True)`` returns.
        footprint: ``{parameter: [(axis, removed positions), ...]}``; read from the records that pruning leaves in the
            scope where None.
        feeds: ``{data name: array}``; inputs that are missing are made up.
        outputs: names or values to compare; whatever no operator reads where None.
        tolerance: admissible difference, relative to the largest magnitude of each output.
        place: device; the CPU where None.

    Returns:
        The figures.

    Raises:
        EquivalenceError: an output differs by more than the tolerance, is not finite, or has another shape.
        GraphError: ``original_values`` lacks a parameter that was cut, the scope has no record of what was removed, an
            output is unknown, or a program cannot be run on the feeds.
    """
    scope = scope if scope is not None else global_scope()
    original, pruned = clone_program(original, for_test=True), clone_program(pruned, for_test=True)
    graph, small_graph = GraphWrapper(original), GraphWrapper(pruned)
    small_values = persistable_values(small_graph, scope)
    values = _original_values(graph, small_values, original_values or {})
    removed = footprint if footprint is not None else _recorded_footprint(graph, small_values, scope)
    names = [graph.var(item).name() for item in outputs] if outputs is not None else output_names(graph)
    inputs = _complete(graph, feeds)
    plain = _run(original, values, inputs, names, place)
    masked = _run(original, zeroed(values, removed), inputs, names, place)
    figures = _compare(names, plain, masked, _run(pruned, small_values, inputs, names, place), tolerance)
    if removed and figures.effect == 0.0:
        _log.warning('the equivalence check had no power: zeroing the removed channels did not change %s', names)
    return figures


def _original_values(graph: GraphWrapper, small: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
    """Return every persistable of the original program: as given, or as it is now where its shape has not changed."""
    values: dict[str, Array] = {}
    for var in graph.vars():
        name = var.name()
        if var.persistable() and (name in given or name in small):
            values[name] = given[name] if name in given else small[name]
            if values[name].shape != var.shape() and values[name].size > 1:
                raise GraphError(
                    f'no value of {name!r} in shape {list(var.shape())}, as the original program has it; pass '
                    'original_values=, the parameter backup of prune(..., param_backup=True)'
                )
    return values


def _recorded_footprint(graph: GraphWrapper, small: Mapping[str, Array], scope: Any) -> Footprint:
    footprint: Footprint = {}
    for var in graph.all_parameters():
        name, shape = var.name(), var.shape()
        if name not in small or small[name].shape == shape:
            continue
        axes = []
        for axis, size in enumerate(shape):
            if small[name].shape[axis] == size:
                continue
            kept = recorded_positions(scope, var, axis)
            if kept is None:
                raise GraphError(
                    f'the scope has no record of what was removed from axis {axis} of {name!r}; pass footprint='
                )
            axes.append((axis, np.setdiff1d(np.arange(size), kept)))
        footprint[name] = axes
    return footprint


def _complete(graph: GraphWrapper, feeds: Mapping[str, Array] | None) -> dict[str, Array]:
    """Make up the inputs that are missing, in the batch size of those that are there."""
    given = {name: np.asarray(array) for name, array in (feeds or {}).items()}
    known = [var.name() for var in data_inputs(graph)]
    unknown = sorted(set(given) - {var.name() for var in graph.vars() if var.is_data})
    if unknown:
        raise GraphError(f'the program has no inputs {unknown}; it has {known}')
    batch = next((array.shape[0] for array in given.values() if array.ndim), 4)
    return {**synthesize_feeds(graph, [name for name in known if name not in given], batch=batch), **given}


def _compare(
    names: Sequence[str], plain: list[Array], masked: list[Array], small: list[Array], tolerance: float
) -> EquivalenceFigures:
    absolute = relative = effect = 0.0
    for name, before, want, got in zip(names, plain, masked, small):
        if want.shape != got.shape:
            raise EquivalenceError(
                f'output {name!r} has shape {list(got.shape)} after pruning, {list(want.shape)} before'
            )
        precision = _precision(want)
        if not want.size or precision is None:
            continue
        before, want, got = _numbers(before), _numbers(want), _numbers(got)
        if not np.isfinite(want).all():
            raise EquivalenceError(
                f'output {name!r} of the masked original is not finite; nothing can be compared with it'
            )
        magnitudes = np.abs(before[np.isfinite(before)])
        scale = max(float(np.abs(want).max()), float(magnitudes.max(initial=0.0)), 1e-30)
        difference = float(np.abs(want - got).max())
        absolute, relative = max(absolute, difference), max(relative, difference / scale)
        effect = max(effect, float(np.abs(want - before).max()) / scale)
        limit = max(tolerance, 8.0 * precision)
        if not difference <= limit * scale:
            raise EquivalenceError(
                f'output {name!r} of the pruned program differs from the masked original by {difference:.3g}, which is '
                f'{difference / scale:.3g} of its scale (tolerance {limit:.3g})'
            )
    return EquivalenceFigures(tuple(names), absolute, relative, effect)


def _precision(array: Array) -> float | None:
    """Return the spacing of an output's numbers at 1, or None where they are no floating-point numbers."""
    if array.dtype == np.uint16:
        return 2.0**-7
    return float(np.finfo(array.dtype).eps) if np.issubdtype(array.dtype, np.floating) else None


def _numbers(array: Array) -> Array:
    """Return bfloat16, which numpy lacks and Paddle gives as its bits, in single precision."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def output_names(graph: GraphWrapper) -> list[str]:
    """Return the names of the forward results that no forward operator reads.

    By-products of norms and results of merged teachers are left out.
    """
    names = []
    for op in graph.ops():
        if op.is_bwd_op() or op.is_opt_op() or op.type() in _BOOKKEEPING or teacher_of(op) is not None:
            continue
        slots = [s for s in ('Out', 'Y', 'Output', 'Loss', 'Accuracy', 'Softmax', 'Result') if op.outputs(s)]
        results = [var for slot in slots for var in op.outputs(slot) if not var.persistable()]
        names += [var.name() for var in results if not any(map(_computes, var.outputs())) and reads_data(var)]
    if not names:
        raise GraphError('the program has no outputs to compare')
    return names


def _computes(op: OpWrapper) -> bool:
    """Tell whether an operator that reads a result makes something of it within the forward pass."""
    return not (op.is_bwd_op() or op.is_opt_op() or op.type() == 'fetch')


def zeroed(values: Mapping[str, Array], footprint: Footprint) -> dict[str, Array]:
    """Return the values with the footprint set to zero; untouched arrays are shared."""
    result = dict(values)
    for name, axes in footprint.items():
        array = np.array(result[name])
        for axis, positions in axes:
            array[(slice(None),) * axis + (positions,)] = 0
        result[name] = array
    return result


def persistable_values(graph: GraphWrapper, scope: Any) -> dict[str, Array]:
    """Return every persistable of a program as the scope holds it now; views, where its memory can be shared."""
    persistables: list[VarWrapper] = [var for var in graph.vars() if var.persistable()]
    return {var.name(): view_array(scope, var.name()) for var in persistables if has_array(scope, var.name())}


def run_in(
    program: Any, values: Mapping[str, Array], feeds: Mapping[str, Array], names: Sequence[str], place: Any
) -> list[Array]:
    """Run a program once in a scope of its own that holds ``values``."""
    scope = new_scope()
    for name, array in values.items():
        store_array(scope, name, array)
    results = Executor(place).run(program, feed=dict(feeds), fetch_list=list(names), scope=scope)
    return [np.asarray(result) for result in results]


def _run(
    program: Any, values: Mapping[str, Array], feeds: Mapping[str, Array], names: Sequence[str], place: Any
) -> list[Array]:
    try:
        return run_in(program, values, feeds, names, place)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        shapes = {name: list(array.shape) for name, array in feeds.items()}
        raise GraphError(
            f'a program could not be run on inputs of shapes {shapes} to check equivalence; pass feeds= that suit it, '
            f'or verify=False: {error}'
        ) from error
