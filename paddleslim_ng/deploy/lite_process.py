"""The parent's side of :mod:`paddleslim_ng.deploy.lite_worker`: Paddle Lite's crashes become exceptions here."""

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
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.deploy.interpreters import WORKER, environment_of, find_interpreter
from paddleslim_ng.errors import DataError, DeployError

__all__ = ['LiteProcess', 'RunTimes', 'cause_of_death', 'run_once']

_LONGEST = 1500


class RunTimes(NamedTuple):
    """Times of single runs, in milliseconds.

    Attributes:
        wall: by the clock.
        cpu: spent by all threads of the process.
    """

    wall: list[float]
    cpu: list[float]


class LiteProcess:
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
        self.timeout = timeout
        self._file = path.resolve()
        self._buffer = b''
        self._folder = tempfile.TemporaryDirectory()
        self._log = open(Path(self._folder.name, 'stderr'), 'wb')  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                [python, WORKER, 'serve'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment_of(python, threads),
            )
        except OSError as error:
            self._release()
            raise DeployError(f'cannot start {python}: {error}') from error
        try:
            #: Names of the model's inputs, in order.
            self.inputs: list[str] = list(self.ask('load', file=str(self._file))['inputs'])
        except BaseException:
            self.close()
            raise

    def set_inputs(self, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        """Copy arrays into the inputs called so; they stay for all later runs.

        Raises:
            DataError: the model has no such input.
        """
        strangers = sorted(set(feeds).difference(self.inputs))
        if strangers:
            raise DataError(f'{self._file.name} has no input {strangers}; it has {self.inputs}')
        arrays = {}
        for index, (name, array) in enumerate(feeds.items()):
            arrays[name] = str(Path(self._folder.name, f'in{index}.npy'))
            np.save(arrays[name], np.ascontiguousarray(array))
        self.ask('set', arrays=arrays)

    def run(self, repeats: int = 1) -> RunTimes:
        """Run the model ``repeats`` times and return how long each run took."""
        answer = self.ask('run', repeats=int(repeats))
        return RunTimes(list(answer['milliseconds']), list(answer['cpu_milliseconds']))

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of the last run, in the model's order."""
        answer = self.ask('outputs', folder=self._folder.name)
        return {name: np.load(path) for name, path in answer['outputs']}

    def peak_bytes(self) -> int:
        """Return the largest resident size of the process so far."""
        return int(self.ask('memory')['peak_bytes'])

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one command of :mod:`paddleslim_ng.deploy.lite_worker` and return the answer.

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
            raise DeployError(f'Paddle Lite refused {do!r} on {self._file.name}: {answer["error"]}')
        return answer

    def _read_line(self, do: str) -> bytes:
        """Return the next line that the worker writes, within the time allowed."""
        pipe = self._pipe('stdout')
        deadline = time.monotonic() + self.timeout
        while b'\n' not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise DeployError(f'Paddle Lite took over {self.timeout:g} s for {do!r} on {self._file.name}')
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
        code = self._process.wait()
        words = Path(self._folder.name, 'stderr').read_text('utf-8', 'replace')
        return DeployError(f'Paddle Lite died at {do!r} on {self._file.name}: {cause_of_death(code, words)}')

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

    def __enter__(self) -> LiteProcess:
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


def cause_of_death(code: int, log: str) -> str:
    """Say how a process ended, with the last fatal line of Paddle Lite's log, or else its last line."""
    try:
        how = f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
    except ValueError:
        how = f'killed by signal {-code}'
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    fatal = [index for index, line in enumerate(lines) if line.startswith('[F')]
    words = ' '.join(lines[fatal[-1] :]) if fatal else (lines[-1] if lines else 'nothing in its log')
    return f'{how}: {words[:_LONGEST]}'


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
