"""Jobs that are interrupted at one point, go on, and are compared with the same job that was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Compressor, Strategy
from tests.compress.job_net import tensors
from tests.compress.resume_job import Interrupt

# Callback, epoch and batch; NOWHERE is never reached.
Point = tuple[str, int, int]
NOWHERE: Point = ('nowhere', 0, 0)


class Interrupted(Exception):
    pass


def interrupt() -> None:
    raise Interrupted


def run_until(compressor: Compressor, strategies: Sequence[Strategy], point: Point, seed: int) -> dict[str, Any]:
    """Run a job that is interrupted at a point, and return everything that it ends with."""
    for strategy in (*strategies, Interrupt(point, interrupt)):
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
