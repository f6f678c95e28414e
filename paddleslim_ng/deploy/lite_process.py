"""The parent's side of :mod:`paddleslim_ng.deploy.lite_worker`: Paddle Lite's crashes become exceptions here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from paddleslim_ng.deploy.interpreters import WORKER, environment_of, find_interpreter
from paddleslim_ng.errors import DataError, DeployError
from paddleslim_ng.runtime.worker_process import RunTimes, WorkerProcess, cause_of_death

__all__ = ['LiteProcess', 'RunTimes', 'cause_of_death', 'run_once']


class LiteProcess(WorkerProcess):
    """A ``.nb`` file loaded by Paddle Lite in a process of its own.

    Args:
        file: the ``.nb`` file; it must have been converted for this machine (``target='x86'``).
        interpreter: a Python with Paddle Lite; found where None.
        threads: threads of the kernels.
        timeout: seconds that any single command may take.

    Raises:
        DataError: there is no such file.
        DeployError: no Python with Paddle Lite, or Paddle Lite cannot load the file; later also when it crashes.

    Example:
        >>> with LiteProcess('net.nb') as lite:
        ...     lite.set_inputs({'image': image})
        ...     milliseconds = lite.run(repeats=10).wall
        ...     logits = list(lite.outputs().values())[0]
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        *,
        interpreter: str | os.PathLike[str] | None = None,
        threads: int = 1,
        timeout: float = 120.0,
    ) -> None:
        path = Path(file)
        if not path.is_file():
            raise DataError(f'there is no file {os.fspath(file)!r}')
        python = find_interpreter(interpreter).path
        super().__init__(
            [python, WORKER, 'serve'],
            environment_of(python, threads),
            runtime='Paddle Lite',
            model=path.name,
            timeout=timeout,
        )
        self.load(file=str(path.resolve()))


def run_once(command: Sequence[str | os.PathLike[str]], text: str, timeout: float, what: str) -> str:
    """Run a converter to its end and return its log.

    Args:
        command: the program and its arguments.
        text: what it reads from stdin.
        timeout: seconds allowed.
        what: names the job in error messages.

    Raises:
        DeployError: it could not be started, took too long, or failed; the message has its last words.
    """
    try:
        done = subprocess.run(
            [os.fspath(part) for part in command],
            input=text,
            capture_output=True,
            text=True,
            errors='replace',
            timeout=timeout,
            env=environment_of(command[0]),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError(f'{what} took over {timeout:g} s') from error
    except OSError as error:
        raise DeployError(f'{what}: cannot start {os.fspath(command[0])!r}: {error}') from error
    if done.returncode:
        raise DeployError(f'{what} failed, {cause_of_death(done.returncode, done.stdout + done.stderr)}')
    return done.stdout + done.stderr
