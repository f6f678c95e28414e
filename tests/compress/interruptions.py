"""Jobs that are interrupted at one point, go on, and are compared with the same job that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Compressor, Context, Strategy
from paddleslim_ng.runtime import snapshot
from tests.compress.job_net import tensors

# Callback, epoch and batch; NOWHERE is never reached.
Point = tuple[str, int, int]
NOWHERE: Point = ('nowhere', 0, 0)


class Interrupt(Strategy):
    """Calls a function at a point: (callback, epoch, batch)."""

    def __init__(self, point: tuple[str, int, int], action: Callable[[], None]) -> None:
        super().__init__()
        self.point, self.action = point, action

    def _at(self, what: str, context: Context) -> None:
        if self.point[:2] == (what, context.epoch_id) and self.point[2] in (-1, context.batch_id):
            self.action()

    def on_compression_begin(self, context: Context) -> None:
        self._at('compression_begin', context)

    def on_epoch_begin(self, context: Context) -> None:
        self._at('epoch_begin', context)

    def on_batch_begin(self, context: Context) -> None:
        self._at('batch_begin', context)

    def on_batch_end(self, context: Context) -> None:
        self._at('batch_end', context)

    def on_epoch_end(self, context: Context) -> None:
        self._at('epoch_end', context)

    def on_compression_end(self, context: Context) -> None:
        self._at('compression_end', context)


class Interrupted(Exception):
    pass


def interrupt() -> None:
    raise Interrupted


def kill() -> None:
    """End this process as an emergency would, on the spot."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing(number: int) -> None:
    """Die in the midst of the write of a checkpoint, when half of a temporary file is on the disk."""
    write, left = snapshot.atomic_write, [number]

    def writing(path: Any, content: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            Path(path).with_name(f'.{Path(path).name}.0.tmp').write_bytes(content[: len(content) // 2])
            kill()
        write(path, content)

    snapshot.atomic_write = writing


def run_until(
    compressor: Compressor,
    strategies: Sequence[Strategy],
    point: Point,
    seed: int,
    action: Callable[[], None] = interrupt,
) -> dict[str, Any]:
    """Run a job that is interrupted at a point, by what an action does, and return everything that it ends with."""
    for strategy in (*strategies, Interrupt(point, action)):
        compressor.add_strategy(strategy)
    paddle.seed(seed)
    result = compressor.run()
    found = tensors(result.train_program, result.scope)
    found.update({f'eval {key}': value for key, value in tensors(result.eval_program, result.scope).items()})
    found.update({f'metric {key}': np.array(value) for key, value in compressor.context.eval_results.items()})
    found['journal'] = np.array([f'{entry.strategy} {entry.epoch_id}' for entry in result.journal])
    found['losses'] = np.array([record.train['loss'] for record in result.records])
    return found


def whole_runs(job: Callable[..., dict[str, Any]]) -> Any:
    """Return a fixture: what a job ends with when nothing interrupts it, run once for each name."""

    @pytest.fixture(scope='module')
    def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
        known: dict[str, dict[str, Any]] = {}

        def find(name: str) -> dict[str, Any]:
            if name not in known:
                paddle.enable_static()
                known[name] = job(name, tmp_path_factory.mktemp(name))
            return known[name]

        return find

    return whole


def at_points(jobs: Mapping[str, tuple[Any, Sequence[Point]]], always: int = 1) -> Any:
    """Parametrize a test by job and point; points beyond the first ``always`` of a job are long tests."""
    rows = [
        pytest.param(name, point, marks=[pytest.mark.full] if number >= always else [])
        for name, (_, points) in jobs.items()
        for number, point in enumerate(points)
    ]
    return pytest.mark.parametrize(
        ('name', 'point'), rows, ids=lambda value: value if isinstance(value, str) else '-'.join(map(str, value))
    )
