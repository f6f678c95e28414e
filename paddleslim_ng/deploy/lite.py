"""From a program or a saved model to a ``.nb`` file that Paddle Lite runs on the device."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, paddle_compat
from paddleslim_ng.core.channel_biases import flatten_biases
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.deploy.legalize import legalize
from paddleslim_ng.deploy.lite_convert import ConvertJob, convert
from paddleslim_ng.deploy.lite_options import PRECISIONS, TARGETS, check_options
from paddleslim_ng.deploy.lite_result import LiteModel, check_kernels, find_warnings
from paddleslim_ng.deploy.lite_sparsity import SparseLayer, sparse_layers, sparsity_warnings
from paddleslim_ng.deploy.model_source import ModelFiles, is_quantized, saved_files
from paddleslim_ng.deploy.nb import NbFile, read_nb
from paddleslim_ng.deploy.runtimes import runtime_of
from paddleslim_ng.deploy.verification import Verification
from paddleslim_ng.deploy.verify import files_of, verify
from paddleslim_ng.errors import CheckpointError, DataError, DeployError
from paddleslim_ng.runtime.atomic import publish
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.inference_model import InferenceModel
from paddleslim_ng.runtime.model_files import PARAMETERS, PROGRAMS
from paddleslim_ng.runtime.parameter_file import read_combined, write_combined

__all__ = ['to_lite']

_LOG = logging.getLogger('paddleslim_ng')


@dataclass(frozen=True)
class _Request:
    """The options of one conversion."""

    target: str
    precision: str
    sparse: float | None
    interpreter: str | os.PathLike[str] | None
    opt: str | os.PathLike[str] | None
    timeout: float


def to_lite(
    model: Any,
    out: str | os.PathLike[str],
    target: str = 'arm',
    precision: str = 'fp32',
    sparse: float | None = None,
    *,
    feeds: Iterable[Any] | None = None,
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    interpreter: str | os.PathLike[str] | None = None,
    opt: str | os.PathLike[str] | None = None,
    check: bool = True,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
    timeout: float = 600.0,
) -> LiteModel:
    """Convert a model into Paddle Lite's ``.nb``, read the file back, and check that it is what was asked for.

    PIR models are translated first, what the converter cannot take is rewritten (:mod:`paddleslim_ng.deploy.legalize`),
    and the converter runs in a process of its own. The file appears under its name when everything is checked; a
    failure leaves an older file of that name as it was.

    Args:
        model: a program of either IR, an InferenceModel, or a saved model of either format: its path without suffix,
            its program file, or a folder that holds one.
        out: the file to write; ``.nb`` is added where missing, and the folder is made.
        target: device, one of :data:`paddleslim_ng.deploy.lite_options.TARGETS`: ``'arm'``, ``'x86'``, ``'opencl'``,
            ``'metal'``, ... What the device lacks runs on its Arm (or x86) processor.
        precision: ``'fp32'``; ``'fp16'`` (Arm kernels); ``'int8'`` (of a quantized model); or ``'int8_storage'`` and
            ``'int16_storage'``, which shrink the file and compute in float.
        sparse: share of zeros from which a 1x1 convolution gets a sparse kernel (Arm), between 0 and 1.
        feeds: inputs, where the model is a program; None for all that the outputs need.
        fetches: outputs, where the model is a program. Give logits: softmax hides differences.
        scope: parameters, where the model is a program; Paddle's global scope where None.
        interpreter: a Python with Paddle Lite; found where None.
        opt: another converter, an ``opt`` or ``paddle_lite_opt`` executable, such as one that fits the library on the
            device.
        check: run an x86 file and compare it with the model, see :func:`paddleslim_ng.deploy.verify`.
        feed: arrays for that run; made up where missing.
        timeout: seconds that the converter may take.

    Returns:
        The file with its kernels, sizes and warnings; ``print`` it for a report.

    Raises:
        ConfigError: an unknown target or precision, an impossible threshold, or something that is no model.
        DataError: a missing or damaged file of the model.
        UnsupportedOpError: operators that cannot be translated from PIR.
        GraphError: the program cannot be saved.
        DeployError: no converter, it failed (with its last words), the file lacks what was asked for, int8 of a model
            that is not quantized, or the folder cannot be written.
        EquivalenceError: the file computes something else than the model.

    Example:
        >>> print(slim.deploy.to_lite('model/mobilenet', 'mobilenet.nb', 'arm'))
    """
    check_options(target, precision, sparse)
    request = _Request(target, precision, sparse, interpreter, opt, timeout)
    path = Path(out) if Path(out).suffix == '.nb' else Path(f'{os.fspath(out)}.nb')
    path = path.parent.resolve() / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent))
    except OSError as error:
        raise DeployError(f'cannot write {path}: {error}') from error
    try:
        files, reference = _source(model, folder, feeds, fetches, scope)
        result = _convert(files, reference, folder, path, request, feed, check)
        publish(folder / path.name, path)
    except OSError as error:
        raise DeployError(f'cannot write {path}: {error}') from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for text in result.warnings:
        _LOG.warning('%s: %s', path.name, text)
    return result


def _source(
    model: Any, folder: Path, feeds: Iterable[Any] | None, fetches: Iterable[Any] | None, scope: Any
) -> tuple[ModelFiles, Any]:
    """Return the model's files, those of a program saved into ``folder``, and what a later verification compares with.

    A program may change after the conversion, so the reference is what was saved of it.
    """
    if isinstance(model, (str, os.PathLike)):
        path = _named(Path(model))
        return saved_files(files_of(path), folder / 'source'), path
    names = None if feeds is None else [GraphWrapper.name_of(item) for item in feeds]
    files = saved_files(model, folder / 'source', feeds=names, fetches=fetches, scope=scope)
    return files, files.load()


def _named(path: Path) -> Path:
    """Return the path, or the only saved model in it where it is a folder with models of Paddle 2 or 3."""
    if not path.is_dir() or path.with_name(path.name + PARAMETERS).is_file():
        return path
    found = sorted({item.with_suffix('') for item in path.iterdir() if item.suffix in PROGRAMS.values()})
    if len(found) > 1:
        raise DataError(f'the folder {path} holds the models {[item.name for item in found]}: name one, without suffix')
    return found[0] if found else path


def _convert(
    files: ModelFiles,
    reference: Any,
    folder: Path,
    target: Path,
    request: _Request,
    feed: Mapping[str, npt.NDArray[Any]] | None,
    check: bool,
) -> LiteModel:
    """Write the ``.nb`` into ``folder`` under the name of ``target``, and look into it."""
    legacy = files.as_pdmodel(folder / 'legacy')
    program = _read_program(legacy.program)
    _check_quantization(program, request)
    parameters = read_combined(legacy.parameters, _parameter_names(program))
    flattened = flatten_biases(GraphWrapper(program), parameters.__getitem__)
    changes = legalize(program, stored=PRECISIONS[request.precision].storage is not None)
    changes['channel_biases'] += flattened.additions
    legal, weights = folder / 'legal.pdmodel', legacy.parameters
    legal.write_bytes(program.desc.serialize_to_string())
    if flattened.arrays:
        weights = folder / 'legal.pdiparams'
        write_combined(weights, {**parameters, **flattened.arrays})
    nb = _run_converter(legal, weights, folder / target.stem, request, request.sparse)
    check_kernels(nb, request.target, request.precision, request.sparse)
    dense: int | None = None
    layers: tuple[SparseLayer, ...] = ()
    if request.sparse is not None:
        layers = sparse_layers(program, parameters, request.sparse)
        dense = _run_converter(legal, weights, folder / 'dense', request, None).file_bytes
    verification = _verify(nb.path, reference, files, request, feed) if check else None
    return LiteModel(
        file=target,
        target=request.target,
        precision=request.precision,
        nb=replace(nb, path=target),
        source_bytes=legacy.program.stat().st_size + legacy.parameters.stat().st_size,
        changes=changes,
        warnings=(
            *find_warnings(nb, program, request.target, request.precision, dense),
            *(sparsity_warnings(layers, len(nb.sparse_kernels)) if request.sparse is not None else ()),
        ),
        verification=verification and replace(verification, file=target),
        reference=reference,
        sparse_layers=layers,
    )


def _read_program(path: Path) -> Any:
    """Parse a ``.pdmodel`` file.

    Raises:
        DataError: it is truncated or damaged.
    """
    try:
        with ir_mode(pir=False):
            return paddle_compat.LegacyProgram.parse_from_string(path.read_bytes())
    except (ValueError, RuntimeError) as error:
        raise DataError(f'{path} is truncated, damaged or no program: Paddle cannot parse it') from error


def _parameter_names(program: Any) -> list[str]:
    """Return the names of the tensors that the parameter file of an inference program holds."""
    return [var.name() for var in GraphWrapper(program).vars() if var.persistable()]


def _check_quantization(program: Any, request: _Request) -> None:
    """Check that int8 kernels are asked of a quantized model, and of no other."""
    quantized = is_quantized(program)
    if PRECISIONS[request.precision].quantized and not quantized:
        raise DeployError(
            "precision='int8' needs a quantized model, and this one is float: quantize it first (calibration after "
            "training, or training with quantization). precision='int8_storage' only shrinks the file"
        )
    if quantized and not PRECISIONS[request.precision].quantized:
        raise DeployError(
            f"the model is quantized, and {request.precision!r} was asked for: take precision='int8', or the model "
            'from before the quantization'
        )


def _run_converter(program: Path, parameters: Path, out: Path, request: _Request, sparse: float | None) -> NbFile:
    """Convert, and read the file back."""
    precision = PRECISIONS[request.precision]
    job = ConvertJob(
        program=str(program),
        parameters=str(parameters),
        out=str(out),
        targets=TARGETS[request.target].places,
        fp16=precision.fp16,
        sparse=sparse,
        storage=precision.storage,
    )
    written = convert(job, interpreter=request.interpreter, opt=request.opt, timeout=request.timeout)
    try:
        return read_nb(written)
    except CheckpointError as error:
        raise DeployError(f'the converter wrote a file that cannot be read, perhaps on a full disk: {error}') from error


def _verify(
    nb: Path, reference: Any, files: ModelFiles, request: _Request, feed: Mapping[str, npt.NDArray[Any]] | None
) -> Verification | None:
    """Compare an executable file with the model; None for a file that this machine cannot execute."""
    if runtime_of(nb).obstacle(nb):
        return None
    model = reference if isinstance(reference, InferenceModel) else files.load()
    feeds = {**synthesize_feeds(model.program, model.feeds), **(feed or {})}
    return verify(nb, feeds, model, interpreter=request.interpreter)
