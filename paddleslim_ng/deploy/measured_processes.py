"""Models under measurement, and the processes that hold them on each engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy.typing as npt

from paddleslim_ng.deploy.engines import Engine
from paddleslim_ng.deploy.kernel_count import KernelCount, count_heavy, kernels_in_nb, kernels_of_inference
from paddleslim_ng.deploy.lite_process import LiteProcess
from paddleslim_ng.deploy.model_source import ModelFiles, check_feeds, is_quantized
from paddleslim_ng.deploy.nb import read_nb
from paddleslim_ng.errors import DeployError, EquivalenceError, GraphError
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from paddleslim_ng.runtime.worker_process import WorkerProcess

__all__ = ['INTEGER_ENGINES', 'Cell', 'Job', 'Source', 'integer_kernels', 'start_processes']

Cell = tuple[str, str]
#: Engines that have kernels of integers.
INTEGER_ENGINES: Final = ('int8', 'lite_x86', 'lite_arm')
_LITE_TARGETS: Final = MappingProxyType({'lite_x86': 'x86', 'lite_arm': 'arm'})


class Job(NamedTuple):
    """What every process is given: arrays, threads, seconds for a command, and a Python with Paddle Lite."""

    feeds: Mapping[str, npt.NDArray[Any]]
    threads: int
    timeout: float
    interpreter: str | os.PathLike[str] | None


class Source:
    """A model under measurement: its files, and its other formats, made once.

    Raises:
        DataError: the files are damaged, or the feeds do not fit.
    """

    def __init__(self, label: str, files: ModelFiles, folder: Path, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        self.label = label
        self.files = files
        self._folder = folder
        self._converted: dict[str, Path] = {}
        model = files.load()
        check_feeds(model, feeds)
        self.quantized = is_quantized(model.program)

    @cached_property
    def pdmodel(self) -> ModelFiles:
        """The model as a ``.pdmodel``."""
        return self.files.as_pdmodel(self._folder / 'pdmodel')

    def nb(self, target: str, interpreter: str | os.PathLike[str] | None) -> Path:
        """Convert the model for Paddle Lite, once for each target; a quantized one gets int8 kernels.

        Raises:
            DeployError: no Paddle Lite, or it cannot convert the model.
        """
        from paddleslim_ng.deploy.lite import to_lite

        if target not in self._converted:
            precision = 'int8' if self.quantized else 'fp32'
            converted = to_lite(
                self.pdmodel.load(), self._folder / target, target, precision, interpreter=interpreter, check=False
            )
            self._converted[target] = converted.file
        return self._converted[target]


def start_processes(
    wanted: Sequence[tuple[Cell, Source, Engine]], job: Job
) -> dict[Cell, WorkerProcess | DeployError | GraphError | EquivalenceError]:
    """Start the processes, a few at a time; what cannot start gives its error."""
    prepared: list[tuple[Cell, Engine, Any]] = []
    for cell, source, engine in wanted:
        # Conversions use Paddle, which is not made for threads.
        prepared.append((cell, engine, _prepare(source, engine, job)))
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        started = pool.map(lambda item: _open(item[1], item[2], job), prepared)
        return {cell: outcome for (cell, _, _), outcome in zip(prepared, started)}


def _prepare(source: Source, engine: Engine, job: Job) -> Any:
    """Return the file or files that an engine loads, or the error that keeps them from being made."""
    try:
        if engine.runtime == 'lite':
            return source.nb(_LITE_TARGETS[engine.name], job.interpreter)
        return source.pdmodel if engine.needs_pdmodel else source.files
    except (DeployError, GraphError, EquivalenceError) as error:
        return error


def _open(engine: Engine, files: Any, job: Job) -> Any:
    try:
        if isinstance(files, ModelFiles):
            return PredictorProcess(
                files.program,
                files.parameters,
                threads=job.threads,
                onednn=engine.onednn,
                precision=engine.precision,
                timeout=job.timeout,
            )
        if isinstance(files, Path):
            return LiteProcess(files, interpreter=job.interpreter, threads=job.threads, timeout=job.timeout)
    except DeployError as error:
        return error
    return files


def integer_kernels(source: Source, engine: Engine, job: Job) -> KernelCount | DeployError | GraphError:
    """Count the kernels of integers that a quantized model gets on one of :data:`INTEGER_ENGINES`.

    For Paddle Lite it is converted, also for devices that this machine is not; Paddle Inference runs it once, in a
    process of its own.
    """
    try:
        if engine.runtime == 'lite':
            return kernels_in_nb(read_nb(source.nb(_LITE_TARGETS[engine.name], job.interpreter)))
        files = source.pdmodel
        return kernels_of_inference(
            files.program,
            files.parameters,
            job.feeds,
            count_heavy(files.load().program),
            precision=engine.precision,
            timeout=job.timeout,
        )
    except (DeployError, GraphError) as error:
        return error
