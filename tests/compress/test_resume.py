"""A job that ends at any point goes on to the same bits, whatever its strategies did to the programs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Context, Strategy, TrainerOptions
from paddleslim_ng.compress.strategies import UniformPruneStrategy
from paddleslim_ng.core import Executor, GraphWrapper, load_array
from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.prune import save_model
from tests.compress.job_net import JobNet, Recorder, same, tensors
from tests.compress.resume_job import BATCHES, EPOCHS, NOWHERE, Interrupt, Shuffled, job, outcome

ROOT = Path(__file__).resolve().parents[2]
SEED = 5


class Interrupted(Exception):
    pass


def _interrupt() -> None:
    raise Interrupted


def _seed(number: int) -> None:
    paddle.seed(number)
    np.random.seed(number)  # noqa: NPY002  # what users do


def _whole(folder: Path) -> dict[str, Any]:
    compressor = job(folder)[1]
    _seed(SEED)
    return outcome(compressor)


def _interrupted(folder: Path, point: tuple[str, int, int]) -> dict[str, Any]:
    compressor = job(folder, point, _interrupt)[1]
    _seed(SEED)
    with pytest.raises(Interrupted):
        compressor.run()
    compressor = job(folder)[1]
    _seed(SEED + 1)
    return outcome(compressor)


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    paddle.enable_static()
    return _whole(tmp_path_factory.mktemp('whole'))


def test_what_the_strategies_do(whole: dict[str, Any]) -> None:
    """The job that the other tests interrupt does what it is there for."""
    found = whole
    names = ['UnstructuredPruneStrategy', 'UniformPruneStrategy', 'Rebuild', 'UnstructuredPruneStrategy', 'again']
    assert found['journal'].tolist() == names
    assert found['conv1'].shape[0] < 16 and found['conv1_mask'].shape == found['conv1'].shape
    assert found['count'] == EPOCHS * BATCHES
    assert not found['conv2'][found['conv2_mask'] == 0].any() and (found['conv2_mask'] == 0).mean() > 0.3
    assert 'compress2_conv1_velocity_0' in found and 'conv1_moment1_0' not in found


POINTS = [
    ('batch_end', 0, 2),
    ('batch_begin', 1, 3),
    ('epoch_begin', 2, -1),
    ('compression_end', 3, -1),
]


@pytest.mark.parametrize('point', POINTS, ids=lambda point: f'{point[0]}-{point[1]}-{point[2]}')
def test_an_interrupted_job_ends_with_the_same_bits(
    tmp_path: Path, whole: dict[str, Any], point: tuple[str, int, int]
) -> None:
    same(_interrupted(tmp_path, point), whole)


def _plain(folder: Path, *strategies: Strategy, **options: Any) -> Any:
    """Return a job of two epochs whose reader shuffles with numpy's global generator."""
    compressor = JobNet().compressor(
        train_reader=Shuffled(False), epoch=2, checkpoint_path=folder, checkpoint_every=2, **options
    )
    for strategy in strategies:
        compressor.add_strategy(strategy, 'only')
    return compressor


def _end(compressor: Any) -> dict[str, Any]:
    result = compressor.run()
    return tensors(result.train_program, result.scope)


def test_readers_that_shuffle_with_the_global_generator(tmp_path: Path) -> None:
    whole = _plain(tmp_path / 'whole', Interrupt(NOWHERE, _interrupt))
    _seed(SEED)
    expected = _end(whole)
    compressor = _plain(tmp_path / 'parts', Interrupt(('batch_end', 1, 2), _interrupt))
    _seed(SEED)
    with pytest.raises(Interrupted):
        compressor.run()
    compressor = _plain(tmp_path / 'parts', Interrupt(NOWHERE, _interrupt))
    _seed(SEED + 1)
    same(_end(compressor), expected)


@pytest.mark.full
@pytest.mark.parametrize('number', range(12))
def test_random_points(tmp_path: Path, whole: dict[str, Any], number: int) -> None:
    draw = random.Random(number)
    what = draw.choice(['epoch_begin', 'batch_begin', 'batch_end', 'epoch_end'])
    batch = draw.randrange(BATCHES) if what.startswith('batch') else -1
    same(_interrupted(tmp_path, (what, draw.randrange(EPOCHS), batch)), whole)


def _kill(folder: Path, point: str) -> None:
    """Run the job in a process of its own, which kills itself at a point."""
    command = [sys.executable, '-m', 'tests.compress.resume_job', str(folder), point, str(SEED)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def _killed(folder: Path, points: list[str]) -> dict[str, Any]:
    for point in points:
        _kill(folder, point)
    compressor = job(folder)[1]
    _seed(SEED + 2)
    return outcome(compressor)


def test_a_job_that_is_killed_twice_ends_with_the_same_bits(tmp_path: Path, whole: dict[str, Any]) -> None:
    """First in the midst of a batch, then in the midst of writing a checkpoint."""
    same(_killed(tmp_path, ['batch_end:1:1', 'write:3:0']), whole)
    assert not list(tmp_path.glob('.*.tmp'))


@pytest.mark.full
@pytest.mark.parametrize('number', range(6))
def test_random_kills(tmp_path: Path, whole: dict[str, Any], number: int) -> None:
    draw = random.Random(number)
    points = [f'batch_end:{draw.randrange(2)}:{draw.randrange(BATCHES)}', f'write:{draw.randrange(1, 5)}:0']
    same(_killed(tmp_path, points), whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path: Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    compressor = job(tmp_path, ('batch_end', 2, 4), _interrupt)[1]
    _seed(SEED)
    with pytest.raises(Interrupted):
        compressor.run()
    newest = sorted(tmp_path.glob('step-*'))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    compressor = job(tmp_path)[1]
    _seed(SEED + 1)
    same(outcome(compressor), whole)
    assert newest.name in caplog.text and 'damaged' in caplog.text


def test_checkpoints_of_another_job_change_nothing(tmp_path: Path) -> None:
    compressor = job(tmp_path, ('epoch_begin', 1, -1), _interrupt)[1]
    with pytest.raises(Interrupted):
        compressor.run()
    net = JobNet()
    before = {name: net.value(name) for name in ('conv1', 'conv2', 'fc')}
    other = net.compressor(checkpoint_path=tmp_path, epoch=4)
    other.add_strategy(Strategy())
    with pytest.raises(CheckpointError, match='belongs to a job with the strategies'):
        other.run()
    same({name: net.value(name) for name in before}, before)
    # The same names, and networks that the checkpoint does not fit.
    for wrong, message in (
        (JobNet(paddle.optimizer.Momentum(0.1)), 'another program'),
        (JobNet(width=24), r'had the shape \[16.* before the job, and has \[24'),
    ):
        before = {name: wrong.value(name) for name in before}
        compressor = wrong.compressor(checkpoint_path=tmp_path, epoch=4)
        for name, strategy in job(None)[1].strategies.items():
            compressor.add_strategy(strategy, name)
        with pytest.raises(CheckpointError, match=message):
            compressor.run()
        same({name: wrong.value(name) for name in before}, before)


def test_all_checkpoints_damaged(tmp_path: Path) -> None:
    compressor = job(tmp_path, ('epoch_begin', 1, -1), _interrupt)[1]
    with pytest.raises(Interrupted):
        compressor.run()
    for path in tmp_path.glob('step-*'):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match='no undamaged step'):
        job(tmp_path)[1].run()


def test_a_finished_job_that_is_run_again_trains_no_more(tmp_path: Path) -> None:
    calls: list[Any] = []
    for _ in range(2):
        compressor = JobNet().compressor(checkpoint_path=tmp_path, epoch=1)
        compressor.add_strategy(Recorder(calls))
        compressor.run()
    assert [call[1] for call in calls].count('epoch_begin') == 1
    assert [call[1] for call in calls].count('compression_end') == 2
    # And goes on where it may have more epochs.
    compressor = JobNet().compressor(checkpoint_path=tmp_path, epoch=3)
    compressor.add_strategy(Recorder(calls))
    assert len(compressor.run().records) == 3
    assert [call[1] for call in calls].count('epoch_begin') == 3


def test_the_metrics_file_of_a_resumed_job_has_each_epoch_once(tmp_path: Path) -> None:
    options = TrainerOptions(metrics_file=tmp_path / 'log.jsonl')
    for point in (('batch_end', 1, 3), NOWHERE):
        compressor = _plain(tmp_path / 'checkpoints', Interrupt(point, _interrupt), options=options)
        try:
            compressor.run()
        except Interrupted:
            assert len((tmp_path / 'log.jsonl').read_text().splitlines()) == 1
    lines = (tmp_path / 'log.jsonl').read_text().splitlines()
    assert [line[:11] for line in lines] == ['{"epoch": 0', '{"epoch": 1']


def test_states_that_cannot_be_saved_are_errors(tmp_path: Path) -> None:
    class Odd(Strategy):
        def state_dict(self) -> Mapping[str, Any]:
            return {'self': self}

    compressor = JobNet().compressor(checkpoint_path=tmp_path, epoch=1)
    compressor.add_strategy(Odd())
    with pytest.raises(ConfigError, match=r"strategies'\]\['Odd'\]\['state'\]\['self'\] is a Odd"):
        compressor.run()


class Once(Strategy):
    """Changes nothing, and tells what it is called with after an interruption."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def on_epoch_begin(self, context: Context) -> None:
        if context.epoch_id < 2:
            context.replace_programs(self, note={'epoch': context.epoch_id, 'array': np.arange(3)})

    def restore_from_checkpoint(self, context: Context) -> None:
        entry = context.replayed
        assert entry is not None and entry.note['array'].tolist() == [0, 1, 2]
        self.calls.append((entry.note['epoch'], context.epoch_id))

    def on_restored(self, context: Context) -> None:
        self.calls.append(('restored', context.epoch_id))


def test_the_journal_is_replayed_in_order(tmp_path: Path) -> None:
    for round_ in range(2):
        compressor = JobNet().compressor(checkpoint_path=tmp_path, epoch=3)
        once = compressor.add_strategy(Once())
        result = compressor.run()
        assert isinstance(once, Once) and once.calls == [[], [(0, 0), (1, 1), ('restored', 3)]][round_]
        assert [entry.epoch_id for entry in result.journal] == [0, 1]


def test_a_job_starts_from_a_pruned_model(tmp_path: Path) -> None:
    net = JobNet()
    compressor = net.compressor(epoch=1)
    compressor.add_strategy(UniformPruneStrategy(target_ratio=0.5, round_to=1))
    result = compressor.run()
    save_model(None, result.train_program, tmp_path / 'pruned', scope=net.scope)
    expected = {name: net.value(name) for name in ('conv1', 'conv2', 'fc', 'conv1_moment1_0')}
    fresh = JobNet(seed=8)
    compressor = fresh.compressor(init_model=tmp_path / 'pruned', train_reader=None)
    result = compressor.run()
    same({name: load_array(fresh.scope, name) for name in expected}, expected)
    assert GraphWrapper(result.eval_program).var('conv1').shape() == expected['conv1'].shape
    assert GraphWrapper(fresh.main).var('conv1').shape() == (16, 2, 3, 3)
    image = np.zeros([2, 2, 6, 6], 'float32')
    feed = {'x': image, 'y': np.zeros([2, 1], 'int64')}
    Executor().run(result.train_program, feed=feed, fetch_list=[fresh.loss_name], scope=fresh.scope)
