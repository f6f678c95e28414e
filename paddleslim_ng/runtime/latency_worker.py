"""Paddle Inference in a process of its own, for :mod:`paddleslim_ng.runtime.predictor_process`.

It reads one JSON object per line from stdin and answers each with one line on stdout. An answer has ``"ok": true``, or
``"ok": false`` and ``"error"`` (the process then goes on). End of input ends the process; Paddle's log goes to stderr.

==========================================  ============================================================================
``{"do": "load", "program": PATH,           makes a predictor: ``inputs`` (names) and ``library_bytes``, the resident
"parameters": PATH, "threads": 1,           size before
"onednn": true, "precision": "fp32"}``
``{"do": "set", "arrays": {NAME: NPY}}``    copies arrays into the inputs; they stay for all later runs
``{"do": "run", "repeats": 1}``             runs: per run, lists ``milliseconds`` (wall clock), ``cpu_milliseconds`` and
                                            ``switches`` (how often the system took the CPU away)
``{"do": "outputs", "folder": PATH}``       writes the outputs: list ``outputs`` of ``[NAME, NPY]``, in their order
``{"do": "memory"}``                        ``peak_bytes``: the largest resident size since ``load`` began
==========================================  ============================================================================
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from paddleslim_ng.runtime.predictor import cpu_predictor

__all__ = ['main']

Reply = dict[str, Any]


class _Server:
    """One predictor, and the commands on it."""

    def __init__(self) -> None:
        self.predictor: Any = None

    def load(self, command: Reply) -> Reply:
        from paddle import inference  # part of the library, not of the model

        del inference
        library = _resident('VmRSS')
        _forget_peak()
        self.predictor = cpu_predictor(
            command['program'],
            command['parameters'],
            threads=command['threads'],
            onednn=command['onednn'],
            precision=command['precision'],
        )
        return {'inputs': list(self.predictor.get_input_names()), 'library_bytes': library}

    def set(self, command: Reply) -> Reply:
        for name, path in command['arrays'].items():
            self.predictor.get_input_handle(name).copy_from_cpu(np.load(path))
        return {}

    def run(self, command: Reply) -> Reply:
        wall: list[float] = []
        cpu: list[float] = []
        switches: list[int] = []
        for _ in range(command['repeats']):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            cpu_begin, begin = time.process_time(), time.perf_counter()
            self.predictor.run()
            wall.append((time.perf_counter() - begin) * 1e3)
            cpu.append((time.process_time() - cpu_begin) * 1e3)
            switches.append(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before)
        return {'milliseconds': wall, 'cpu_milliseconds': cpu, 'switches': switches}

    def outputs(self, command: Reply) -> Reply:
        written = []
        for index, name in enumerate(self.predictor.get_output_names()):
            path = os.path.join(command['folder'], f'{index}.npy')
            np.save(path, self.predictor.get_output_handle(name).copy_to_cpu())
            written.append([name, path])
        return {'outputs': written}

    def memory(self, _: Reply) -> Reply:
        return {'peak_bytes': _resident('VmHWM')}


def _resident(field: str) -> int:
    """Return a size of this process in bytes, as Linux counts it."""
    lines = Path('/proc/self/status').read_text('ascii').splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def _forget_peak() -> None:
    """Let the largest resident size be counted from now on; where Linux refuses, importing Paddle counts too."""
    try:
        Path('/proc/self/clear_refs').write_text('5', 'ascii')
    except OSError:
        return


def _serve(channel: TextIO) -> None:
    server = _Server()
    commands: dict[str, Callable[[Reply], Reply]] = {
        'load': server.load,
        'set': server.set,
        'run': server.run,
        'outputs': server.outputs,
        'memory': server.memory,
    }
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = {'ok': True, **commands[command['do']](command)}
        except (ValueError, KeyError, TypeError, OSError, RuntimeError, AttributeError) as error:
            reply = {'ok': False, 'error': _one_line(error)}
        channel.write(json.dumps(reply) + '\n')
        channel.flush()


def _one_line(error: BaseException) -> str:
    """Return the summary of one of Paddle's long messages: the line that begins with the kind of error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summary = next((line for line in lines if re.match(r'\(\w+\) |\w+Error:', line)), ' '.join(lines[:3]))
    return f'{type(error).__name__}: {summary}'


def main() -> None:
    """Obey commands until the input ends; what libraries write to stdout goes to stderr."""
    channel = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    _serve(channel)


if __name__ == '__main__':
    main()
