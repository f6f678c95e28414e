"""Jobs that are killed at random points and moments end as those that are not: tensors, metrics, log and files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compress import killed_jobs
from tests.compress.job_net import same

ROOT = Path(__file__).resolve().parents[2]
POINTS = ('epoch_begin', 'batch_begin', 'batch_end', 'epoch_end', 'compression_end', 'write')
SECONDS = {'seconds': 0}


def run(folder: Path, name: str, form: str, *point: str, seconds: float | None = None) -> int:
    """Run a job in a process of its own, which is killed at a point, or after a time; return how it ended."""
    command = [sys.executable, killed_jobs.__file__, str(folder), name, form, *point]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    with (
        (folder / 'log.txt').open('a') as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            process.wait(240 if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
    assert code in (0, -signal.SIGKILL), (folder / 'log.txt').read_text()[-3000:]
    return code


def draw_point(draw: random.Random) -> str:
    what = draw.choice(POINTS)
    first = {'write': draw.randrange(1, 9), 'compression_end': killed_jobs.EPOCHS - 1}.get(
        what, draw.randrange(killed_jobs.EPOCHS)
    )
    return f'{what}:{first}:{draw.randrange(4) if what.startswith("batch") else -1}'


def end(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a job has ended with, and its files without what tells the time."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob('*')):
        name = str(path.relative_to(folder))
        hidden = any(part.startswith('.') for part in Path(name).parts)  # what a killed export leaves
        if path.is_file() and not hidden and not name.startswith('checkpoints') and name not in ('end.npz', 'log.txt'):
            files[name] = path.read_bytes()
    if 'metrics.jsonl' in files:
        files['metrics.jsonl'] = [{**json.loads(line), **SECONDS} for line in files['metrics.jsonl'].splitlines()]
    return dict(np.load(folder / 'end.npz')), files


CASES = [
    ('overlap', 'by_epoch'),
    ('overlap', 'noisy_loader'),
    ('rounds', 'generator'),
    ('masked', 'noisy_workers'),
    ('masked', 'loader'),
    ('afterwards', 'workers'),
]


@pytest.mark.full
@pytest.mark.parametrize(('name', 'form'), CASES)
def test_a_job_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path, name: str, form: str) -> None:
    draw = random.Random(f'{name} {form}')
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    whole.mkdir()
    parts.mkdir()
    started = time.monotonic()
    assert run(whole, name, form) == 0
    lasted = time.monotonic() - started
    points = [draw_point(draw) for _ in range(2)]
    for point in points:
        run(parts, name, form, point)
    run(parts, name, form, seconds=lasted * draw.uniform(0.3, 0.8))
    assert run(parts, name, form) == 0
    tensors, files = end(parts)
    expected, written = end(whole)
    same(tensors, expected)
    assert set(files) == set(written) and 'metrics.jsonl' in files, points
    # Paddle 2 calls the outputs of a saved graph by a count of its process.
    compared = [name for name in written if not name.endswith('.pdmodel')]
    assert [name for name in compared if files[name] != written[name]] == [], points
    assert [line['epoch'] for line in files['metrics.jsonl']] == list(range(killed_jobs.EPOCHS))
