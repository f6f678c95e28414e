"""The parent's side of :mod:`paddleslim_ng.runtime.latency_worker`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from paddleslim_ng.runtime.worker_process import WorkerProcess, worker_environment

__all__ = ['PredictorProcess']

_WORKER = 'paddleslim_ng.runtime.latency_worker'
_VERBOSE = {'ONEDNN_VERBOSE': '1', 'DNNL_VERBOSE': '1'}


class PredictorProcess(WorkerProcess):
    """A saved model loaded by Paddle Inference on the CPU, in a fresh process of its own.

    Args:
        program_file: ``.pdmodel`` or ``.json``.
        parameter_file: ``.pdiparams``.
        threads: threads of the math library.
        onednn: use the oneDNN kernels.
        precision: ``'fp32'``, ``'bf16'`` or ``'int8'``; see :func:`paddleslim_ng.runtime.predictor.cpu_predictor`.
        timeout: seconds that any single command may take.
        verbose: let oneDNN name every kernel that it runs, in :meth:`log`; slower.

    Raises:
        DeployError: Paddle Inference cannot load the model; later also when it fails or crashes.
    """

    def __init__(
        self,
        program_file: str | os.PathLike[str],
        parameter_file: str | os.PathLike[str],
        *,
        threads: int = 1,
        onednn: bool = True,
        precision: str = 'fp32',
        timeout: float = 120.0,
        verbose: bool = False,
    ) -> None:
        program, parameters = Path(program_file).resolve(), Path(parameter_file).resolve()
        super().__init__(
            [sys.executable, '-m', _WORKER],
            {**worker_environment(threads), **(_VERBOSE if verbose else {})},
            runtime='Paddle Inference',
            model=program.name,
            timeout=timeout,
        )
        self.load(program=str(program), parameters=str(parameters), threads=threads, onednn=onednn, precision=precision)
