"""PaddleSlim-NG: makes Paddle static-graph networks smaller and faster, and proves what came out.

``import paddleslim_ng as slim`` looks at the version of Paddle and loads nothing. Submodules and the names below are
loaded at first use, with Paddle and numpy, and whatever is heavier than that inside the functions that need it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paddleslim_ng.errors import SlimError
from paddleslim_ng.version import __version__

if TYPE_CHECKING:
    from paddleslim_ng import (
        analysis,
        compress,
        core,
        data,
        deploy,
        dist,
        distributed,
        errors,
        models,
        prune,
        quant,
        runtime,
        sparse,
    )
    from paddleslim_ng.compress import Compressor, auto_compress
    from paddleslim_ng.core import Executor, GraphWrapper

__all__ = [
    'Compressor',
    'Executor',
    'GraphWrapper',
    'SlimError',
    '__version__',
    'analysis',
    'auto_compress',
    'compress',
    'core',
    'data',
    'deploy',
    'dist',
    'distributed',
    'errors',
    'models',
    'prune',
    'quant',
    'runtime',
    'sparse',
]

_OLDEST_PADDLE = (2, 6)
_SUBMODULES = frozenset(
    {
        'analysis',
        'compress',
        'core',
        'data',
        'deploy',
        'dist',
        'distributed',
        'errors',
        'models',
        'prune',
        'quant',
        'runtime',
        'sparse',
    }
)
# The package of each name that is offered here, too.
_HOMES = {'Compressor': 'compress', 'auto_compress': 'compress', 'Executor': 'core', 'GraphWrapper': 'core'}


def _require_paddle() -> None:
    """Raise ImportError, with the remedy, unless there is a Paddle that this package supports."""
    oldest = '.'.join(map(str, _OLDEST_PADDLE))
    found = _paddle_version()
    if found is None:
        raise ImportError(
            f'paddleslim_ng needs PaddlePaddle {oldest} or later, and there is none in this environment. Install the '
            "CPU build with `pip install 'paddleslim-ng[paddle]'`, or the build that fits your device."
        )
    numbers = tuple(int(part) for part in re.findall(r'\d+', found)[:2])
    # Builds from Paddle's development branch call themselves 0.0.0.
    if numbers < _OLDEST_PADDLE and numbers != (0, 0):
        raise ImportError(f'paddleslim_ng needs PaddlePaddle {oldest} or later, but this environment has {found}.')


def _paddle_version() -> str | None:
    """Return the version of Paddle, or None where there is none.

    Importing Paddle takes seconds, too many for ``paddleslim-ng --help``; its version stands in one of its files.
    """
    spec = importlib.util.find_spec('paddle') if 'paddle' not in sys.modules else None
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).with_name('version') / '__init__.py'
        written = re.search(r"^full_version *= *'([^']+)'", file.read_text('utf-8'), re.M) if file.is_file() else None
        if written is not None:
            return written[1]
    try:
        import paddle
    except ModuleNotFoundError as error:
        if error.name != 'paddle':
            raise
        return None
    return str(paddle.__version__)


_require_paddle()


def __getattr__(name: str) -> object:
    """Load a submodule, or a name of one, at first use."""
    if name in _SUBMODULES:
        return importlib.import_module(f'{__name__}.{name}')
    if name in _HOMES:
        return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
