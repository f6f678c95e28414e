"""Running Paddle Lite's converter, in a process of its own."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from paddleslim_ng.deploy.interpreters import WORKER, find_interpreter
from paddleslim_ng.deploy.lite_process import run_once
from paddleslim_ng.deploy.nb import clear_header
from paddleslim_ng.errors import DeployError

__all__ = ['ConvertJob', 'convert']

_LACKING = re.compile(r"not supported on '([^']*)'.*?unsupported ops are:\s*(.+?)\.\s*$", re.M | re.S)


@dataclass(frozen=True)
class ConvertJob:
    """One conversion, in the converter's words.

    Attributes:
        program: ``.pdmodel`` file, legalized.
        parameters: ``.pdiparams`` file.
        out: the result, without ``.nb``.
        targets: places, separated by commas, the most wanted first.
        fp16: compute in 16-bit floating point.
        sparse: share of zeros from which a convolution is sparse, or None.
        storage: ``'QUANT_INT8'`` or ``'QUANT_INT16'`` to store weights so, or None.
    """

    program: str
    parameters: str
    out: str
    targets: str
    fp16: bool = False
    sparse: float | None = None
    storage: str | None = None


def convert(
    job: ConvertJob,
    *,
    interpreter: str | os.PathLike[str] | None = None,
    opt: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
) -> Path:
    """Convert one model and return the ``.nb`` file, not yet looked into.

    Args:
        job: what to convert, to what.
        interpreter: a Python with Paddle Lite; found where None.
        opt: another converter, an ``opt`` or ``paddle_lite_opt`` executable, in the place of the Python's.
        timeout: seconds allowed.

    Raises:
        DeployError: no converter, or it failed; the message has its last words, and operators that the target lacks.
    """
    what = f"Paddle Lite's converter for {job.targets.split(',')[0]!r}"
    command: list[str | os.PathLike[str]]
    if opt is not None:
        command, text = [opt, *_arguments(job)], ''
    else:
        command, text = [find_interpreter(interpreter).path, WORKER, 'convert'], json.dumps(asdict(job))
    try:
        log = run_once(command, text, timeout, what)
    except DeployError as error:
        lacking = _LACKING.search(str(error))
        if lacking is None:
            raise
        ops = ', '.join(re.findall(r"'([^']*)'", lacking[2]) or [lacking[2]])
        raise DeployError(
            f'Paddle Lite has no kernel for {lacking[1]!r} of these operators: {ops}. Replace them in the model, or '
            f'convert for another target ({error})'
        ) from error
    result = Path(job.out + '.nb')
    if not result.is_file():
        raise DeployError(f'{what} ended without writing a file: {log.strip()[-500:] or "nothing in its log"}')
    clear_header(result)
    return result


def _arguments(job: ConvertJob) -> list[str]:
    """Spell a job for the command line of an ``opt`` executable."""
    arguments = [
        f'--model_file={job.program}',
        f'--param_file={job.parameters}',
        f'--optimize_out={job.out}',
        '--optimize_out_type=naive_buffer',
        f'--valid_targets={job.targets}',
    ]
    if job.fp16:
        arguments.append('--enable_fp16=true')
    if job.sparse is not None:
        arguments += ['--sparse_model=true', f'--sparse_threshold={job.sparse}']
    if job.storage:
        arguments += ['--quant_model=true', f'--quant_type={job.storage}']
    return arguments
