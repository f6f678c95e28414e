"""The batches of an evaluation, dealt out to processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from paddleslim_ng.errors import DataError
from paddleslim_ng.prune.evaluation.engines import Arrays
from paddleslim_ng.prune.evaluation.evaluation_worker import Setup
from paddleslim_ng.prune.evaluation.prefix_cache import Outputs
from paddleslim_ng.prune.evaluation.subprogram import Part
from paddleslim_ng.prune.sensitive.masking import Footprint
from paddleslim_ng.runtime.inference_model import save_inference_model

__all__ = ['WorkerPool']

_MODULE = 'paddleslim_ng.prune.evaluation.evaluation_worker'
_SECONDS_TO_END = 5.0


class WorkerPool:
    """Runs a network on batches like :class:`NetworkRun`, batch ``i`` in process ``i % processes``.

    Each process is a fresh interpreter, so a script needs no ``__main__`` guard. It gets the network as an inference
    model, keeps parameters and shared prefixes of its own, and ends when this object is closed or its owner dies.

    Args:
        part: the network.
        scope: its parameters; copied.
        engine: ``'executor'``, ``'predictor'``, or ``'onednn'``, the executor with Paddle's oneDNN flag.
        feeds: all batches.
        processes: how many.
        threads: threads of the math library in each.
        cache_bytes: memory for shared prefixes, in all processes together.
    """

    def __init__(
        self,
        part: Part,
        scope: Any,
        engine: str,
        feeds: Sequence[Arrays],
        processes: int,
        threads: int,
        cache_bytes: int,
    ) -> None:
        self._count = len(feeds)
        self._folder = tempfile.TemporaryDirectory(prefix='slim_evaluation_')
        self._workers: list[_Process] = []
        model = self._save(part, scope, 'network')
        try:
            for index in range(min(processes, len(feeds))):
                self._workers.append(_Process(Path(self._folder.name) / f'{index}.log', _environment(engine, threads)))
            for index, worker in enumerate(self._workers):
                share = [dict(feed) for feed in feeds[index :: len(self._workers)]]
                worker.send(Setup(model, engine, threads, share, cache_bytes // len(self._workers)))
        except BaseException:
            self.close()
            raise

    def probe(self) -> Outputs:
        """Return the outputs for the first batch."""
        self._workers[0].send(('probe', None))
        return self._workers[0].receive()

    def plain(self) -> Iterator[Outputs]:
        """Yield the outputs of the unchanged network, batch by batch."""
        return self._ask('plain', None)

    def masked(self, footprint: Footprint) -> Iterator[Outputs]:
        """Yield the outputs with the positions of ``footprint`` zeroed, batch by batch."""
        return self._ask('masked', footprint)

    def other(self, part: Part, scope: Any) -> Iterator[Outputs]:
        """Yield the outputs of another network, batch by batch."""
        return self._ask('model', self._save(part, scope, 'other'))

    def close(self) -> None:
        """End the processes and remove the temporary files."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._folder.cleanup()

    def _ask(self, name: str, argument: object) -> Iterator[Outputs]:
        for worker in self._workers:
            worker.send((name, argument))
        for index in range(self._count):
            yield self._workers[index % len(self._workers)].receive()

    def _save(self, part: Part, scope: Any, name: str) -> Path:
        prefix = Path(self._folder.name) / name
        save_inference_model(part.program, prefix, part.feeds, part.fetches, scope, check=False)
        return prefix


class _Process:
    """One worker and the connection to it."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._channel, theirs = Pipe()
        with theirs, open(log, 'wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', _MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
            )

    def send(self, message: object) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            raise self._failure('') from error

    def receive(self) -> Outputs:
        try:
            answer: Outputs | str = self._channel.recv()
        except (EOFError, OSError) as error:
            raise self._failure('') from error
        if isinstance(answer, str):
            raise self._failure(answer)
        return answer

    def _failure(self, report: str) -> DataError:
        text = report or self._log.read_text(errors='replace')
        return DataError('an evaluation process failed; its last words were:\n' + '\n'.join(text.splitlines()[-12:]))

    def close(self) -> None:
        self._channel.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment(engine: str, threads: int) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': str(threads)}
    if engine == 'onednn':
        environment['FLAGS_use_mkldnn'] = '1'
    return environment
