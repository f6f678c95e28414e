"""A run that was killed goes on from its checkpoint to the same bits."""

from __future__ import annotations

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

from paddleslim_ng.errors import CheckpointError
from paddleslim_ng.sparse import UnstructuredPruner
from tests.sparse.resume_worker import STEPS, Run
from tests.sparse.sparse_net import SparseNet

ROOT = Path(__file__).resolve().parents[2]


def _same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert set(left) == set(right)
    for name, value in left.items():
        assert np.asarray(value).tobytes() == np.asarray(right[name]).tobytes(), name


@pytest.mark.parametrize('regrowth', [False, True])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, regrowth: bool) -> None:
    whole = Run(regrowth)
    whole.go(STEPS)
    expected = whole.everything()
    last = random.Random(int(regrowth)).randrange(5, STEPS - 5)
    command = [sys.executable, '-m', 'tests.sparse.resume_worker', str(tmp_path), str(int(regrowth))]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = tmp_path / 'checkpoint.npz'
    deadline = time.monotonic() + 120
    while worker.poll() is None and time.monotonic() < deadline:
        if path.exists():
            with np.load(path) as found:
                if int(found['pruner:iteration']) >= last:
                    break
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL and path.exists()
    resumed = Run(regrowth)
    resumed.load(path)
    assert last <= resumed.pruner.iteration < STEPS
    resumed.go(STEPS)
    _same(resumed.everything(), expected)


def test_every_step_resumes(tmp_path: Path) -> None:
    """Wherever the run stops, the rest is the same: at updates of masks, before them and behind."""
    whole = Run(True)
    paths = []
    for step in range(1, 13):
        whole.go(step)
        whole.save(tmp_path / f'{step}.npz')
        paths.append(tmp_path / f'{step}.npz')
    expected = whole.everything()
    resumed = Run(True)
    for path in paths:
        resumed.load(path)
        resumed.go(12)
        _same(resumed.everything(), expected)


def test_states_of_other_pruners_are_refused() -> None:
    net = SparseNet()
    pruner = UnstructuredPruner(net.main, scope=net.scope)
    net.start()
    pruner.step()
    state, before = pruner.state_dict(), net.persistables()
    assert state['mask/fc'].nbytes == 8  # one bit per weight
    cut = {**state, 'shape/fc': np.array([4, 16])}
    other = {key: value for key, value in state.items() if not key.endswith('/fc')}
    for wrong, message in (
        ({}, 'no state of a pruner'),
        ({**state, 'format': np.array(9)}, 'format 9'),
        (other, r"only one side has \['fc'\]"),
        (cut, r"the mask of 'fc' has the shape \(4, 16\)"),
        ({**state, 'backup/fc': np.zeros([16, 4])}, 'regrowth=True'),
    ):
        with pytest.raises(CheckpointError, match=message):
            pruner.load_state_dict(wrong)
    _same(net.persistables(), before)
    _same(pruner.state_dict(), state)
