"""Teachers of a job: where they come from, and how they come into the training program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.compress.context import Context
from paddleslim_ng.core import GraphWrapper, clone_program, has_array, load_array, store_array
from paddleslim_ng.core.teachers import teacher_prefixes
from paddleslim_ng.dist import MergedTeacher, merge, strip
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.runtime import InferenceModel, data_inputs, load_inference_model

__all__ = ['input_map', 'load_teacher', 'merge_teacher', 'plain_network', 'programs_of', 'state_names', 'unused_prefix']

Arrays = Mapping[str, npt.NDArray[Any]]


def plain_network(program: Any) -> Any:
    """Return a copy of a training program as it evaluates, without teachers that it has itself."""
    if teacher_prefixes(GraphWrapper(program)):
        return strip(program, for_test=True)
    return clone_program(program, for_test=True)


def state_names(program: Any) -> list[str]:
    """Return the names of a program's parameters and of its other persistable variables."""
    graph = GraphWrapper(program)
    return [var.name() for var in graph.vars() if var.is_parameter() or var.persistable()]


def programs_of(context: Context) -> list[InferenceModel]:
    """Return the teachers that the compressor was given, each with a scope of its own, so that no parameter moves.

    Raises:
        ConfigError: there are none, or one of them has parameters in common with the network.
    """
    if not context.teacher_programs:
        raise ConfigError(
            "there are no teacher_programs: give them to the Compressor, or take teacher='original' or saved models"
        )
    mine = {var.name() for var in GraphWrapper(context.train_program).all_parameters()}
    found = []
    for number, program in enumerate(context.teacher_programs):
        evaluated = clone_program(program, for_test=True)
        shared = sorted(mine.intersection(state_names(evaluated)))
        if shared:
            raise ConfigError(
                f'teacher {number} has parameters in common with the network, such as {shared[0]!r}, and would be '
                "trained with it: give them other names, or take teacher='original' or a saved model"
            )
        names = state_names(evaluated)
        arrays = {name: load_array(context.scope, name) for name in names if has_array(context.scope, name)}
        found.append(_model(evaluated, arrays, context.place))
    return found


def load_teacher(given: Any, place: Any) -> InferenceModel:
    """Return a teacher that was given as a loaded model, or read it: a path without suffix, or what has ``model_dir``.

    Raises:
        ConfigError: it is none of these.
        DataError: the files cannot be read.
    """
    if isinstance(given, InferenceModel):
        return given
    path = given if isinstance(given, str) else getattr(given, 'model_dir', None)
    if not path:
        raise ConfigError(f'a teacher is a saved model, not {given!r}')
    return load_inference_model(
        path,
        paddle.static.Scope(),
        model_filename=getattr(given, 'model_filename', None),
        params_filename=getattr(given, 'params_filename', None),
    )


def unused_prefix(program: Any, stem: str) -> str:
    """Return a prefix with which no name in a program begins."""
    names = [var.name() for var in GraphWrapper(program).vars()]
    number, prefix = 1, f'{stem}_'
    while any(name.startswith(prefix) for name in names):
        number, prefix = number + 1, f'{stem}{number + 1}_'
    return prefix


def input_map(teacher: Any, student: Any, feed_list: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Tell which input of the network each input of a teacher stands for.

    Inputs are the same if they have the same name, or the teacher's has the readable name of the network's; the only
    input of a teacher may also be the only one of the network of its kind.

    Raises:
        GraphError: none can be told.
    """
    inputs = {var.name(): var for var in data_inputs(student)}
    readable = {label: name for label, name in feed_list if name in inputs}
    theirs = data_inputs(teacher)
    found = {}
    for var in theirs:
        name = var.name() if var.name() in inputs else readable.get(var.name())
        if name is not None:
            found[var.name()] = name
    if not found and len(theirs) == 1:
        kind = (theirs[0].dtype(), len(theirs[0].shape()))
        alike = [name for name, var in inputs.items() if (var.dtype(), len(var.shape())) == kind]
        if len(alike) == 1:
            found = {theirs[0].name(): alike[0]}
    if not found:
        raise GraphError(
            f'the teacher has the inputs {[var.name() for var in theirs]} and the network {list(inputs)}: give '
            'them the same names'
        )
    return found


def merge_teacher(
    teacher: InferenceModel, program: Any, prefix: str, context: Context, *, again: bool
) -> MergedTeacher:
    """Copy a teacher into a training program without optimizer.

    Args:
        teacher: its scope stays as it is.
        program: changed in place.
        prefix: for the teacher's names.
        context: the job.
        again: a job goes on: what the teacher knows is in the scope under the prefix or, where it has left the program
            since, counts for nothing.
    """
    inputs = input_map(teacher.program, program, context.train_feed_list)
    if again:
        teacher = _from_scope(teacher, prefix, context)
    return merge(teacher, program, inputs, context.place, context.scope, teacher.scope, prefix, check=not again)


def _from_scope(teacher: InferenceModel, prefix: str, context: Context) -> InferenceModel:
    graph, arrays = GraphWrapper(teacher.program), {}
    for name in state_names(teacher.program):
        var, merged = graph.var(name), prefix + name
        if has_array(context.scope, merged):
            arrays[name] = load_array(context.scope, merged)
        elif has_array(teacher.scope, name):
            arrays[name] = load_array(teacher.scope, name)
        else:
            arrays[name] = np.zeros([abs(size) for size in var.shape()], var.dtype())
    return _model(teacher.program, arrays, context.place)


def _model(program: Any, arrays: Arrays, place: Any) -> InferenceModel:
    scope = paddle.static.Scope()
    for name, array in arrays.items():
        store_array(scope, name, array, place)
    return InferenceModel(program, [var.name() for var in data_inputs(program)], [], scope)
