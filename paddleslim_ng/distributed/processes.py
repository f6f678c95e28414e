"""The processes of a supervised job: who they are, whether they live, and their end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ['RankProcess', 'end_sessions', 'is_alive', 'is_stopped', 'read_processes']

_PROC = Path('/proc')
_POLL = 0.05


class RankProcess(NamedTuple):
    """A rank's process, as it has told in its record."""

    rank: int
    pid: int
    session: int


def read_processes(folder: Path, state: str = 'rank') -> list[RankProcess]:
    """Return the processes that have a record in a folder, by rank: those at work, or those that have ``'ended'``."""
    found = []
    for path in folder.glob(f'{state}-*.json'):
        try:
            record = json.loads(path.read_text('utf-8'))
        except (OSError, ValueError):  # just removed
            continue
        found.append(RankProcess(int(path.stem.partition('-')[2]), record['pid'], record['session']))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of this id that has not ended."""
    state = _state(pid)
    if state is not None:
        return state not in 'ZX'
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _PROC.is_dir()


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal or a tracer; False where the system does not tell."""
    state = _state(pid)
    return state is not None and state in 'Tt'


def end_sessions(sessions: Iterable[int], seconds: float = 10.0) -> list[int]:
    """Kill all processes of some sessions, those without a parent too, and wait until they are gone.

    Args:
        sessions: ids of sessions that were made for the job; that of this process is left alone.
        seconds: how long to wait.

    Returns:
        Ids of processes that are still there.
    """
    wanted = set(sessions) - {os.getsid(0)}
    deadline = time.monotonic() + seconds
    while True:
        living = [pid for pid in _members(wanted) if is_alive(pid)]
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(_POLL)


def _members(sessions: set[int]) -> Iterator[int]:
    """Yield the processes of sessions; their leaders alone where the system does not list processes."""
    if not _PROC.is_dir():
        yield from sessions
        return
    for path in _PROC.iterdir():
        if path.name.isdigit():
            fields = _fields(int(path.name))
            if len(fields) > 3 and int(fields[3]) in sessions:
                yield int(path.name)


def _state(pid: int) -> str | None:
    fields = _fields(pid)
    return fields[0] if fields else None


def _fields(pid: int) -> list[str]:
    """Return what stands behind the name in ``/proc/PID/stat``: state, parent, group, session, ..."""
    try:
        return (_PROC / str(pid) / 'stat').read_text('utf-8', 'replace').rpartition(')')[2].split()
    except OSError:
        return []
