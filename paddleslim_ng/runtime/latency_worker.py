"""The process in which :func:`paddleslim_ng.runtime.measure_latency` times models: a job on stdin, a JSON file out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddleslim_ng.errors import DataError
from paddleslim_ng.runtime.atomic import atomic_write
from paddleslim_ng.runtime.predictor import cpu_predictor

__all__ = ['main']


def main() -> None:
    """Read the job, time the models turn by turn, and write ``{label: [milliseconds, ...]}``."""
    job = json.load(sys.stdin)
    arrays = {name: np.load(path) for name, path in job['feeds'].items()}
    predictors = {label: _predictor(files, arrays, job) for label, files in job['models'].items()}
    for _ in range(job['warmup']):
        for predictor in predictors.values():
            predictor.run()
    times: dict[str, list[float]] = {label: [] for label in predictors}
    for _ in range(job['repeats']):
        for label, predictor in predictors.items():
            begin = time.perf_counter()
            predictor.run()
            times[label].append((time.perf_counter() - begin) * 1e3)
    atomic_write(job['result'], json.dumps(times))


def _predictor(files: list[str], arrays: Mapping[str, Any], job: Mapping[str, Any]) -> Any:
    predictor = cpu_predictor(*files, threads=job['threads'], onednn=job['onednn'])
    for name in predictor.get_input_names():
        if name not in arrays:
            raise DataError(f'the model {files[0]} has an input {name!r} and the feeds have {sorted(arrays)}')
        predictor.get_input_handle(name).copy_from_cpu(arrays[name])
    return predictor


if __name__ == '__main__':
    main()
