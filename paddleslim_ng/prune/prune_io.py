"""Saving a pruned model, and bringing an unpruned program to what was saved."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program, has_array, load_array, store_array
from paddleslim_ng.core.paddle_compat import global_scope, new_scope
from paddleslim_ng.core.teachers import teacher_of, teacher_reading
from paddleslim_ng.errors import GraphError
from paddleslim_ng.prune.channels import Cut
from paddleslim_ng.prune.graph_cut import cut_graph
from paddleslim_ng.prune.model_files import ModelFiles, read_model_files, write_model_files
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.prune.scope_cut import catch_up_state
from paddleslim_ng.prune.session import PruningSession

__all__ = ['load_model', 'save_model']

_log = logging.getLogger('paddleslim_ng')

Array = npt.NDArray[Any]


def save_model(exe: Any, graph: Any, dirname: str | os.PathLike[str], *, scope: Any = None) -> None:
    """Save a pruned program's parameters, optimizer state included, with what is needed to prune another program alike.

    The directory gets the arrays, the groups of the convolutions and, last, ``__shapes__.json``, which names the other
    two files; a crash leaves a model that was there before intact. The state of a learning-rate scheduler lives in
    Python and is the caller's to save. A merged teacher is not saved; merge it anew where the model is loaded.

    Args:
        exe: an executor; not needed, kept for PaddleSlim's signature.
        graph: a GraphWrapper, or a program of either IR.
        dirname: directory, made where it does not exist.
        scope: holds the values; Paddle's global scope where None.

    Raises:
        GraphError: the scope lacks a parameter, or holds one of another shape than the program's; nothing is written.
        OSError: the directory cannot be written to.

    Example:
        >>> slim.prune.save_model(exe, pruned_program, 'pruned')
    """
    graph, scope = _opened(graph, scope)
    parameters = _parameters(graph)
    states = [var for var in _persistables(graph) if var not in parameters and has_array(scope, var.name())]
    arrays = {var.name(): load_array(scope, var.name()) for var in (*parameters, *states)}
    kept: dict[str, dict[int, list[list[int]]]] = {}
    for var in parameters:
        name, shape = var.name(), var.shape()
        if arrays[name].shape != shape:
            raise GraphError(
                f'{name!r} has shape {list(arrays[name].shape)} in the scope and {list(shape)} in the program; '
                'save the program that fits the scope'
            )
        records = {axis: _record(scope, name, axis, size) for axis, size in enumerate(shape)}
        kept[name] = {axis: record for axis, record in records.items() if record}
    kept = {name: axes for name, axes in kept.items() if axes}
    write_model_files(dirname, ModelFiles(arrays, [var.name() for var in parameters], kept, _groups(graph)))


def load_model(exe: Any, graph: Any, dirname: str | os.PathLike[str], *, scope: Any = None) -> None:
    """Bring an unpruned program, in place, to the shapes of a saved model, and load its values into the scope.

    Parameters, shapes, groups of convolutions, split sections, constants of reshapes and, in a training program,
    gradients and optimizer state become what they were when the model was saved. A program that is pruned alike already
    only gets the values. Optimizer state that the file lacks, because an evaluation program was saved, is cut in the
    scope and keeps its values; a log message names it. What the file holds beyond the program's variables is left out.
    A teacher merged into the program stays as it is.

    Args:
        exe: an executor, whose place gets the values; the CPU where None.
        graph: a GraphWrapper, or a program of either IR; changed in place.
        dirname: directory written by :func:`save_model`, on either IR.
        scope: gets the values; Paddle's global scope where None.

    Raises:
        CheckpointError: a file is missing or damaged, or from a newer version; the message names it.
        GraphError: the model does not fit the program. Program and scope are as they were, as after all errors.

    Example:
        >>> slim.prune.load_model(exe, unpruned_program, 'pruned')
    """
    graph, scope = _opened(graph, scope)
    files = read_model_files(dirname)
    _require_parameters(graph, files)
    saved = _scope_of(files)
    trial = GraphWrapper(clone_program(graph.program), out_nodes=graph.out_nodes)
    _cut_like(trial, saved)
    _require_fit(trial, files)
    session, cut = _session_and_cut(graph, saved)
    place = getattr(exe, 'place', None)
    new = {**_values(trial, files), **_records(files)}
    snapshot = _snapshot(scope, [*new, *_stale_records(files, scope)])
    try:
        for name in snapshot:
            if name in new:
                store_array(scope, name, new[name], place)
            else:
                scope.erase([name])
        if cut is not None:
            state = catch_up_state(session.analysis, cut, scope, session.followers)
            snapshot.update(state.backup)
            state.commit()
            cut_graph(session.analysis, cut, session.followers)
    except BaseException:
        _restore(scope, snapshot, place)
        raise
    graph._reindex()
    if cut is not None and state.backup:
        _log.warning('the model holds no optimizer state %s; what the scope held was cut', ', '.join(state.backup))


def _opened(graph: Any, scope: Any) -> tuple[GraphWrapper, Any]:
    wrapper = graph if isinstance(graph, GraphWrapper) else GraphWrapper(graph)
    return wrapper, scope if scope is not None else global_scope()


def _persistables(graph: GraphWrapper) -> list[VarWrapper]:
    """Return what outlives a run; the queues of feed and fetch operators, and merged teachers, are left out."""
    ends = [op for op in graph.ops() if op.type() in ('feed', 'fetch')]
    queues = {id(var) for op in ends for var in (*op.all_inputs(), *op.all_outputs())}
    found = [var for var in graph.vars() if var.persistable() and not (id(var) in queues and not var.shape())]
    return [var for var in found if teacher_reading(var) is None]


def _parameters(graph: GraphWrapper) -> list[VarWrapper]:
    """Return the parameters; in a loaded inference model, which declares none, the persistables that are read."""
    declared = [var for var in graph.all_parameters() if teacher_reading(var) is None]
    return declared or [var for var in _persistables(graph) if var.outputs()]


def _groups(graph: GraphWrapper) -> dict[str, int]:
    """Return the groups of the forward convolutions by the names of their filters."""
    found: dict[str, int] = {}
    for op in graph.ops():
        if op.inputs('Filter') and not (op.is_bwd_op() or op.is_opt_op() or teacher_of(op)):
            found[op.inputs('Filter')[0].name()] = int(op.attr('groups') or 1)
    return found


def _record(scope: Any, name: str, axis: int, size: int) -> list[list[int]]:
    """Return the scope's record of the positions kept along an axis, if there is one that fits its size."""
    record = record_name(name, axis)
    rows = load_array(scope, record) if has_array(scope, record) else np.zeros([0, 0])
    fits = rows.ndim == 2 and rows.shape[1] == size + 1
    return [[int(n) for n in row] for row in rows] if fits else []


def _require_parameters(graph: GraphWrapper, files: ModelFiles) -> None:
    """Raise where the model lacks a parameter of the program, or has one of another rank."""
    parameters = _parameters(graph)
    missing = [var.name() for var in parameters if var.name() not in files.arrays]
    if missing:
        raise GraphError(f'the model was saved from another network: it lacks the parameters {missing[:8]}')
    ranks = [var.name() for var in parameters if files.arrays[var.name()].ndim != len(var.shape())]
    if ranks:
        raise GraphError(f'the model was saved from another network: {ranks[:8]} have another rank')
    beyond = sorted(set(files.parameters) - {var.name() for var in parameters})
    if beyond:
        _log.warning('the program has no parameters %s; they are not loaded', ', '.join(beyond))


def _scope_of(files: ModelFiles) -> Any:
    """Return a scope of its own with the parameters and records of a model."""
    scope = new_scope()
    for name in files.parameters:
        store_array(scope, name, files.arrays[name])
    for name, record in _records(files).items():
        store_array(scope, name, record)
    return scope


def _session_and_cut(graph: GraphWrapper, saved: Any) -> tuple[PruningSession, Cut | None]:
    """Analyse a program and find the cut that gives its parameters the shapes they have in a scope.

    Raises:
        GraphError: no choice of channels does, or several do that differ.
    """
    errors = []
    for heads in ('auto', 'heads', 'dims'):
        session = PruningSession(graph.program, saved, heads=heads, outputs=list(graph.out_nodes))
        try:
            selection = session.follow_scope([])
        except GraphError as error:
            errors.append(error)
        else:
            return session, selection.cut if selection is not None else None
    raise GraphError(f'the model does not fit the program: {errors[0]}') from errors[0]


def _cut_like(graph: GraphWrapper, saved: Any) -> None:
    session, cut = _session_and_cut(graph, saved)
    if cut is not None:
        cut_graph(session.analysis, cut, session.followers)
    graph._reindex()


def _require_fit(graph: GraphWrapper, files: ModelFiles) -> None:
    """Raise where a value does not fit the program after the cut, or convolutions have other groups."""
    for var in _persistables(graph):
        array = files.arrays.get(var.name())
        if array is None:
            continue
        if array.shape != var.shape() and not _is_scalar(array.shape, var.shape()):
            raise GraphError(
                f'the model does not fit the program: {var.name()!r} has shape {list(array.shape)} in the model, where '
                f'the program needs {list(var.shape())}'
            )
        dtype = 'bfloat16' if array.dtype == np.uint16 else str(array.dtype)
        if dtype != var.dtype():
            raise GraphError(f'the model does not fit the program: {var.name()!r} is {dtype}, not {var.dtype()}')
    for name, groups in _groups(graph).items():
        if files.groups.get(name, groups) != groups:
            raise GraphError(
                f'the model does not fit the program: the convolution with {name!r} has {files.groups[name]} groups in '
                f'the model, where the program needs {groups}'
            )


def _is_scalar(*shapes: tuple[int, ...]) -> bool:
    """Tell whether all are shapes of one element: Paddle 2 and 3 differ in how they write a learning rate."""
    return all(len(shape) <= 1 and all(size == 1 for size in shape) for shape in shapes)


def _values(graph: GraphWrapper, files: ModelFiles) -> dict[str, Array]:
    """Return what the model holds of the (cut) program's persistables."""
    shapes = {var.name(): var.shape() for var in _persistables(graph) if var.name() in files.arrays}
    return {name: files.arrays[name].reshape(shape) for name, shape in shapes.items()}


def _records(files: ModelFiles) -> dict[str, Array]:
    """Return the records of kept positions, by the names of the scope variables that hold them."""
    return {
        record_name(name, axis): np.asarray(rows, dtype=np.int64)
        for name, axes in files.kept.items()
        for axis, rows in axes.items()
    }


def _stale_records(files: ModelFiles, scope: Any) -> list[str]:
    """Return the names of records in the scope that do not belong to the model."""
    names = {record_name(name, axis) for name in files.parameters for axis in range(files.arrays[name].ndim)}
    return sorted(name for name in names - set(_records(files)) if has_array(scope, name))


def _snapshot(scope: Any, names: list[str]) -> dict[str, Array | None]:
    return {name: load_array(scope, name) if has_array(scope, name) else None for name in names}


def _restore(scope: Any, snapshot: Mapping[str, Array | None], place: Any) -> None:
    """Put the old contents back, and remove what was not there."""
    for name, array in snapshot.items():
        if array is not None:
            store_array(scope, name, array, place)
        elif scope.find_var(name) is not None:
            scope.erase([name])
