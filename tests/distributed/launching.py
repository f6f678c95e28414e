"""Starting ranks in tests, on this machine's loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    """Return the test's environment, in which children find the package, and nothing of an outer launcher."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('PADDLE_')}
    path = os.pathsep.join(filter(None, [str(ROOT), str(HERE), os.environ.get('PYTHONPATH')]))
    return {**kept, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def run(script: Path, arguments: list[str], log: Path, ranks: int = 2, seconds: float = 120) -> int:
    """Run a script on several ranks with Paddle's launcher and return how it ended."""
    command = [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', str(ranks), '--log_dir', str(log)]
    done = subprocess.run(
        [*command, str(script), *arguments],
        env=environment(),
        cwd=log.parent,  # Paddle 2 leaves a file there
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return done.returncode


def launch(script: Path, arguments: list[str], log: Path, ranks: int = 2, seconds: float = 120) -> None:
    """Run a script on several ranks and fail with their logs where it fails."""
    assert run(script, arguments, log, ranks, seconds) == 0, logs(log)


def logs(folder: Path) -> str:
    return '\n'.join(f'{path}:\n{path.read_text()[-3000:]}' for path in sorted(folder.rglob('workerlog.*')))
