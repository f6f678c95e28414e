"""ONNX files through paddle2onnx, proved in onnxruntime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.deploy.model_source import ModelFiles, is_quantized, saved_files
from paddleslim_ng.deploy.onnx_parity import Parity, compare_with_paddle, feeds_to_compare
from paddleslim_ng.deploy.onnx_process import ask, opset_of
from paddleslim_ng.errors import ConfigError, DeployError, UnsupportedOpError
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['OnnxModel', 'Parity', 'to_onnx']

_INSTALL = "install the extra with `pip install 'paddleslim-ng[onnx]'`"
_DEFAULT_OPSET = 13
_PLUMBING = frozenset({'data', 'feed', 'fetch', 'full', 'full_int_array', 'parameter', 'shadow_output'})


@dataclass(frozen=True)
class OnnxModel:
    """What :func:`to_onnx` wrote.

    Attributes:
        file: the ``.onnx`` file.
        opset: version of the operator set that it needs.
        converter: version of paddle2onnx.
        runtime: version of the onnxruntime that it was proved with; None where it was not.
        parity: the comparisons.
    """

    file: Path
    opset: int
    converter: str
    runtime: str | None
    parity: tuple[Parity, ...]

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.file.stat().st_size


def to_onnx(
    model: Any,
    out: str | os.PathLike[str],
    *,
    opset: int | None = None,
    feeds: Mapping[str, npt.NDArray[Any]] | None = None,
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    check: bool = True,
    tolerance: float = 1e-4,
    timeout: float = 600.0,
) -> OnnxModel:
    """Convert a model to ONNX, and compare it in onnxruntime with Paddle's executor.

    paddle2onnx runs in a process of its own, without its optimizers, and is kept from starting processes. Where the
    model leaves the batch open, two batch sizes are compared. The file appears only once it has passed.

    Args:
        model: a path prefix of a saved model, a loaded :class:`~paddleslim_ng.runtime.InferenceModel`, or a program of
            either IR.
        out: the file; ``.onnx`` is appended where missing. Its folder is created.
        opset: version of the operator set; where None, 13, or the lowest later one that has all the operators.
        feeds: arrays to compare on, made up where None; of a program, also its inputs.
        fetches: of a program: its outputs.
        scope: of a program: holds its parameters; Paddle's global scope where None.
        check: compare.
        tolerance: largest relative difference allowed.
        timeout: seconds that conversion and comparison may take each.

    Returns:
        The file and the figures of the comparison.

    Raises:
        DeployError: paddle2onnx or onnxruntime is missing or does not fit this Paddle, the conversion failed, or
            the file cannot be written.
        UnsupportedOpError: paddle2onnx lacks operators; the message lists all of them.
        EquivalenceError: the outputs differ.
        DataError: a file is missing, or the feeds do not fit.
        ConfigError: a program without feeds and fetches, or an opset below 7.

    Example:
        >>> slim.deploy.to_onnx('out/pruned', 'out/pruned.onnx').parity[0].figures.relative_difference < 1e-4
        True
    """
    if opset is not None and opset < 7:
        raise ConfigError(f'opset must be 7 or later, not {opset}')
    converter, runtime = _converter(), _version('onnxruntime') if check else None
    target = Path(out)
    target = target if target.suffix == '.onnx' else target.with_name(target.name + '.onnx')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = saved_files(model, folder, feeds=feeds, fetches=fetches, scope=scope)
        loaded = files.load()
        arrays = feeds_to_compare(loaded, feeds) if check else []
        exported = folder / 'exported.onnx'
        _export(files.as_pdmodel(folder / 'pdmodel') if _major(converter) < 2 else files, exported, opset, timeout)
        parity = compare_with_paddle(loaded, exported, arrays, tolerance, timeout) if check else []
        content = exported.read_bytes()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, content)
    except OSError as error:
        raise DeployError(f'cannot write {target}: {error}') from error
    return OnnxModel(target, opset_of(content), converter, runtime, tuple(parity))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise DeployError(f'to_onnx needs {package}, and there is none in this environment: {_INSTALL}') from error


def _converter() -> str:
    """Return the version of paddle2onnx, if it works beside this Paddle."""
    version = _version('paddle2onnx')
    if _major(version) >= 2 and _major(paddle.__version__) == 2:
        raise DeployError(
            f'paddle2onnx {version} does not import beside Paddle {paddle.__version__}: install the last one that does '
            "with `pip install 'paddle2onnx==1.3.1'`"
        )
    if (_major(version), _minor(version)) < (1, 3):
        raise DeployError(f'paddle2onnx {version} is too old: {_INSTALL}, which asks for 1.3.1 or later')
    return version


def _major(version: str) -> int:
    return int(version.split('.')[0])


def _minor(version: str) -> int:
    return int(version.split('.')[1])


def _export(files: ModelFiles, out: Path, opset: int | None, timeout: float) -> None:
    job = {
        'program': str(files.program.resolve()),
        'parameters': str(files.parameters.resolve()),
        'out': str(out),
        'opset': _DEFAULT_OPSET if opset is None else opset,
        'upgrade': opset is None,
        'optimizer': None,
    }
    try:
        answer = ask('export', job, timeout)
    except DeployError as error:
        lacking = _lacking(files, timeout)
        if lacking:
            raise UnsupportedOpError(
                f'paddle2onnx cannot convert the operators {lacking}: replace them in the model', op=lacking[0]
            ) from error
        if is_quantized(files.load().program):
            raise DeployError(
                f'{error}; the model is quantized: of these, paddle2onnx 1.3.1 converts those with quantize_linear '
                'operators, and 2.1.0 none'
            ) from error
        raise
    if answer['attempts']:
        raise DeployError(f'paddle2onnx tried to start processes, which was refused: {answer["attempts"]}')
    if not out.is_file():
        raise DeployError('paddle2onnx ended without an error and without a file')


def _lacking(files: ModelFiles, timeout: float) -> list[str]:
    """Return the operators of a model that paddle2onnx does not list."""
    known = ask('operators', {}, timeout)
    graph = GraphWrapper(files.load().program)
    listed = {name.rstrip('_') for names in known.values() for name in names} | _PLUMBING
    # The list for PIR has its own names for some, and the legacy ones for others.
    used = {op.type(): {op.type(), _own_name(op)} for op in graph.ops()}
    return sorted(name for name, spellings in used.items() if not spellings & listed)


def _own_name(op: OpWrapper) -> str:
    """Return the name of an operator in its own IR, without dialect."""
    return str(op.raw.name()).split('.')[-1].rstrip('_') if hasattr(op.raw, 'name') else op.type()
