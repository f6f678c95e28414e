"""Loading inference models of every format that Paddle has had, into either IR."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import (
    GraphWrapper,
    is_pir_program,
    store_array,
    translate_program,
    translate_to_pir,
)
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.runtime.model_files import PROGRAMS, ModelFiles, find_model
from paddleslim_ng.runtime.parameter_file import read_combined, read_separate
from paddleslim_ng.runtime.program_file import ReadProgram, read_program

__all__ = ['InferenceModel', 'load_inference_model', 'load_model_files', 'model_in_ir']


class InferenceModel(NamedTuple):
    """A loaded inference model; unpacks in the order of ``paddle.static.load_inference_model``.

    Attributes:
        program: program of the IR that was asked for, else of the one that the file holds.
        feeds: names of the data inputs.
        fetches: output Variables or Values of ``program``.
        scope: where its parameters are.
    """

    program: Any
    feeds: list[str]
    fetches: list[Any]
    scope: Any


def load_inference_model(
    path_prefix: str | os.PathLike[str],
    scope: Any = None,
    executor: Any = None,
    *,
    model_filename: str | None = None,
    params_filename: str | None = None,
    ir: str | None = None,
) -> InferenceModel:
    """Load an inference model: ``.pdmodel``, ``.json``, or an old folder with ``__model__``.

    Where a prefix has both formats, the one of ``ir`` is taken, or of Paddle's present mode. To run a program of an IR
    other than that of Paddle's present mode, use ``slim.Executor`` or :func:`paddleslim_ng.runtime.matching_ir`.

    Args:
        path_prefix: path without suffix; or a folder, as with Paddle, where file names are given or it has
            ``__model__``.
        scope: takes the parameters; Paddle's global scope where None.
        executor: its place is used; the CPU where None.
        model_filename: name of the program file in the folder ``path_prefix``.
        params_filename: name of the parameter file in that folder; where only ``model_filename`` is given, each
            parameter has a file of its own.
        ir: ``'pir'`` or ``'legacy'``: the program is translated where the file holds the other.

    Returns:
        Program, feed names, fetch targets and scope.

    Raises:
        DataError: a file is missing, truncated or damaged, or the files do not belong together.
        UnsupportedOpError: operators that this Paddle, or the IR asked for, does not have; all of them are listed.
        GraphError: PIR is needed on a Paddle without it.
        ConfigError: an unknown ``ir``.

    In case of an error the scope is as it was.

    Example:
        >>> model = load_inference_model('inference/model', ir='legacy')
        >>> slim.Executor().run(model.program, {model.feeds[0]: images}, model.fetches, scope=model.scope)
    """
    if ir is not None and ir not in PROGRAMS:
        raise ConfigError(f"ir must be 'pir' or 'legacy', not {ir!r}")
    files = find_model(path_prefix, model_filename, params_filename, ir)
    return load_model_files(files, scope, getattr(executor, 'place', None), ir)


def load_model_files(files: ModelFiles, scope: Any = None, place: Any = None, ir: str | None = None) -> InferenceModel:
    """Load an inference model from files that were found; see :func:`load_inference_model`."""
    read = read_program(files.program)
    arrays = {**_read_parameters(files, read), **_zeros(read)}
    program, fetches = model_in_ir(read.program, read.feeds, read.fetches, ir)
    scope = scope if scope is not None else paddle.static.global_scope()
    place = place or paddle.CPUPlace()
    for name, array in arrays.items():
        store_array(scope, name, array, place)
    return InferenceModel(program, read.feeds, fetches, scope)


def model_in_ir(program: Any, feeds: list[str], fetches: list[Any], ir: str | None) -> tuple[Any, list[Any]]:
    """Return program and fetch targets in an IR, translated where they are in the other; None leaves them."""
    if ir is None or (ir == 'pir') == is_pir_program(program):
        return program, fetches
    names = [GraphWrapper.name_of(item) for item in fetches]
    translated = (translate_to_pir if ir == 'pir' else translate_program)(program, feeds, names)
    graph = GraphWrapper(translated)
    return translated, [graph.var(name).raw for name in names]


def _read_parameters(files: ModelFiles, read: ReadProgram) -> Mapping[str, npt.NDArray[Any]]:
    if not read.state:
        return {}
    if files.parameters.is_dir():
        arrays = read_separate(files.parameters, read.state)
    elif files.parameters.is_file():
        arrays = read_combined(files.parameters, read.state)
    else:
        raise DataError(f'{files.program} has {len(read.state)} parameters, and {files.parameters} is missing')
    _check_fit(files, read, arrays)
    return arrays


def _zeros(read: ReadProgram) -> dict[str, npt.NDArray[Any]]:
    graph = GraphWrapper(read.program)
    variables = [graph.var(name) for name in read.unkept]
    return {var.name(): np.zeros([max(n, 0) for n in var.shape()], var.dtype()) for var in variables}


def _check_fit(files: ModelFiles, read: ReadProgram, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    graph = GraphWrapper(read.program)
    for name, array in arrays.items():
        if not graph.has_var(name):
            continue
        var = graph.var(name)
        dtype = {'bfloat16': 'uint16'}.get(var.dtype(), var.dtype())
        # Paddle's quantizer stores integers, and scales with axes of size one, that the program does not declare.
        wanted, found = ([n for n in shape if n != 1] for shape in (var.shape(), array.shape))
        fits = len(wanted) == len(found) and all(n in (-1, have) for n, have in zip(wanted, found))
        stored = dtype if array.dtype.kind == 'i' and dtype.startswith('float') else array.dtype.name
        if not fits or dtype != stored:
            raise DataError(
                f'{files.parameters} does not belong to {files.program}: it has {array.dtype} of shape '
                f'{list(array.shape)} where the program has the parameter {name!r}, {var.dtype()} of shape '
                f'{list(var.shape())}'
            )
