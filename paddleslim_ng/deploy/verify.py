"""Proving that a file computes what the program computes that it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, cut_program, is_legacy_program, is_pir_program
from paddleslim_ng.deploy.model_source import check_feeds
from paddleslim_ng.deploy.runtimes import RunOptions, Runtime, artifact_file, runtime_of
from paddleslim_ng.deploy.verification import Verification, compare_outputs
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError
from paddleslim_ng.runtime.feeds import data_inputs
from paddleslim_ng.runtime.inference_model import InferenceModel
from paddleslim_ng.runtime.model_files import PROGRAMS, ModelFiles, find_model
from paddleslim_ng.runtime.model_loading import load_model_files

__all__ = ['as_reference', 'files_of', 'verify']

_FLOAT_TOLERANCE = 1e-4
_LOSSY_TOLERANCE = 0.1


def verify(
    artifact: Any,
    feeds: Mapping[str, npt.NDArray[Any]],
    reference: Any = None,
    *,
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    predictors: int = 3,
    tolerance: float | None = None,
    interpreter: str | os.PathLike[str] | None = None,
    threads: int = 1,
    timeout: float = 120.0,
    check: bool = True,
) -> Verification:
    """Compare what a file computes with what Paddle's executor computes, on the same feeds.

    Every predictor is loaded in a process of its own. Compare logits: the softmax of a random or a very sure network
    hides most errors. Of a file for a device that this machine is not (``.nb`` for Arm, OpenCL, ...) only the structure
    is read, and the result says ``executed=False``.

    Args:
        artifact: what :func:`paddleslim_ng.deploy.to_lite` returned, a ``.nb`` file, or a saved model of either format
            (path of the program file, or without suffix).
        feeds: ``{input name: array}``.
        reference: a program, an InferenceModel, or the path prefix of a saved model; None for the model that
            ``to_lite`` converted.
        fetches: outputs, where the reference is a program.
        scope: parameters, where the reference is a program; Paddle's global scope where None.
        predictors: fresh predictors that must agree.
        tolerance: largest difference between predictors, and from the reference, as a fraction of the largest absolute
            output; None means 1e-4, or 0.1 for a file with int8 or fp16 kernels.
        interpreter: a Python with Paddle Lite; found where None.
        threads: threads of the kernels.
        timeout: seconds that loading, or one run, may take.
        check: raise where something is wrong, rather than only say so in the result.

    Returns:
        The figures and what is wrong; ``print`` it for a report.

    Raises:
        ConfigError: no reference, or an argument out of range.
        DataError: a missing file, or feeds of a wrong name, shape or element type; nothing has been run then.
        CheckpointError: the file is truncated or damaged.
        DeployError: the runtime crashed, or none is there.
        EquivalenceError: outputs are not finite, constant, unstable, of another shape, or too far from the reference's.

    Example:
        >>> slim.deploy.verify('net.nb', {'image': images}, reference='model/net')
    """
    if predictors < 1 or threads < 1 or (tolerance is not None and tolerance < 0):
        raise ConfigError('verify needs predictors >= 1, threads >= 1 and tolerance >= 0')
    remembered = getattr(artifact, 'reference', None)
    path = artifact_file(getattr(artifact, 'file', artifact))
    model = as_reference(remembered if reference is None else reference, feeds, fetches, scope)
    check_feeds(model, feeds)
    strangers = sorted(set(feeds).difference(model.feeds))
    if strangers:
        raise DataError(f'the reference has no input {strangers}; it has {list(model.feeds)}')
    runtime = runtime_of(path)
    allowed = tolerance if tolerance is not None else _LOSSY_TOLERANCE if runtime.lossy(path) else _FLOAT_TOLERANCE
    obstacle = runtime.obstacle(path)
    if obstacle:
        note = f'structure verified, not executed: {obstacle}'
        return Verification(path, runtime.name, False, None, allowed, notes=(note,))
    options = RunOptions(interpreter, threads, timeout)
    result = _execute(path, runtime, model, feeds, options, predictors, allowed)
    if check:
        result.raise_for_failure()
    return result


def _execute(
    path: Path,
    runtime: Runtime,
    model: InferenceModel,
    feeds: Mapping[str, npt.NDArray[Any]],
    options: RunOptions,
    predictors: int,
    tolerance: float,
) -> Verification:
    """Run the reference and the file, and compare."""
    arrays = {name: np.ascontiguousarray(feeds[name]) for name in model.feeds}
    expected = _run_reference(model, arrays)
    runs = [runtime.outputs(path, arrays, options) for _ in range(predictors)]
    shapes = [list(array.shape) for array in expected]
    for outputs in runs:
        found = [list(array.shape) for array in outputs]
        if found != shapes:
            raise EquivalenceError(f'{path.name} gives outputs of shapes {found}, and the reference {shapes}')
    figures = compare_outputs(expected, runs)
    notes = ('the outputs are those of a softmax, which hides errors: compare logits',) if _ends_soft(model) else ()
    return Verification(path, runtime.name, True, figures, tolerance, figures.failures(tolerance), notes)


def _run_reference(model: InferenceModel, arrays: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    try:
        outputs = Executor().run(model.program, feed=dict(arrays), fetch_list=model.fetches, scope=model.scope)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        raise DataError(
            f'the reference cannot run on feeds of shapes {shapes}: give feeds that suit it (to_lite: feed=..., or '
            f'check=False). Paddle says: {str(error).strip().splitlines()[-1]}'
        ) from error
    return [np.asarray(array) for array in outputs]


def _ends_soft(model: InferenceModel) -> bool:
    """Tell whether an output is a softmax, perhaps behind the ``scale`` by one that Paddle 2.6 adds when it saves."""
    graph = GraphWrapper(model.program)
    makers = [op for fetch in model.fetches for op in graph.var(fetch).inputs()]
    behind = [maker for op in makers if op.type() == 'scale' for var in op.inputs('X') for maker in var.inputs()]
    return any(op.type() == 'softmax' for op in (*makers, *behind))


def files_of(path: Path) -> ModelFiles:
    """Find a saved model by its path without suffix, by its program file, or by the folder of a Paddle 1 model.

    Raises:
        DataError: a file is missing.
    """
    formats = {suffix: ir for ir, suffix in PROGRAMS.items()}
    if path.suffix in formats:
        return find_model(path.with_suffix(''), prefer=formats[path.suffix])
    return find_model(path)


def as_reference(
    reference: Any,
    feeds: Iterable[str],
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
) -> InferenceModel:
    """Return a reference, in any of the forms that :func:`verify` takes, as a model that can be run.

    Raises:
        ConfigError: there is none, it is a program without fetches, or it is something else.
        DataError: a file is missing.
        GraphError: the outputs cannot be computed from the feeds.
    """
    if reference is None:
        raise ConfigError(
            'say with reference=... what the file is to be compared with: a program, an InferenceModel or a path '
            'prefix. Only the result of to_lite remembers what it was made from'
        )
    if isinstance(reference, InferenceModel):
        return reference
    if isinstance(reference, (str, os.PathLike)):
        return load_model_files(files_of(Path(reference)), paddle.static.Scope())
    program = getattr(reference, 'program', reference)
    if not (is_legacy_program(program) or is_pir_program(program)):
        raise ConfigError(f'a reference is a program, an InferenceModel or a path, not {type(reference).__name__}')
    if fetches is None:
        raise ConfigError('say with fetches=[...] which outputs of the program are to be compared')
    names = [GraphWrapper.name_of(fetch) for fetch in fetches]
    known = {var.name() for var in data_inputs(program)}
    inputs = [name for name in feeds if name in known]
    part = cut_program(clone_program(program, for_test=True), inputs, names)
    graph = GraphWrapper(part)
    return InferenceModel(
        part,
        inputs,
        [graph.var(name).raw for name in names],
        scope if scope is not None else paddle.static.global_scope(),
    )
