"""Inference models on disk, in the format of the program's IR, proved to compute what the program computes."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper, clone_program, has_array, shape_of
from paddleslim_ng.core.ir_mode import ir_mode, matching_ir
from paddleslim_ng.core.translate import translate_program
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError, GraphError
from paddleslim_ng.runtime.atomic import publish
from paddleslim_ng.runtime.feeds import data_inputs, synthesize_feeds

__all__ = ['InferenceModel', 'SavedModel', 'load_inference_model', 'model_files', 'save_inference_model']

_PARAMETERS = '.pdiparams'
_PROGRAMS = {'pir': '.json', 'legacy': '.pdmodel'}
_NOT_TENSORS = frozenset({'feed', 'fetch'})


class InferenceModel(NamedTuple):
    """A loaded inference model; unpacks in the order of ``paddle.static.load_inference_model``.

    Attributes:
        program: program of the IR that the file holds.
        feeds: names of the data inputs.
        fetches: output Variables or Values of ``program``.
        scope: where its parameters are.
    """

    program: Any
    feeds: list[str]
    fetches: list[Any]
    scope: Any


@dataclass(frozen=True)
class SavedModel:
    """What :func:`save_inference_model` wrote.

    Attributes:
        program_file: ``.json`` (PIR) or ``.pdmodel`` (legacy).
        parameter_file: ``.pdiparams``.
        difference: largest absolute difference between the outputs of the program and of the reloaded model; None
            where this was not checked.
        relative_difference: the same, as a fraction of the largest absolute output.
    """

    program_file: Path
    parameter_file: Path
    difference: float | None = None
    relative_difference: float | None = None

    @property
    def file_bytes(self) -> int:
        """Size of both files together."""
        return self.program_file.stat().st_size + self.parameter_file.stat().st_size


def save_inference_model(
    program: Any,
    path_prefix: str | os.PathLike[str],
    feeds: Iterable[Any],
    fetches: Iterable[Any],
    scope: Any = None,
    executor: Any = None,
    *,
    format: str | None = None,
    check: bool = True,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
    tolerance: float = 1e-5,
) -> SavedModel:
    """Save the part of a program that leads from ``feeds`` to ``fetches``, with its parameters, and reload it.

    Training programs are cut to their forward part in test mode. The files are written and checked in a temporary
    folder and moved into place afterwards, so a failure leaves an older model of that name as it was.

    Args:
        program: a program of either IR, or a GraphWrapper.
        path_prefix: path without suffix; the folder is created.
        feeds: names, Variables or Values of the data inputs.
        fetches: names, Variables or Values of the outputs.
        scope: holds the parameters; Paddle's global scope where None.
        executor: its place is used; the CPU where None.
        format: ``'json'`` (PIR) or ``'pdmodel'`` (legacy); that of the program's IR where None.
        check: run program and reloaded model on the same feed and compare.
        feed: arrays for that run; made up where missing.
        tolerance: largest difference allowed, as a fraction of the largest absolute output.

    Returns:
        The files and the figures of the check.

    Raises:
        GraphError: an unknown feed or fetch, a needed input missing in ``feeds``, or a parameter missing in the scope.
        DataError: the program cannot run on the feed of the check.
        EquivalenceError: the reloaded model computes something else.
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    scope = scope if scope is not None else paddle.static.global_scope()
    graph = GraphWrapper(clone_program(source, for_test=True))
    feed_vars = [graph.var(item) for item in feeds]
    fetch_vars = [graph.var(item) for item in fetches]
    _check_inputs(graph, feed_vars, fetch_vars, scope)
    saved, saved_feeds, saved_fetches = _in_format(graph, feed_vars, fetch_vars, format)
    place = getattr(executor, 'place', None) or paddle.CPUPlace()
    prefix = Path(path_prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(prefix) as folder:
        expected = _expected(graph, fetch_vars, feed, scope, place) if check else None
        with matching_ir(saved.program), paddle.static.scope_guard(scope):
            paddle.static.save_inference_model(
                str(folder / prefix.name),
                [var.raw for var in saved_feeds],
                [var.raw for var in saved_fetches],
                paddle.static.Executor(place),
                program=saved.program,
            )
        figures = _compare(folder / prefix.name, expected, place, tolerance) if expected else (None, None)
        target = [prefix.with_name(prefix.name + suffix) for suffix in (_PROGRAMS[saved.ir], _PARAMETERS)]
        for path in reversed(target):
            publish(folder / path.name, path)
    return SavedModel(target[0], target[1], *figures)


def _in_format(
    graph: GraphWrapper, feeds: list[VarWrapper], fetches: list[VarWrapper], format: str | None
) -> tuple[GraphWrapper, list[VarWrapper], list[VarWrapper]]:
    """Return program, feeds and fetches in the IR of the format."""
    suffix = _PROGRAMS[graph.ir] if format is None else f'.{format}'
    if suffix not in _PROGRAMS.values():
        raise ConfigError(f"format must be 'json' or 'pdmodel', not {format!r}")
    if suffix == _PROGRAMS[graph.ir]:
        return graph, feeds, fetches
    if graph.ir == 'legacy':
        raise GraphError('a legacy program is saved as pdmodel')
    legacy = GraphWrapper(translate_program(graph, feeds, fetches))
    return legacy, [legacy.var(var.name()) for var in feeds], [legacy.var(var.name()) for var in fetches]


@contextmanager
def _temporary_folder(prefix: Path) -> Iterator[Path]:
    folder = prefix.with_name(f'.{prefix.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp')
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_inputs(graph: GraphWrapper, feeds: list[VarWrapper], fetches: list[VarWrapper], scope: Any) -> None:
    """Raise before anything is written: every input and parameter that the outputs depend on must be there."""
    if not fetches:
        raise GraphError('an inference model needs at least one output: fetches is empty')
    known = {var.name() for var in data_inputs(graph)}
    strangers = [var.name() for var in feeds if var.name() not in known and not var.is_data]
    if strangers:
        raise GraphError(f'{strangers} are not data inputs of the program; it has {sorted(known)}')
    needed = _ancestors(fetches)
    missing = sorted(known.intersection(needed).difference(var.name() for var in feeds))
    if missing:
        raise GraphError(f'the outputs depend on the data inputs {missing}: add them to feeds')
    absent = [
        name
        for name, var in needed.items()
        if var.persistable() and name not in _NOT_TENSORS and not has_array(scope, name)
    ]
    if absent:
        raise GraphError(f'the scope has no value for {absent}: run the startup program or load the parameters first')
    unfit = [
        f'{name} {list(shape_of(scope, name))} instead of {list(var.shape())}'
        for name, var in needed.items()
        if var.is_parameter() and shape_of(scope, name) != var.shape()
    ]
    if unfit:
        raise GraphError(
            f'the scope does not fit the program: {", ".join(unfit[:5])}; where it has been pruned, '
            'save the pruned program'
        )


def _ancestors(targets: list[VarWrapper]) -> dict[str, VarWrapper]:
    found: dict[str, VarWrapper] = {}
    queue = list(targets)
    while queue:
        var = queue.pop()
        if var.name() not in found:
            found[var.name()] = var
            queue.extend(source for op in var.inputs() for source in op.all_inputs())
    return found


class _Expected(NamedTuple):
    """Feed and outputs of the program before it was saved."""

    feed: dict[str, npt.NDArray[Any]]
    outputs: list[npt.NDArray[Any]]


def _expected(
    graph: GraphWrapper,
    fetches: list[VarWrapper],
    given: Mapping[str, npt.NDArray[Any]] | None,
    scope: Any,
    place: Any,
) -> _Expected:
    batch = next((len(array) for array in (given or {}).values() if np.ndim(array)), 2)
    feed = {**synthesize_feeds(graph, batch=batch), **(given or {})}
    try:
        outputs = Executor(place).run(graph.program, feed=feed, fetch_list=fetches, scope=scope)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(array.shape) for name, array in feed.items()}
        raise DataError(
            f'the program cannot run on a feed of shapes {shapes}: pass a feed that suits it, or check=False'
        ) from error
    return _Expected(feed, [np.asarray(output) for output in outputs])


def _compare(prefix: Path, expected: _Expected, place: Any, tolerance: float) -> tuple[float, float]:
    model = load_inference_model(prefix, scope=paddle.static.Scope(), executor=paddle.static.Executor(place))
    feed = {name: expected.feed[name] for name in model.feeds}
    outputs = Executor(place).run(model.program, feed=feed, fetch_list=model.fetches, scope=model.scope)
    difference = relative = 0.0
    for before, after in zip(expected.outputs, map(np.asarray, outputs)):
        if before.shape != after.shape:
            raise EquivalenceError(
                f'the reloaded model gives shape {after.shape} where the program gives {before.shape}'
            )
        if not before.size:
            continue
        gap = float(np.max(np.abs(before.astype('float64') - after.astype('float64'))))
        scale = float(np.max(np.abs(before.astype('float64'))))
        difference, relative = max(difference, gap), max(relative, gap / scale if scale else gap)
    if not relative <= tolerance:
        raise EquivalenceError(
            f'the reloaded model differs from the program by {difference:.3g}, {relative:.3g} of the scale of the '
            f'outputs (allowed: {tolerance:.3g}); nothing was saved'
        )
    return difference, relative


def load_inference_model(
    path_prefix: str | os.PathLike[str], scope: Any = None, executor: Any = None
) -> InferenceModel:
    """Load an inference model of either format; the program has the IR that the file holds.

    Where a prefix has both files, the one of Paddle's present mode is taken. To run the program of a format other than
    Paddle's present mode, use :func:`paddleslim_ng.runtime.matching_ir`.

    Args:
        path_prefix: path without suffix.
        scope: takes the parameters; Paddle's global scope where None.
        executor: its place is used; the CPU where None.

    Returns:
        Program, feed names, fetch targets and scope.

    Raises:
        DataError: a file is missing.
        GraphError: a ``.json`` model on a Paddle without PIR.
    """
    program_file, _ = model_files(path_prefix)
    scope = scope if scope is not None else paddle.static.global_scope()
    place = getattr(executor, 'place', None) or paddle.CPUPlace()
    with ir_mode(program_file.suffix == _PROGRAMS['pir']), paddle.static.scope_guard(scope):
        loaded = paddle.static.load_inference_model(os.fspath(path_prefix), paddle.static.Executor(place))
    program, feeds, fetches = loaded
    return InferenceModel(program, list(feeds), list(fetches), scope)


def model_files(path_prefix: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the program file and the parameter file of an inference model.

    Where there are several program files, the one of Paddle's present mode comes first.

    Raises:
        DataError: a file is missing; the message lists what was looked for.
    """
    from paddleslim_ng.core.paddle_compat import in_pir_mode

    prefix = Path(path_prefix)
    suffixes = sorted(_PROGRAMS.values(), key=lambda suffix: (suffix == _PROGRAMS['pir']) != in_pir_mode())
    candidates = [prefix.with_name(prefix.name + suffix) for suffix in suffixes]
    parameters = prefix.with_name(prefix.name + _PARAMETERS)
    program = next((path for path in candidates if path.is_file()), None)
    if program is None or not parameters.is_file():
        wanted = f'{candidates[0]} or {candidates[1].name}' if program is None else str(parameters)
        raise DataError(f'there is no inference model {os.fspath(path_prefix)!r}: {wanted} is missing')
    return program, parameters
