"""A job that outlives the death and the freezing of its ranks: started again from the checkpoints it writes.

Paddle's launcher ends a job when a rank dies and leaves it at that; a rank that is frozen it does not notice on
Paddle 2. The supervisor wraps it: it watches heartbeats, ends what is left, and launches anew.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleslim_ng.distributed import rank_process
from paddleslim_ng.distributed.processes import end_sessions, is_alive, is_stopped, read_processes
from paddleslim_ng.errors import ConfigError, DistributedError

__all__ = ['Job', 'Supervision', 'supervise']

_logger = logging.getLogger(__name__)
_POLL = 0.2
_GRACE = 5.0
# Paddle holds Python's lock while ranks wait for each other at the start, and no heart beats then.
_PATIENCE = 5.0
_TAIL = 15


@dataclass(frozen=True)
class Job:
    """What to launch on this machine.

    Attributes:
        script: the training script; it restores its newest checkpoint when it starts.
        arguments: for the script.
        nproc: ranks on this machine.
        max_restarts: how often the job is launched again.
        deadline: seconds without a heartbeat after which a stopped rank counts as frozen; one that merely does not beat
            has five times as long.
        master: ``host:port`` of the first machine, where there are several.
        nnodes: number of machines.
        node: number of this machine.
        job_id: name of the job, the same on all machines.
        log_dir: the ranks' output goes to ``attempt-N/workerlog.R`` in it.
        interpreter: the Python to run; the running one where None.

    Raises:
        ConfigError: a value is unusable, or the script is missing.
    """

    script: str
    arguments: Sequence[str] = ()
    nproc: int = 1
    max_restarts: int = 3
    deadline: float = 60.0
    master: str | None = None
    nnodes: int = 1
    node: int | None = None
    job_id: str = 'default'
    log_dir: str = 'log'
    interpreter: str | None = None

    def __post_init__(self) -> None:
        if not self.script.endswith('.py') or not Path(self.script).is_file():
            raise ConfigError(f'{self.script!r} is no Python script')
        if self.nproc < 1 or self.nnodes < 1 or self.max_restarts < 0 or self.deadline <= 0:
            raise ConfigError('nproc and nnodes must be at least 1, max_restarts at least 0, and deadline positive')
        if self.nnodes > 1 and self.master is None:
            raise ConfigError(f'{self.nnodes} machines need master, the host:port of the first one')
        if self.node is not None and not 0 <= self.node < self.nnodes:
            raise ConfigError(f'rank {self.node} is outside {self.nnodes} machines')

    def command(self, folder: Path, attempt: int) -> list[str]:
        """Return the command line of one attempt, whose heartbeats go to ``folder``."""
        python = self.interpreter or sys.executable
        line = [python, '-m', 'paddle.distributed.launch', '--nproc_per_node', str(self.nproc)]
        line += ['--log_dir', str(Path(self.log_dir, f'attempt-{attempt}')), '--job_id', self.job_id]
        if self.master is not None:
            line += ['--master', self.master, '--nnodes', str(self.nnodes)]
        if self.node is not None:
            line += ['--rank', str(self.node)]
        interval = min(1.0, self.deadline / 5)
        wrapper = [str(Path(rank_process.__file__)), str(folder), str(interval), str(os.getpid())]
        return [*line, *wrapper, str(Path(self.script).resolve()), *self.arguments]


@dataclass
class Supervision:
    """How a supervised job went.

    Attributes:
        restarts: number of times it was launched again.
        failures: why, in order.
        seconds: how long it took.
    """

    restarts: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def supervise(job: Job, *, output: Any = None) -> Supervision:
    """Run a job to its end, launching it again after failures; the script resumes from its own checkpoints.

    Only processes of this job are ended, frozen and orphaned ones included, also when this function is left by an
    exception.

    Args:
        job: what to launch.
        output: a file for what the launcher prints, such as ``sys.stderr``; the standard output where None.

    Raises:
        DistributedError: the job failed more often than ``max_restarts``; the message ends in the last rank's log.
    """
    began, result = time.monotonic(), Supervision()
    while True:
        failure = _Attempt(job, result.restarts, output).run()
        if failure is None:
            result.seconds = time.monotonic() - began
            return result
        result.failures.append(failure)
        if result.restarts == job.max_restarts:
            raise DistributedError(
                f'{job.script} failed {len(result.failures)} times, the last time because {failure}; logs are in '
                f'{job.log_dir}{_tail(Path(job.log_dir, f"attempt-{result.restarts}"))}'
            )
        result.restarts += 1
        _logger.warning('%s; launching again (%d of %d)', failure, result.restarts, job.max_restarts)


class _Attempt:
    """One launch of the job."""

    def __init__(self, job: Job, number: int, output: Any) -> None:
        self._job, self._number, self._output = job, number, output
        self._seen: dict[int, tuple[float, float]] = {}
        self._sessions: set[int] = set()
        self._died: list[str] = []

    def run(self) -> str | None:
        """Return None when the job is done, else why it is not."""
        with tempfile.TemporaryDirectory(prefix='slim-beats-') as name:
            folder = Path(name)
            launcher = subprocess.Popen(
                self._job.command(folder, self._number), stdout=self._output, start_new_session=True
            )
            self._sessions.add(launcher.pid)
            try:
                return self._watch(launcher, folder)
            finally:
                self._end(launcher, folder)

    def _watch(self, launcher: subprocess.Popen[bytes], folder: Path) -> str | None:
        while True:
            failure = self._silent_rank(folder)
            code = launcher.poll()
            if code is not None:
                found = self._died[0] if self._died else f'the launcher ended with code {code}'
                return None if code == 0 else found
            if failure is not None:
                return failure
            time.sleep(_POLL)

    def _silent_rank(self, folder: Path) -> str | None:
        """Return what is wrong with a rank that has not beaten for too long."""
        now = time.monotonic()
        for process in read_processes(folder):
            self._sessions.add(process.session)
            who = f'rank {process.rank} (process {process.pid})'
            if not is_alive(process.pid) and f'{who} died' not in self._died:
                self._died.append(f'{who} died')
            try:
                beat = (folder / f'rank-{process.rank}.beat').stat().st_mtime
            except OSError:  # it has just ended
                continue
            last, since = self._seen.get(process.pid, (-1.0, now))
            if beat != last:
                self._seen[process.pid] = (beat, now)
                continue
            silence = now - since
            if silence <= self._job.deadline:
                continue
            if not is_alive(process.pid):
                return f'{who} died'
            if is_stopped(process.pid) or silence > _PATIENCE * self._job.deadline:
                return f'{who} is frozen: no heartbeat for {silence:.0f} s'
        return None

    def _end(self, launcher: subprocess.Popen[bytes], folder: Path) -> None:
        """End the launcher and every rank, and what they have started."""
        for state in ('rank', 'ended'):
            self._sessions.update(process.session for process in read_processes(folder, state))
        if launcher.poll() is None:
            launcher.terminate()
            try:
                launcher.wait(_GRACE)
            except subprocess.TimeoutExpired:
                launcher.kill()
        left = end_sessions(self._sessions)
        launcher.wait()
        if left:
            _logger.warning('processes %s of the job could not be ended', left)


def _tail(folder: Path) -> str:
    """Return the last lines of the log of the rank that wrote last."""
    logs = sorted(folder.glob('workerlog.*'), key=lambda path: path.stat().st_mtime)
    if not logs:
        return ''
    lines = logs[-1].read_text('utf-8', 'replace').splitlines()[-_TAIL:]
    return f'. The end of {logs[-1].name}:\n' + '\n'.join(lines)
