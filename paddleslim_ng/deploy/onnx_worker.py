"""paddle2onnx and onnxruntime in processes of their own, for :mod:`paddleslim_ng.deploy.onnx`.

::

    python -m paddleslim_ng.deploy.onnx_worker export < job.json    write one .onnx file
    python -m paddleslim_ng.deploy.onnx_worker run < job.json       run one .onnx file on some feeds
    python -m paddleslim_ng.deploy.onnx_worker operators            list the operators that paddle2onnx converts

The last line on stdout is a JSON object. paddle2onnx ends the process where it meets an operator that it does not know.

**export** reads ``program`` and ``parameters`` (paths), ``out`` (path), ``opset`` (number), ``upgrade`` (whether a
higher one may be taken) and ``optimizer`` (null for none). No process may be started meanwhile: one of paddle2onnx's
optimizers installs packages with pip. **run** reads ``model`` (path), ``feeds`` (a list of ``{name: NPY}``) and
``folder``, and answers ``outputs``: a list of lists of NPY paths.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ['main']

_STARTS = frozenset(
    {
        'os.exec',
        'os.fork',
        'os.forkpty',
        'os.posix_spawn',
        'os.spawn',
        'os.startfile',
        'os.system',
        'pty.spawn',
        'subprocess.Popen',
    }
)


def forbid_processes() -> list[str]:
    """Make every start of a process from Python fail from now on, and note it in the list returned."""
    attempts: list[str] = []

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            attempts.append(f'{event} {arguments[:2]!r}'[:300])
            raise PermissionError(f'no process may be started here: {attempts[-1]}')

    sys.addaudithook(refuse)
    return attempts


def export(job: dict[str, Any]) -> dict[str, Any]:
    """Convert one model."""
    import paddle2onnx

    options: dict[str, Any] = {
        'opset_version': job['opset'],
        'auto_upgrade_opset': job['upgrade'],
        'verbose': False,
        'enable_onnx_checker': True,
    }
    if 'optimize_tool' in inspect.signature(paddle2onnx.export).parameters:
        options['optimize_tool'] = job['optimizer']
    attempts = forbid_processes()
    paddle2onnx.export(job['program'], job['parameters'], job['out'], **options)
    return {'attempts': attempts}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a model on each of the feeds."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(job['model'], options, providers=['CPUExecutionProvider'])
    outputs = []
    for index, feeds in enumerate(job['feeds']):
        arrays = {name: np.load(path) for name, path in feeds.items()}
        paths = []
        for position, array in enumerate(session.run(None, arrays)):
            paths.append(os.path.join(job['folder'], f'out{index}_{position}.npy'))
            np.save(paths[-1], array)
        outputs.append(paths)
    return {'outputs': outputs}


def operators(_: dict[str, Any]) -> dict[str, Any]:
    """List what paddle2onnx converts, by the names of each IR."""
    import paddle2onnx.paddle2onnx_cpp2py_export as binary

    lists = {'legacy': 'get_all_supported_operators', 'pir': 'get_all_supported_operators_pir'}
    return {ir: list(getattr(binary, name)()) for ir, name in lists.items() if hasattr(binary, name)}


_COMMANDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    'export': export,
    'run': run,
    'operators': operators,
}


def main() -> None:
    """Do what the command line says; what libraries write to stdout goes to stderr."""
    channel: TextIO = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    name = sys.argv[1]
    job = {} if name == 'operators' else json.load(sys.stdin)
    channel.write(json.dumps(_COMMANDS[name](job)) + '\n')
    channel.flush()


if __name__ == '__main__':
    main()
