"""A dialogue in JSON lines with a process that may crash: its death becomes an exception here."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import DataError, DeployError

__all__ = ['RunTimes', 'WorkerProcess', 'cause_of_death', 'worker_environment']

_LONGEST = 1500
_Self = TypeVar('_Self', bound='WorkerProcess')


class RunTimes(NamedTuple):
    """Times of single runs, in milliseconds, and disturbances.

    Attributes:
        wall: by the clock.
        cpu: spent by all threads of the process.
        switches: how often the system took the CPU away from the process during the run.
    """

    wall: list[float]
    cpu: list[float]
    switches: list[int]


class WorkerProcess:
    """A model held by a process of its own, which obeys one command per line of JSON.

    Commands and answers are those that :mod:`paddleslim_ng.runtime.latency_worker` lists. Subclasses send ``load``.

    Args:
        command: the program and its arguments; it answers on stdout, and its log goes to stderr.
        environment: its environment variables.
        runtime: the software at work, for error messages.
        model: the model file, for error messages.
        timeout: seconds that any single command may take.

    Raises:
        DeployError: it cannot be started; later also when it crashes, refuses a command or takes too long.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str],
        *,
        runtime: str,
        model: str,
        timeout: float,
    ) -> None:
        self.timeout = timeout
        #: Names of the model's inputs, in order; known after ``load``.
        self.inputs: list[str] = []
        #: Resident size before the model was loaded: the interpreter and its libraries.
        self.library_bytes = 0
        self._runtime, self._model = runtime, model
        self._buffer = b''
        self._folder = tempfile.TemporaryDirectory()
        self._log = open(Path(self._folder.name, 'stderr'), 'wb')  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=dict(environment),
            )
        except OSError as error:
            self._release()
            raise DeployError(f'cannot start {os.fspath(command[0])}: {error}') from error

    def load(self, **arguments: Any) -> None:
        """Have the process load its model; it is ended where that fails."""
        try:
            answer = self.ask('load', **arguments)
        except BaseException:
            self.close()
            raise
        self.inputs, self.library_bytes = list(answer['inputs']), int(answer['library_bytes'])

    def set_inputs(self, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        """Copy arrays into the inputs called so; they stay for all later runs.

        Raises:
            DataError: the model has no such input.
        """
        strangers = sorted(set(feeds).difference(self.inputs))
        if strangers:
            raise DataError(f'{self._model} has no input {strangers}; it has {self.inputs}')
        arrays = {}
        for index, (name, array) in enumerate(feeds.items()):
            arrays[name] = str(Path(self._folder.name, f'in{index}.npy'))
            np.save(arrays[name], np.ascontiguousarray(array))
        self.ask('set', arrays=arrays)

    def run(self, repeats: int = 1) -> RunTimes:
        """Run the model ``repeats`` times and return how long each run took."""
        answer = self.ask('run', repeats=int(repeats))
        return RunTimes(answer['milliseconds'], answer['cpu_milliseconds'], answer['switches'])

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of the last run, in the model's order."""
        answer = self.ask('outputs', folder=self._folder.name)
        return {name: np.load(path) for name, path in answer['outputs']}

    def peak_bytes(self) -> int:
        """Return the largest resident size of the process so far."""
        return int(self.ask('memory')['peak_bytes'])

    def log(self) -> str:
        """Return what the process has written to stderr, and its libraries to stdout, so far."""
        return Path(self._folder.name, 'stderr').read_text('utf-8', 'replace')

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and return the answer.

        Raises:
            DeployError: the worker refused, crashed or did not answer in time.
        """
        line = json.dumps({'do': do, **arguments}).encode() + b'\n'
        try:
            self._pipe('stdin').write(line)
            self._pipe('stdin').flush()
        except (OSError, ValueError) as error:
            raise self._dead(do) from error
        answer: dict[str, Any] = json.loads(self._read_line(do))
        if not answer['ok']:
            raise DeployError(f'{self._runtime} refused {do!r} on {self._model}: {answer["error"]}')
        return answer

    def _read_line(self, do: str) -> bytes:
        """Return the next line that the worker writes, within the time allowed."""
        pipe = self._pipe('stdout')
        deadline = time.monotonic() + self.timeout
        while b'\n' not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise DeployError(f'{self._runtime} took over {self.timeout:g} s for {do!r} on {self._model}')
            piece = os.read(pipe.fileno(), 1 << 16)
            if not piece:
                raise self._dead(do)
            self._buffer += piece
        line, self._buffer = self._buffer.split(b'\n', 1)
        return line

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe

    def _dead(self, do: str) -> DeployError:
        if self._log.closed:
            return DeployError(f'{self._runtime} was asked for {do!r} on {self._model} after it had been closed')
        code = self._process.wait()
        return DeployError(f'{self._runtime} died at {do!r} on {self._model}: {cause_of_death(code, self.log())}')

    def close(self) -> None:
        """End the process; may be called again."""
        process = self._process
        if process.poll() is None:
            process.kill()
        process.wait()
        _close_quietly(self._pipe('stdin'))
        _close_quietly(self._pipe('stdout'))
        self._release()

    def _release(self) -> None:
        self._log.close()
        self._folder.cleanup()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:  # unsent data for a process that is gone
        return


def worker_environment(threads: int = 1) -> dict[str, str]:
    """Return the environment variables with which this Python finds this package and keeps to some threads."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    return {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': str(threads)}


def cause_of_death(code: int, log: str) -> str:
    """Say how a process ended, with the last fatal line of its log (``[F`` begins one), or else its last line."""
    try:
        how = f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
    except ValueError:
        how = f'killed by signal {-code}'
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    fatal = [index for index, line in enumerate(lines) if line.startswith('[F')]
    words = ' '.join(lines[fatal[-1] :]) if fatal else (lines[-1] if lines else 'nothing in its log')
    return f'{how}: {words[:_LONGEST]}'
