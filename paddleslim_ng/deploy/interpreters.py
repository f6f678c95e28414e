"""Finding a Python that has Paddle Lite, whose wheel exists for Python 3.8 to 3.10 only."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddleslim_ng.errors import DeployError

__all__ = ['WORKER', 'LiteInterpreter', 'environment_of', 'find_interpreter']

WORKER = Path(__file__).with_name('lite_worker.py')
_VERSIONS = ('3.10', '3.9', '3.8')
_SECONDS = 60.0
_REMEDY = (
    'Paddle Lite has wheels for Python 3.8 to 3.10 on Linux x86-64. Make an environment with `python3.10 -m venv '
    'lite-env && lite-env/bin/pip install numpy paddlelite==2.13rc0`, and name it: interpreter="lite-env/bin/python"'
)


@dataclass(frozen=True)
class LiteInterpreter:
    """A Python that imports ``paddlelite``.

    Attributes:
        path: the executable.
        python: its version, such as ``'3.10.13'``.
        opt_version: version of the Paddle Lite in it, such as ``'v2.13-rc'``.
    """

    path: Path
    python: str
    opt_version: str


def find_interpreter(interpreter: str | os.PathLike[str] | None = None) -> LiteInterpreter:
    """Return a Python that has Paddle Lite, tried by running it.

    Looked at are, in this order: the interpreter named; or else the running one, ``.venv*`` folders in the working
    folder and beside the running environment, ``python3.10``, ``python3.9`` and ``python3.8`` on the search path, and
    pyenv's versions of these.

    Args:
        interpreter: path or name of a Python; no other is tried then.

    Raises:
        DeployError: there is none; the message says what was tried and what to install.
    """
    tried: list[str] = []
    for candidate in _candidates() if interpreter is None else [os.fspath(interpreter)]:
        try:
            return _probe(candidate)
        except DeployError as error:
            tried.append(f'{candidate}: {error}')
    raise DeployError(f'no Python with Paddle Lite was found ({"; ".join(tried)}). {_REMEDY}')


def environment_of(python: str | os.PathLike[str], threads: int = 1) -> dict[str, str]:
    """Return the environment variables for a worker: the search path for modules is this Python's own."""
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    if os.path.abspath(python) != os.path.abspath(sys.executable):
        for name in ('PYTHONPATH', 'PYTHONHOME'):
            environment.pop(name, None)
    return environment


def _candidates() -> Iterator[str]:
    """Yield existing interpreters, each once, cheapest first."""
    seen = set()
    for path in _paths():
        key = os.path.abspath(path)
        if key not in seen and os.access(key, os.X_OK):
            seen.add(key)
            yield key


def _paths() -> Iterator[str]:
    yield sys.executable
    for folder in dict.fromkeys((Path.cwd(), Path(sys.prefix).parent)):
        yield from sorted(str(path) for path in folder.glob('.venv*/bin/python'))
    for version in _VERSIONS:
        found = shutil.which(f'python{version}')
        if found:
            yield found
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv') / 'versions'
    for version in _VERSIONS:
        yield from sorted(str(path) for path in pyenv.glob(f'{version}.*/bin/python'))


@functools.lru_cache(maxsize=32)
def _probe(python: str) -> LiteInterpreter:
    """Run one candidate; an answer is remembered, a failure is not, so that an installation helps at once."""
    path = shutil.which(python)
    if path is None:
        raise DeployError('not an executable file')
    try:
        done = subprocess.run(
            [path, os.fspath(WORKER), 'probe'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=environment_of(path),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeployError(f'does not run ({type(error).__name__})') from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines()
        raise DeployError(words[-1] if words else f'exit code {done.returncode}')
    answer = json.loads(lines[-1])
    return LiteInterpreter(Path(path), answer['python'], answer['opt'])
