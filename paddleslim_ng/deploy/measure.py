"""How fast models are on each engine of this machine, and what that means."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.analysis import ReportTable
from paddleslim_ng.deploy.engine_row import EngineRow
from paddleslim_ng.deploy.engines import ENGINES, Engine, cpu_flags, obstacle, remark
from paddleslim_ng.deploy.kernel_count import KernelCount
from paddleslim_ng.deploy.measured_processes import (
    INTEGER_ENGINES,
    Cell,
    Job,
    Source,
    integer_kernels,
    start_processes,
)
from paddleslim_ng.deploy.model_source import saved_files
from paddleslim_ng.deploy.verdict import HEAD, cells, table, verdict
from paddleslim_ng.deploy.verification import compare_outputs
from paddleslim_ng.errors import ConfigError, DeployError, nearest_names
from paddleslim_ng.runtime.latency import Latency, feed_process, take_turns
from paddleslim_ng.runtime.worker_process import WorkerProcess

__all__ = ['Measurement', 'measure']

_ORIGINAL = 'original'
_MODEL = 'model'


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` found.

    Attributes:
        rows: one per model and engine, in that order, those that did not run included.
        baseline: label of the model that the others are compared with; None where there is only one.
        threads: threads of each process.
        repeats: counted runs of each row.
        shapes: ``{input: shape}`` of the arrays fed.
    """

    rows: tuple[EngineRow, ...]
    baseline: str | None
    threads: int
    repeats: int
    shapes: dict[str, list[int]]

    @property
    def table(self) -> str:
        """The figures as lines of text."""
        return table(self.rows, self.baseline)

    @property
    def verdict(self) -> list[str]:
        """What the figures mean, one sentence per entry."""
        return verdict(self.rows, self.baseline)

    def report_table(self, title: str = 'Latency') -> ReportTable:
        """Return the figures and the verdict as a section of a report.

        Args:
            title: its heading.
        """
        text = f'{self.repeats} runs of each model on each engine, turn by turn; threads: {self.threads}.'
        return ReportTable(title, HEAD, cells(self.rows, self.baseline), text, self.verdict)

    def row(self, model: str, engine: str) -> EngineRow:
        """Return the row of one model and engine.

        Raises:
            KeyError: it was not asked for.
        """
        for row in self.rows:
            if (row.model, row.engine) == (model, engine):
                return row
        raise KeyError((model, engine))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {**asdict(self), 'rows': [asdict(row) for row in self.rows], 'verdict': self.verdict}

    def __str__(self) -> str:
        return '\n'.join([self.table, '', *(f'- {sentence}' for sentence in self.verdict)])


def measure(
    model: Any,
    feeds: Mapping[str, npt.NDArray[Any]],
    threads: int = 1,
    *,
    original: Any = None,
    engines: Sequence[str] | None = None,
    repeats: int = 50,
    warmup: int = 5,
    timeout: float = 300.0,
    interpreter: str | os.PathLike[str] | None = None,
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
) -> Measurement:
    """Time models on every engine of this machine, side by side, and say what the figures mean.

    Every model has a fresh process of its own on every engine. The processes run turn by turn, one run each, so that a
    disturbance of the machine hits all of them alike; a run before each counted one warms the caches. Engines that
    cannot run a model stay in the result, with the reason.

    Args:
        model: a path prefix of a saved model, a loaded :class:`~paddleslim_ng.runtime.InferenceModel`, or a program of
            either IR; or several of them, ``{label: model}``.
        feeds: ``{data name: array}``; each model takes the inputs it has.
        threads: threads of each engine.
        original: the model to compare with. Where None, it is the first of several models.
        engines: names of :data:`~paddleslim_ng.deploy.engines.ENGINES`; all where None.
        repeats: counted runs of each model on each engine.
        warmup: runs before the first turn.
        timeout: seconds that loading, or one run, of a model may take.
        interpreter: a Python with Paddle Lite; found where None.
        fetches: outputs of the programs among the models.
        scope: their parameters; Paddle's global scope where None.

    Returns:
        Figures, table and verdict.

    Raises:
        ConfigError: no model, an unknown engine, a count below one, or something that is no model.
        DataError: a file is missing, or an array of the feeds is missing or does not fit its input.
        GraphError: a program cannot be saved.

    Example:
        >>> print(slim.deploy.measure('out/pruned', {'image': image}, original='out/dense'))
    """
    labelled = _labelled(model, original)
    chosen = [_engine(name) for name in (ENGINES if engines is None else engines)]
    if not chosen or repeats < 1 or warmup < 0 or threads < 1:
        raise ConfigError('measure needs an engine, repeats >= 1, warmup >= 0 and threads >= 1')
    job = Job(feeds, threads, timeout, interpreter)
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for index, (label, item) in enumerate(labelled.items()):
            place = Path(folder, str(index))
            files = saved_files(item, place, feeds=feeds, fetches=fetches, scope=scope)
            sources.append(Source(label, files, place, feeds))
        rows = _rows(sources, chosen, job, repeats, warmup)
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    return Measurement(tuple(rows), next(iter(labelled)) if len(labelled) > 1 else None, threads, repeats, shapes)


def _labelled(model: Any, original: Any) -> dict[str, Any]:
    """Return the models by label, the one to compare with first."""
    models = dict(model) if isinstance(model, Mapping) else {_MODEL: model}
    if not models:
        raise ConfigError('measure needs a model')
    if original is None:
        return models
    if _ORIGINAL in models:
        raise ConfigError(f'a model is called {_ORIGINAL!r} and original is given as well: give one of them')
    return {_ORIGINAL: original, **models}


def _engine(name: str) -> Engine:
    if name not in ENGINES:
        raise ConfigError(f'unknown engine {name!r}; known: {", ".join(ENGINES)}{nearest_names(name, ENGINES)}')
    return ENGINES[name]


def _rows(sources: Sequence[Source], engines: Sequence[Engine], job: Job, repeats: int, warmup: int) -> list[EngineRow]:
    flags = cpu_flags()
    cells = {(source.label, engine.name): (source, engine) for source in sources for engine in engines}
    notes = {cell: obstacle(engine, source.quantized, flags) for cell, (source, engine) in cells.items()}
    with ExitStack() as stack:
        processes: dict[Cell, WorkerProcess] = {}
        for cell, opened in start_processes([(cell, *cells[cell]) for cell in cells if not notes[cell]], job).items():
            if isinstance(opened, WorkerProcess):
                processes[cell] = stack.enter_context(opened)
                feed_process(opened, job.feeds)
                notes[cell] = remark(cells[cell][1], cells[cell][0].quantized, flags)
            else:
                notes[cell] = _one_line(opened)
        times = take_turns(processes, repeats, warmup)
        rows: list[EngineRow] = []
        first: dict[str, list[npt.NDArray[Any]]] = {}
        for cell, (source, engine) in cells.items():
            row = _with_kernels(EngineRow(*cell, quantized=source.quantized, note=notes[cell]), source, engine, job)
            row = _filled(row, processes[cell], times[cell], first) if cell in processes else row
            rows.append(row)
        return rows


def _with_kernels(row: EngineRow, source: Source, engine: Engine, job: Job) -> EngineRow:
    """Return a row with the kernels of a quantized model, or with the reason why they are not known."""
    if not source.quantized or row.engine not in INTEGER_ENGINES:
        return row
    found = integer_kernels(source, engine, job)
    if isinstance(found, KernelCount):
        return replace(row, kernels=found)
    return replace(row, note='; '.join(filter(None, dict.fromkeys([row.note, _one_line(found)]))))


def _filled(
    row: EngineRow,
    process: WorkerProcess,
    latency: Latency | DeployError,
    first: dict[str, list[npt.NDArray[Any]]],
) -> EngineRow:
    """Return a row with its figures, or with the error of its process; ``first`` keeps each model's first outputs."""
    if isinstance(latency, DeployError):
        return replace(row, note=_one_line(latency))
    try:
        outputs = list(process.outputs().values())
        memory = process.peak_bytes() - process.library_bytes
    except DeployError as error:
        return replace(row, note=_one_line(error))
    difference = _difference(first[row.model], outputs) if row.model in first else None
    first.setdefault(row.model, outputs)
    original = next(iter(first.values()))
    distance = compare_outputs(original, [outputs]) if row.quantized and _alike(original, outputs) else None
    if row.model == next(iter(first)):
        distance = None
    return replace(row, latency=latency, memory_mb=memory / 1e6, difference=difference, distance=distance)


def _alike(first: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> bool:
    return [array.shape for array in first] == [array.shape for array in outputs]


def _difference(first: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> float:
    """Return the largest difference as a fraction of the scale; infinite where the shapes differ or it is no number."""
    if not _alike(first, outputs):
        return float('inf')
    largest = 0.0
    for one, other in zip(first, outputs):
        if one.size:
            gap = float(np.max(np.abs(one.astype('float64') - other.astype('float64'))))
            scale = float(np.max(np.abs(one.astype('float64'))))
            largest = max(largest, gap / scale if scale else gap) if np.isfinite(gap) else float('inf')
    return largest


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split())[:400]
