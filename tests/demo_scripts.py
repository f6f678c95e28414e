"""Scripts of demo/ run from their command lines, as users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / 'demo'


def environment() -> dict[str, str]:
    """Return an environment for one process: one thread, this checkout, nothing of a launcher."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('PADDLE_')}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return {**kept, 'PYTHONPATH': path, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'}


def run(*command: str, folder: Path, code: int = 0) -> str:
    """Run a command in a folder, and return what it says; it has to end with this code."""
    done = subprocess.run(
        command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def demo(name: str, *arguments: str, folder: Path, code: int = 0) -> str:
    """Run a script of demo/, such as ``'quant_aware/quant_aware'``."""
    return run(sys.executable, str(DEMO / f'{name}.py'), *arguments, folder=folder, code=code)


def figures(folder: Path) -> dict[str, Any]:
    """Return what a script has written into ``figures.json``."""
    return dict(json.loads((folder / 'figures.json').read_text('utf-8')))
