"""Paddle Lite in a process of its own: a script for an interpreter that has ``paddlelite``, numpy and nothing else.

Paddle Lite reports failure by killing its process, and its wheel exists for few interpreters. So nobody imports it:
:mod:`paddleslim_ng.deploy.lite_process` starts this file, which needs neither Paddle nor this package.

Usage::

    python lite_worker.py probe                 one JSON object on stdout: versions of python, numpy and opt
    python lite_worker.py convert < job.json    write one ``.nb``; the last line on stdout is {"ok": true}
    python lite_worker.py operators < job.json  print the converter's table of operators for ``targets``, to stderr
    python lite_worker.py serve                 load and run ``.nb`` files, a dialogue in JSON lines

**convert** reads one JSON object: ``program`` and ``parameters`` (paths), ``out`` (path without ``.nb``), ``targets``
(such as ``"arm"``), ``fp16`` (bool), ``sparse`` (threshold or null), ``storage`` (``"QUANT_INT8"``, ``"QUANT_INT16"``
or null).

**serve** reads one JSON object per line from stdin and answers each with one line on stdout. An answer has ``"ok":
true``, or ``"ok": false`` and ``"error"`` (the process then goes on). End of input ends the process. Paddle Lite's own
log goes to stderr. The commands:

==========================================  ============================================================================
``{"do": "load", "file": PATH}``            makes a fresh predictor: ``inputs`` (names), ``milliseconds`` of loading and
                                            ``library_bytes``, the resident size before
``{"do": "set", "arrays": {NAME: NPY}}``    copies arrays into the inputs; they stay for all later runs
``{"do": "run", "repeats": 1}``             runs: per run, lists ``milliseconds`` (wall clock), ``cpu_milliseconds`` and
                                            ``switches`` (how often the system took the CPU away)
``{"do": "outputs", "folder": PATH}``       writes the outputs: list ``outputs`` of ``[NAME, NPY]``, in their order
``{"do": "memory"}``                        ``peak_bytes``: the largest resident size of the process so far
``{"do": "quit"}``                          answers and ends
==========================================  ============================================================================

``MobileConfig`` cannot set the number of threads: the parent sets ``OMP_NUM_THREADS`` in this process's environment.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Dict, TextIO  # noqa: UP035  # an alias is evaluated, and Python 3.8 is served, too

Reply = Dict[str, Any]  # noqa: UP006


def answer_channel() -> TextIO:
    """Return a private stream to the parent, and send everything else that is written to stdout to stderr."""
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    return channel


def probe() -> Reply:
    """Tell the versions at work."""
    import numpy as np
    from paddlelite import lite

    return {'python': platform.python_version(), 'numpy': np.__version__, 'opt': str(lite.Opt().version())}


def convert(job: Reply) -> Reply:
    """Run Paddle Lite's optimizer on one model."""
    from paddlelite import lite

    opt = lite.Opt()
    opt.set_model_file(job['program'])
    opt.set_param_file(job['parameters'])
    if job['fp16']:
        opt.enable_fp16()  # before the places: afterwards it has no effect, and no error either
    opt.set_valid_places(job['targets'])
    opt.set_model_type('naive_buffer')
    if job['storage']:
        opt.set_quant_model(True)
        opt.set_quant_type(job['storage'])
    if job['sparse'] is not None:
        opt.set_sparse_model(True)
        opt.set_sparse_threshold(job['sparse'])
    opt.set_optimize_out(job['out'])
    opt.run()
    return {}


def operators(job: Reply) -> Reply:
    """Have Paddle Lite print the operators that it has for some targets."""
    from paddlelite import lite

    opt = lite.Opt()
    opt.set_valid_places(job['targets'])
    opt.print_supported_ops()
    return {}


class Server:
    """One predictor at a time, and the commands on it."""

    def __init__(self) -> None:
        self.predictor: Any = None

    def load(self, command: Reply) -> Reply:
        """Make a fresh predictor of a ``.nb`` file."""
        from paddlelite import lite

        library = resident_bytes('VmRSS')
        config = lite.MobileConfig()
        config.set_model_from_file(command['file'])
        begin = time.perf_counter()
        self.predictor = lite.create_paddle_predictor(config)
        taken = (time.perf_counter() - begin) * 1e3
        inputs = list(self.predictor.get_input_names())
        return {'inputs': inputs, 'milliseconds': taken, 'library_bytes': library}

    def set(self, command: Reply) -> Reply:
        """Copy arrays into the inputs."""
        import numpy as np

        predictor = self._loaded()
        known = predictor.get_input_names()
        for name, path in command['arrays'].items():
            if name not in known:  # Paddle Lite would end the process
                raise KeyError(f'no input {name!r}; the model has {known}')
            tensor, array = predictor.get_input_by_name(name), np.ascontiguousarray(np.load(path))
            fill(tensor, array)
            if not np.array_equal(tensor.numpy(), array, equal_nan=array.dtype.kind == 'f'):
                raise ValueError(f'Paddle Lite garbled the {array.dtype} input {name!r}; numpy is {np.__version__}')
        return {}

    def run(self, command: Reply) -> Reply:
        """Run the predictor and take the time."""
        predictor = self._loaded()
        wall: list[float] = []
        cpu: list[float] = []
        switches: list[int] = []
        for _ in range(int(command.get('repeats', 1))):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            cpu_begin, begin = time.process_time(), time.perf_counter()
            predictor.run()
            wall.append((time.perf_counter() - begin) * 1e3)
            cpu.append((time.process_time() - cpu_begin) * 1e3)
            switches.append(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before)
        return {'milliseconds': wall, 'cpu_milliseconds': cpu, 'switches': switches}

    def outputs(self, command: Reply) -> Reply:
        """Write the outputs into a folder."""
        import numpy as np

        predictor = self._loaded()
        written = []
        for index, name in enumerate(predictor.get_output_names()):
            path = os.path.join(command['folder'], '%d.npy' % index)  # noqa: UP031
            np.save(path, np.asarray(predictor.get_output(index).numpy()))
            written.append([name, path])
        return {'outputs': written}

    def memory(self, command: Reply) -> Reply:
        """Tell the largest resident size so far."""
        return {'peak_bytes': resident_bytes('VmHWM')}

    def quit(self, command: Reply) -> Reply:
        """Let go of the predictor."""
        self.predictor = None
        return {}

    def _loaded(self) -> Any:
        if self.predictor is None:
            raise ValueError('load a file first')
        return self.predictor


def fill(tensor: Any, array: Any) -> None:
    """Copy an array into an input of Paddle Lite.

    The wheel was built for numpy 1. With numpy 2, ``from_numpy`` sets shape and element type, takes every array for one
    of zero bytes, and leaves the content as it was, without an error. ``numpy`` is a view of the input.
    """
    tensor.from_numpy(array)
    tensor.numpy()[...] = array


def serve(channel: TextIO) -> None:
    """Answer commands until ``quit`` or the end of the input."""
    server = Server()
    commands: dict[str, Callable[[Reply], Reply]] = {
        'load': server.load,
        'set': server.set,
        'run': server.run,
        'outputs': server.outputs,
        'memory': server.memory,
        'quit': server.quit,
    }
    for line in sys.stdin:
        do = None
        try:
            command = json.loads(line)
            do = command.get('do')
            if do not in commands:
                raise ValueError(f'unknown command {do!r}; known: {sorted(commands)}')
            reply = {'ok': True, **commands[do](command)}
        except (ValueError, KeyError, TypeError, OSError, RuntimeError, AttributeError) as error:
            reply = {'ok': False, 'error': f'{type(error).__name__}: {error}'}
        say(channel, reply)
        if do == 'quit':
            break


def resident_bytes(field: str) -> int:
    """Return a resident size of this process; getrusage would count the parent's, from before the exec."""
    with open('/proc/self/status', encoding='ascii') as status:
        sizes = [int(line.split()[1]) for line in status if line.startswith(field)]
    return sizes[0] * 1024


def say(channel: TextIO, reply: Reply) -> None:
    """Write one line to the parent."""
    channel.write(json.dumps(reply) + '\n')
    channel.flush()


def main() -> int:
    """Do what the command line says."""
    # Python puts the folder of a script first, and files of this folder could hide modules that numpy imports.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]
    mode = sys.argv[1] if len(sys.argv) == 2 else ''
    channel = answer_channel()
    if mode == 'serve':
        serve(channel)
    elif mode == 'convert':
        say(channel, {'ok': True, **convert(json.load(sys.stdin))})
    elif mode == 'operators':
        say(channel, {'ok': True, **operators(json.load(sys.stdin))})
    elif mode == 'probe':
        say(channel, {'ok': True, **probe()})
    else:
        sys.stderr.write(f'usage: {sys.argv[0]} probe | convert | operators | serve\n')
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
