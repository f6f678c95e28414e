"""Inference models on disk, in either format, proved to compute what the program computes."""

from __future__ import annotations

import filecmp
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

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper, clone_program
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError
from paddleslim_ng.runtime.atomic import publish_together
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.inference_outputs import inference_outputs
from paddleslim_ng.runtime.model_files import PARAMETERS, PROGRAMS, ModelFiles, find_model, model_files
from paddleslim_ng.runtime.model_loading import InferenceModel, load_inference_model, load_model_files, model_in_ir
from paddleslim_ng.runtime.model_requirements import check_requirements
from paddleslim_ng.runtime.model_writing import write_model

__all__ = [
    'InferenceModel',
    'SavedModel',
    'convert_model',
    'load_inference_model',
    'model_files',
    'save_inference_model',
]

_FORMATS = {'json': 'pir', 'pdmodel': 'legacy'}
_OTHER = {'pir': 'legacy', 'legacy': 'pir'}


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

    def __str__(self) -> str:
        told = '' if self.difference is None else f'; reloaded, outputs differ by {self.difference:.3g} at most'
        return f'{self.program_file}: {self.file_bytes:,} bytes{told}'


def save_inference_model(
    program: Any,
    path_prefix: str | os.PathLike[str],
    feeds: Iterable[Any],
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    executor: Any = None,
    *,
    format: str | None = None,
    check: bool = True,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
    tolerance: float = 1e-5,
) -> SavedModel:
    """Save the part of a program that leads from ``feeds`` to ``fetches``, with its parameters, and reload it.

    Training programs are cut to their forward part in test mode; a merged teacher and the losses against it stay
    behind. The files are written and checked in a temporary folder and moved into place afterwards, so a failure leaves
    an older model of that name as it was.

    Args:
        program: a program of either IR, or a GraphWrapper.
        path_prefix: path without suffix; the folder is created.
        feeds: names, Variables or Values of the data inputs.
        fetches: names, Variables or Values of the outputs. Where None: a loaded model's own outputs; else the results
            computed from ``feeds`` alone that no operator reads; else, in an evaluation program, the one variable that
            its loss and metrics start from.
        scope: holds the parameters; Paddle's global scope where None.
        executor: its place is used; the CPU where None.
        format: ``'json'`` (PIR) or ``'pdmodel'`` (legacy, for Paddle Lite and Paddle 2); that of the program's IR where
            None. A program of the other IR is translated.
        check: run program and reloaded model on the same feed and compare.
        feed: arrays for that run; made up where missing.
        tolerance: largest difference allowed, as a fraction of the largest absolute output.

    Returns:
        The files and the figures of the check.

    Raises:
        GraphError: an unknown feed or fetch, a needed input missing in ``feeds``, a parameter missing in the scope, or
            a fetch that depends on a merged teacher; without ``fetches``, outputs that cannot be told.
        UnsupportedOpError: operators that the format does not have; all of them are listed.
        ConfigError: an unknown format.
        DataError: the program cannot run on the feed of the check, or the files cannot be written.
        EquivalenceError: the reloaded model computes something else.
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    scope = scope if scope is not None else paddle.static.global_scope()
    if format is not None and format not in _FORMATS:
        raise ConfigError(f"format must be 'json' or 'pdmodel', not {format!r}")
    with matching_ir(source):
        graph = GraphWrapper(clone_program(source, for_test=True))
        feed_vars = [graph.var(item) for item in feeds]
        if fetches is None:
            fetch_vars = inference_outputs(GraphWrapper(source), graph, [var.name() for var in feed_vars])
        else:
            fetch_vars = [graph.var(item) for item in fetches]
        check_requirements(graph, feed_vars, fetch_vars, scope)
        ir = _FORMATS[format] if format else graph.ir
        part = model_in_ir(graph.program, [var.name() for var in feed_vars], [var.raw for var in fetch_vars], ir)
    model = InferenceModel(part[0], [var.name() for var in feed_vars], part[1], scope)
    place = getattr(executor, 'place', None) or paddle.CPUPlace()
    prefix = Path(path_prefix)
    target = ModelFiles(*(prefix.with_name(prefix.name + suffix) for suffix in (PROGRAMS[ir], PARAMETERS)))
    with _temporary_folder(prefix) as folder:
        expected = _expected(graph, fetch_vars, feed, scope, place) if check else None
        written = ModelFiles(folder / target.program.name, folder / target.parameters.name)
        write_model(model, written)
        figures = _compare(folder / prefix.name, expected, place, tolerance) if expected else (None, None)
        _check_neighbour(written, target, ir)
        publish_together([(written.parameters, target.parameters), (written.program, target.program)])
    return SavedModel(target.program, target.parameters, *figures)


@contextmanager
def _temporary_folder(prefix: Path) -> Iterator[Path]:
    """Yield a folder beside the files to be; what the disk refuses inside is a DataError."""
    folder = prefix.with_name(f'.{prefix.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp')
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
    except OSError as error:
        raise DataError(f'cannot write the inference model {prefix}: {error.strerror or error}') from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_neighbour(written: ModelFiles, target: ModelFiles, ir: str) -> None:
    """Refuse to give the model of the other format, which has the same name, parameters that are not its own."""
    other = target.program.with_name(target.parameters.name[: -len(PARAMETERS)] + PROGRAMS[_OTHER[ir]])
    if not (other.is_file() and target.parameters.is_file()):
        return
    if not filecmp.cmp(written.parameters, target.parameters, shallow=False):
        raise DataError(
            f'{other} exists and reads {target.parameters}, whose content would change under it: remove it, or save '
            'under another name'
        )


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
        unequal = before != after
        if not unequal.any():
            continue
        gap = float(np.max(np.abs(before[unequal].astype('float64') - after[unequal].astype('float64'))))
        scale = float(np.max(np.abs(before.astype('float64'))))
        difference, relative = max(difference, gap), max(relative, gap / scale if scale else gap)
    if not relative <= tolerance:
        raise EquivalenceError(
            f'the reloaded model differs from the program by {difference:.3g}, {relative:.3g} of the scale of the '
            f'outputs (allowed: {tolerance:.3g}); nothing was saved'
        )
    return difference, relative


def convert_model(
    source_prefix: str | os.PathLike[str],
    target_prefix: str | os.PathLike[str],
    *,
    format: str,
    model_filename: str | None = None,
    params_filename: str | None = None,
    check: bool = True,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
    tolerance: float = 1e-5,
) -> SavedModel:
    """Convert a saved inference model to another format: ``.json`` to ``.pdmodel``, back, or an old folder to either.

    Args:
        source_prefix: path without suffix, or a folder, as for :func:`load_inference_model`.
        target_prefix: path without suffix of the new files; it may be ``source_prefix``.
        format: ``'json'`` or ``'pdmodel'``.
        model_filename: name of the program file in the folder ``source_prefix``.
        params_filename: name of the parameter file in that folder.
        check: run both models on the same feed and compare.
        feed: arrays for that run; made up where missing.
        tolerance: largest difference allowed, as a fraction of the largest absolute output.

    Returns:
        The files and the figures of the check.

    Raises:
        DataError: a file is missing or damaged, or the new ones cannot be written.
        UnsupportedOpError: operators that the format does not have; all of them are listed.
        GraphError: PIR is needed on a Paddle without it.
        ConfigError: an unknown format.
        EquivalenceError: the new model computes something else.

    Example:
        >>> convert_model('inference/model', 'mobile/model', format='pdmodel')
    """
    if format not in _FORMATS:
        raise ConfigError(f"format must be 'json' or 'pdmodel', not {format!r}")
    files = find_model(source_prefix, model_filename, params_filename, _OTHER[_FORMATS[format]])
    model = load_model_files(files, paddle.static.Scope())
    return save_inference_model(
        model.program,
        target_prefix,
        model.feeds,
        model.fetches,
        model.scope,
        format=format,
        check=check,
        feed=feed,
        tolerance=tolerance,
    )
