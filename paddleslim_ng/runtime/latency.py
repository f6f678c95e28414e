"""Measured latency of inference models, side by side: each in a fresh process of its own, turn by turn."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DataError, DeployError
from paddleslim_ng.runtime.inference_model import model_files
from paddleslim_ng.runtime.predictor_process import PredictorProcess
from paddleslim_ng.runtime.worker_process import WorkerProcess

__all__ = ['Latency', 'feed_process', 'measure_latency', 'take_turns']

_Key = TypeVar('_Key', bound=Hashable)


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one run, in milliseconds.

    Attributes:
        median: half of the runs were faster.
        p10: a tenth of the runs were faster.
        p90: nine tenths of the runs were faster.
        repeats: number of runs that count.
        interrupted: fraction of the runs during which the system took the CPU away. They do not count, unless they are
            more than three quarters of all.
    """

    median: float
    p10: float
    p90: float
    repeats: int
    interrupted: float = 0.0

    @classmethod
    def of(cls, milliseconds: Sequence[float], switches: Sequence[int] = ()) -> Latency:
        """Summarize the times of single runs, given how often each was interrupted."""
        quiet = [time for time, count in zip(milliseconds, switches) if not count] if switches else milliseconds
        interrupted = 1 - len(quiet) / len(milliseconds)
        counted = quiet if 4 * len(quiet) >= len(milliseconds) else milliseconds
        p10, median, p90 = np.percentile(counted, [10, 50, 90])
        return cls(float(median), float(p10), float(p90), len(counted), interrupted)

    def __str__(self) -> str:
        return f'{self.median:.3f} ms (p10 {self.p10:.3f}, p90 {self.p90:.3f})'


def measure_latency(
    models: Mapping[str, str | os.PathLike[str]] | Sequence[str | os.PathLike[str]],
    feeds: Mapping[str, npt.NDArray[Any]],
    *,
    repeats: int = 50,
    warmup: int = 5,
    threads: int = 1,
    onednn: bool = True,
    timeout: float = 600.0,
) -> dict[str, Latency]:
    """Time inference models against each other on the CPU.

    Each model has a fresh process of its own. They run turn by turn, as :func:`take_turns` says, so a disturbance of
    the machine hits all of them alike.

    Args:
        models: ``{label: path prefix}``, or path prefixes, which are then the labels.
        feeds: ``{data name: array}``; each model takes the inputs it has.
        repeats: timed runs of each model.
        warmup: runs of each model before that.
        threads: threads of the math library.
        onednn: use the oneDNN kernels, several times faster than Paddle's plain ones.
        timeout: seconds that loading, or one run, of a model may take.

    Returns:
        ``{label: Latency}``, in milliseconds, in the order given.

    Raises:
        ConfigError: no model, or a count below one.
        DataError: a model's file is missing.
        DeployError: Paddle Inference failed or crashed on a model; the message ends with its last words.

    Example:
        >>> measure_latency({'dense': 'out/dense', 'pruned': 'out/pruned'}, {'image': image})
    """
    labelled = dict(models) if isinstance(models, Mapping) else {os.fspath(prefix): prefix for prefix in models}
    if not labelled or repeats < 1 or warmup < 0 or threads < 1:
        raise ConfigError('measure_latency needs a model, repeats >= 1, warmup >= 0 and threads >= 1')
    files = {label: model_files(prefix) for label, prefix in labelled.items()}
    with ExitStack() as stack:
        processes = {}
        for label, paths in files.items():
            processes[label] = stack.enter_context(
                PredictorProcess(*paths, threads=threads, onednn=onednn, timeout=timeout)
            )
            feed_process(processes[label], feeds)
        times = take_turns(processes, repeats, warmup)
    for outcome in times.values():
        if isinstance(outcome, DeployError):
            raise outcome
    return {label: outcome for label, outcome in times.items() if isinstance(outcome, Latency)}


def feed_process(process: WorkerProcess, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copy the arrays that a model has inputs for into its process.

    Raises:
        DataError: the model has an input that the feeds lack.
    """
    missing = [name for name in process.inputs if name not in feeds]
    if missing:
        raise DataError(f'the model has an input {missing[0]!r} and the feeds have {sorted(feeds)}')
    process.set_inputs({name: feeds[name] for name in process.inputs})


def take_turns(processes: Mapping[_Key, WorkerProcess], repeats: int, warmup: int) -> dict[_Key, Latency | DeployError]:
    """Time loaded models turn by turn.

    In its turn a model runs twice, and the second run counts: the first brings its parameters back into the caches,
    which the others have used meanwhile.

    Args:
        processes: models with their inputs set.
        repeats: turns of each model.
        warmup: uncounted runs of each model before the first turn.

    Returns:
        The latency of each; for a model that failed or crashed on the way, its error. The others go on.
    """
    errors: dict[_Key, DeployError] = {}
    runs: dict[_Key, list[tuple[float, int]]] = {key: [] for key in processes}
    for turn in range(repeats + 1):
        for key, process in processes.items():
            if key in errors:
                continue
            try:
                if turn:
                    times = process.run(2)
                    runs[key].append((times.wall[-1], times.switches[-1]))
                elif warmup:
                    process.run(warmup)
            except DeployError as error:
                errors[key] = error
    return {key: errors[key] if key in errors else Latency.of(*zip(*runs[key])) for key in processes}
