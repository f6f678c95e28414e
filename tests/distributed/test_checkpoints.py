"""Checkpoints of one process: everything comes back bit by bit, and what does not fit changes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleslim_ng.core import Executor, load_array, store_array
from paddleslim_ng.distributed import Checkpoints, Ranks
from paddleslim_ng.errors import CheckpointError, ConfigError, GraphError
from tests.distributed import nets

ALONE = Ranks(0, 1)


class Counter:
    """Something with a state: a schedule, a pruner, a reader."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {'values': list(self.values), 'array': np.array(self.values)}

    def load_state_dict(self, state: Any) -> None:
        assert state['array'].tolist() == state['values']
        self.values = state['values']


class Run:
    """A training with dropout, Adam, a learning rate schedule, batch norm, and random numbers of every kind."""

    def __init__(self, folder: Path, seed: int) -> None:
        main, startup = paddle.static.Program(), paddle.static.Program()
        self.scheduler = paddle.optimizer.lr.StepDecay(0.01, step_size=2)
        with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [4, 6], 'float32')
            h = F.dropout(paddle.nn.BatchNorm1D(6)(paddle.nn.Linear(6, 6)(x)), 0.5)
            paddle.optimizer.Adam(self.scheduler).minimize(paddle.mean(paddle.nn.Linear(6, 1)(h)))
        self.net = nets.Net(main, startup, None, paddle.static.Scope(), Executor())
        nets.start(self.net)
        self.counter, self.data, self.python = Counter(), np.random.default_rng(seed), random.Random(seed)
        generators = {'data': self.data, 'python': self.python, 'old': np.random.RandomState(seed)}
        self.old = generators['old']
        states = {'counter': self.counter}
        self.checkpoints = Checkpoints(folder, main, self.net.scope, states=states, generators=generators, ranks=ALONE)

    def step(self) -> None:
        noise = [self.data.random(), self.python.gauss(0, 1), self.old.randn(), random.random()]
        noise.append(np.random.rand())  # noqa: NPY002  # the user's global generator is restored, too
        self.counter.values.append(float(sum(noise)))
        x = (sum(noise) + self.data.random([4, 6])).astype('float32')
        self.net.exe.run(self.net.main, feed={'x': x}, scope=self.net.scope)
        self.scheduler.step()

    def digest(self) -> list[Any]:
        names = self.checkpoints._training.names()
        return [nets.digest(nets.arrays(self.net, names)), self.counter.values, self.scheduler.last_lr]


def test_a_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    first = Run(tmp_path, 0)
    for step in range(6):
        if step == 3:
            first.checkpoints.save(step, {'epoch': 1, 'batch': (3, 4)})
        first.step()
    second = Run(tmp_path, 1)
    second.step()
    restored = second.checkpoints.restore()
    assert restored is not None
    assert (restored.step, restored.position) == (3, {'epoch': 1, 'batch': [3, 4]})
    for _ in range(3, 6):
        second.step()
    assert second.digest() == first.digest()
    assert len(first.counter.values) == 6 and first.scheduler.last_lr == 0.01 * 0.1**3


def test_what_is_kept_and_what_a_run_that_went_astray_left(tmp_path: Path) -> None:
    run = Run(tmp_path, 0)
    for step in (1, 2, 3, 9):
        run.checkpoints.save(step)
    (tmp_path / '.step-0000000009.rank-0-of-1.npz.123.abcd.tmp').touch()
    (tmp_path / 'notes.txt').touch()
    run.checkpoints.save(4)
    restored = run.checkpoints.restore()
    assert restored is not None and restored.step == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'notes.txt',
        'step-0000000003.rank-0-of-1.npz',
        'step-0000000004.rank-0-of-1.npz',
    ]


def test_damage_takes_the_step_before_and_then_it_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, 0)
    assert run.checkpoints.restore() is None
    files = [run.checkpoints.save(step) for step in (5, 6)]
    before = run.digest()
    files[1].write_bytes(files[1].read_bytes()[:1000])
    restored = run.checkpoints.restore()
    assert restored is not None and restored.step == 5
    assert 'passing a checkpoint over' in caplog.text and 'step-0000000006' in caplog.text
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(CheckpointError, match='no undamaged step that all 1 ranks share'):
        run.checkpoints.restore()
    assert run.digest() == before


def test_a_file_under_another_name_is_passed_over(tmp_path: Path) -> None:
    run = Run(tmp_path, 0)
    file = run.checkpoints.save(5)
    file.rename(tmp_path / 'step-0000000007.rank-0-of-1.npz')
    with pytest.raises(CheckpointError, match='no undamaged step'):
        run.checkpoints.restore()


@pytest.mark.parametrize('change', ['program', 'states', 'generators', 'shape'])
def test_what_does_not_fit_changes_nothing(tmp_path: Path, change: str) -> None:
    Run(tmp_path, 0).checkpoints.save(1)
    run = Run(tmp_path / 'other', 1)
    states: dict[str, Any] = {'counter': run.counter}
    generators: dict[str, Any] = {'data': run.data, 'python': run.python, 'old': run.old}
    program = run.net.main
    if change == 'program':
        other = nets.build(nets.momentum().minimize)
        other.exe.run(other.startup, scope=run.net.scope)
        program = other.main
    elif change == 'states':
        states['more'] = Counter()
    elif change == 'generators':
        generators.pop('old')
    else:
        store_array(run.net.scope, 'linear_0.w_0', load_array(run.net.scope, 'linear_0.w_0')[:3])
    before = run.digest()
    saved = Checkpoints(tmp_path, program, run.net.scope, states=states, generators=generators, ranks=ALONE)
    with pytest.raises(CheckpointError):
        saved.restore()
    assert run.digest() == before


def test_unusable_arguments(tmp_path: Path) -> None:
    net = nets.build(nets.momentum().minimize)
    with pytest.raises(ConfigError, match='keep=1'):
        Checkpoints(tmp_path, net.main, net.scope, keep=1, ranks=ALONE)
    bad: Any = {'x': object()}
    with pytest.raises(ConfigError, match='lacks state_dict'):
        Checkpoints(tmp_path, net.main, net.scope, states=bad, ranks=ALONE)
    with pytest.raises(ConfigError, match='no random generator'):
        Checkpoints(tmp_path, net.main, net.scope, generators=bad, ranks=ALONE)
    with pytest.raises(GraphError, match='run the startup program'):
        Checkpoints(tmp_path, net.main, net.scope, ranks=ALONE).save(1)
    assert list(tmp_path.iterdir()) == []
