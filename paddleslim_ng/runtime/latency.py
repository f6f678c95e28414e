"""Measured latency of inference models on Paddle Inference, all models side by side in one fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError, DeployError
from paddleslim_ng.runtime.inference_model import model_files

__all__ = ['Latency', 'measure_latency']

_WORKER = 'paddleslim_ng.runtime.latency_worker'


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one run, in milliseconds, over ``repeats`` runs.

    Attributes:
        median: half of the runs were faster.
        p10: a tenth of the runs were faster.
        p90: nine tenths of the runs were faster.
        repeats: number of timed runs.
    """

    median: float
    p10: float
    p90: float
    repeats: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """Summarize the times of single runs."""
        p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
        return cls(float(median), float(p10), float(p90), len(milliseconds))

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

    The models run in one fresh process, turn by turn (one run of each per round), so a disturbance of the machine hits
    all of them alike.

    Args:
        models: ``{label: path prefix}``, or path prefixes, which are then the labels.
        feeds: ``{data name: array}``; each model takes the inputs it has.
        repeats: timed runs of each model.
        warmup: runs of each model before that.
        threads: threads of the math library.
        onednn: use the oneDNN kernels, several times faster than Paddle's plain ones.
        timeout: seconds after which the measurement is given up.

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
    files = {label: [str(path.resolve()) for path in model_files(prefix)] for label, prefix in labelled.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = {}
        for index, (feed, array) in enumerate(feeds.items()):
            arrays[feed] = str(folder / f'{index}.npy')
            np.save(arrays[feed], np.ascontiguousarray(array))
        job = {
            'models': files,
            'feeds': arrays,
            'repeats': repeats,
            'warmup': warmup,
            'threads': threads,
            'onednn': onednn,
            'result': str(folder / 'result.json'),
        }
        _run_worker(job, timeout)
        times = json.loads(Path(str(job['result'])).read_text('utf-8'))
    return {label: Latency.of(times[label]) for label in labelled}


def _run_worker(job: Mapping[str, Any], timeout: float) -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')])),
        'OMP_NUM_THREADS': str(job['threads']),
    }
    try:
        done = subprocess.run(
            [sys.executable, '-m', _WORKER],
            input=json.dumps(job),
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError(f'the latency measurement took over {timeout:g} s: lower repeats or raise timeout') from error
    if done.returncode != 0 or not Path(str(job['result'])).is_file():
        raise DeployError(f'Paddle Inference failed (exit code {done.returncode}): {_last_words(done.stderr)}')


def _last_words(text: str, count: int = 6) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ' | '.join(lines[-count:])[-1500:]
