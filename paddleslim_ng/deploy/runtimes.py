"""The runtimes on which :func:`paddleslim_ng.deploy.verify` executes files: a table, one row per runtime."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from paddleslim_ng.deploy.lite_process import LiteProcess
from paddleslim_ng.deploy.nb import read_nb
from paddleslim_ng.deploy.onnx_process import run_onnx
from paddleslim_ng.errors import DataError
from paddleslim_ng.runtime.predictor_process import PredictorProcess

__all__ = ['RUNTIMES', 'RunOptions', 'Runtime', 'artifact_file', 'runtime_of']

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RunOptions:
    """How to run a file.

    Attributes:
        interpreter: a Python with Paddle Lite, for ``.nb`` files; found where None.
        threads: threads of the kernels.
        timeout: seconds that loading, or one run, may take.
    """

    interpreter: str | os.PathLike[str] | None = None
    threads: int = 1
    timeout: float = 120.0


@dataclass(frozen=True)
class Runtime:
    """A runtime that executes files on this machine.

    Attributes:
        name: how reports call it.
        suffixes: of the files that it takes.
        obstacle: says why a file cannot be executed here though its structure is sound, or ``''``; reads the file and
            raises CheckpointError where it is damaged.
        outputs: loads a file into a fresh predictor, runs it once on the feeds and returns the outputs in order.
        lossy: tells whether a file computes in fewer bits than fp32.
    """

    name: str
    suffixes: tuple[str, ...]
    obstacle: Callable[[Path], str]
    outputs: Callable[[Path, Arrays, RunOptions], list[npt.NDArray[Any]]]
    lossy: Callable[[Path], bool]


def _lite_obstacle(path: Path) -> str:
    devices = [device for device in read_nb(path).targets if device != 'x86']
    if devices:
        return f'its kernels are for {", ".join(devices)}'
    if platform.machine() not in ('x86_64', 'AMD64'):
        return f'its kernels are for x86, and this machine is {platform.machine()}'
    return ''


def _lite_outputs(path: Path, feeds: Arrays, options: RunOptions) -> list[npt.NDArray[Any]]:
    with LiteProcess(
        path, interpreter=options.interpreter, threads=options.threads, timeout=options.timeout
    ) as process:
        process.set_inputs({name: feeds[name] for name in process.inputs if name in feeds})
        process.run()
        return list(process.outputs().values())


def _lite_lossy(path: Path) -> bool:
    found = read_nb(path)
    return bool(found.int8_kernels or found.fp16_kernels)


def _inference_outputs(path: Path, feeds: Arrays, options: RunOptions) -> list[npt.NDArray[Any]]:
    with PredictorProcess(
        path, path.with_suffix('.pdiparams'), threads=options.threads, onednn=False, timeout=options.timeout
    ) as process:
        process.set_inputs({name: feeds[name] for name in process.inputs if name in feeds})
        process.run()
        return list(process.outputs().values())


def _onnx_outputs(path: Path, feeds: Arrays, options: RunOptions) -> list[npt.NDArray[Any]]:
    return run_onnx(path, [feeds], options.timeout)[0]


def _runs_here(path: Path) -> str:
    return ''


def _exact(path: Path) -> bool:
    return False


#: Every runtime; the suffix of a file decides.
RUNTIMES: tuple[Runtime, ...] = (
    Runtime('Paddle Lite', ('.nb',), _lite_obstacle, _lite_outputs, _lite_lossy),
    Runtime('Paddle Inference', ('.pdmodel', '.json'), _runs_here, _inference_outputs, _exact),
    Runtime('onnxruntime', ('.onnx',), _runs_here, _onnx_outputs, _exact),
)


def artifact_file(artifact: str | os.PathLike[str]) -> Path:
    """Return the file of an artifact that is given by its path, or, for a saved model, by its path without suffix.

    Raises:
        DataError: there is no such file.
    """
    from paddleslim_ng.runtime.inference_model import model_files

    path = Path(artifact)
    if path.suffix in {suffix for runtime in RUNTIMES for suffix in runtime.suffixes}:
        if not path.is_file():
            raise DataError(f'there is no file {os.fspath(artifact)!r}')
        return path
    return model_files(path)[0]


def runtime_of(path: Path) -> Runtime:
    """Return the runtime that executes a file.

    Raises:
        DataError: none of them does.
    """
    for runtime in RUNTIMES:
        if path.suffix in runtime.suffixes:
            return runtime
    known = [suffix for runtime in RUNTIMES for suffix in runtime.suffixes]
    raise DataError(f'cannot execute {path.name!r}: the suffix must be one of {known}')
