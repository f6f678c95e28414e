"""Supervised jobs: killed and frozen ranks, orphans, two machines on loopback, and jobs that cannot be helped."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paddleslim_ng.distributed import rank_process
from paddleslim_ng.distributed.processes import end_sessions, is_alive, is_stopped, read_processes
from paddleslim_ng.distributed.supervisor import Job, _Attempt, supervise
from paddleslim_ng.errors import ConfigError, DistributedError
from tests.distributed import launching

TRAIN = launching.HERE / 'train_job.py'
STEPS = '14'
ORPHANS = """
import os, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])
(folder / 'pids-partial').write_text(f'{os.getpid()} {child.pid}')
(folder / 'pids-partial').rename(folder / 'pids')
print('about to fail')
if sys.argv[2] == 'fail':
    raise RuntimeError('beyond help')
time.sleep(300)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def gone(pids: list[int]) -> bool:
    return wait_for(lambda: not any(map(is_alive, pids)), 5)


def command(*arguments: str) -> list[str]:
    return [sys.executable, '-m', 'paddleslim_ng', 'launch', *arguments]


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Supervise in this process as in one that no launcher has started."""
    for name in [name for name in os.environ if name.startswith('PADDLE_')]:
        monkeypatch.delenv(name)
    for name, value in launching.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # Paddle 2 leaves a file in the working directory


@pytest.fixture(scope='module')
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two supervisors, each with one rank, that find each other on loopback; nothing disturbs them."""
    folder = tmp_path_factory.mktemp('nodes')
    port = launching.free_port()
    nodes = [
        subprocess.Popen(
            command(
                *('--master', f'127.0.0.1:{port}', '--nnodes', '2', '--rank', str(node), '--json'),
                *('--log-dir', str(folder / f'log-{node}'), '--max-restarts', '0', str(TRAIN), str(folder), STEPS),
            ),
            env=launching.environment(),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for node in range(2)
    ]
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], launching.logs(folder)
    assert [json.loads(output)['restarts'] for output in outputs] == [0, 0]
    return folder


def ends(folder: Path) -> list[str]:
    return [(folder / f'end-{rank}.txt').read_text() for rank in range(2)]


def test_two_nodes_train_each_rank_once(two_nodes: Path) -> None:
    first, second = ends(two_nodes)
    assert first != second  # batch norm's statistics belong to a rank
    assert [path.name for path in two_nodes.glob('log-*/attempt-0/workerlog.*')] == ['workerlog.0'] * 2


@pytest.mark.usefixtures('inherited')
def test_a_killed_and_a_frozen_rank_end_with_the_same_bits(
    two_nodes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, 'paddleslim_ng')
    job = Job(
        str(TRAIN), [str(tmp_path), STEPS, 'SIGKILL@4', 'SIGSTOP@9'], 2, deadline=3, log_dir=str(tmp_path / 'log')
    )
    with open(os.devnull, 'w') as nowhere:
        found = supervise(job, output=nowhere)
    assert found.restarts == 2
    assert 'rank 1' in found.failures[0] and 'died' in found.failures[0]
    assert 'rank 1' in found.failures[1] and 'is frozen: no heartbeat for 3 s' in found.failures[1]
    assert ends(tmp_path) == ends(two_nodes)
    assert 'launching again (2 of 3)' in caplog.text
    assert len(list((tmp_path / 'log').glob('attempt-*'))) == 3


@pytest.mark.full
@pytest.mark.usefixtures('inherited')
@pytest.mark.parametrize('seed', range(4))
def test_faults_at_random_steps_end_with_the_same_bits(two_nodes: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(int(STEPS)), 3))
    faults = [f'{draw.choice(["SIGKILL", "SIGSTOP"])}@{step}' for step in steps]
    job = Job(str(TRAIN), [str(tmp_path), STEPS, *faults], 2, deadline=3, log_dir=str(tmp_path / 'log'))
    with open(os.devnull, 'w') as nowhere:
        assert supervise(job, output=nowhere).restarts == 3, faults
    assert ends(tmp_path) == ends(two_nodes), faults


def test_silence_of_a_process_that_is_not_stopped_is_borne_longer(tmp_path: Path) -> None:
    """Paddle holds Python's lock while ranks wait for each other: no heart beats, and nothing is wrong."""
    attempt = _Attempt(Job(str(TRAIN), deadline=0.1), 0, None)
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    for rank, pid in enumerate([os.getpid(), ended.pid]):
        (tmp_path / f'rank-{rank}.json').write_text(json.dumps({'pid': pid, 'session': pid}))
        (tmp_path / f'rank-{rank}.beat').touch()
    began = time.monotonic()
    assert attempt._silent_rank(tmp_path) is None
    time.sleep(0.15)
    assert attempt._silent_rank(tmp_path) == f'rank 1 (process {ended.pid}) died'
    (tmp_path / 'rank-1.json').unlink()
    assert attempt._silent_rank(tmp_path) is None
    assert wait_for(lambda: attempt._silent_rank(tmp_path) is not None, 5)
    assert time.monotonic() - began > 0.5
    assert 'is frozen' in str(attempt._silent_rank(tmp_path))
    (tmp_path / 'rank-0.beat').touch()
    assert attempt._silent_rank(tmp_path) is None


@pytest.mark.usefixtures('inherited')
def test_a_job_beyond_help_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / 'fails.py'
    script.write_text(ORPHANS)
    bystander = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])
    job = Job(str(script), [str(tmp_path), 'fail'], max_restarts=0, log_dir=str(tmp_path / 'log'))
    try:
        with (
            open(os.devnull, 'w') as nowhere,
            pytest.raises(DistributedError, match=r'(?s)failed 1 times.*workerlog\.0.*beyond help'),
        ):
            supervise(job, output=nowhere)
        assert gone([int(pid) for pid in (tmp_path / 'pids').read_text().split()])
        assert is_alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()


def test_the_command_takes_its_ranks_along(tmp_path: Path) -> None:
    script = tmp_path / 'sleeps.py'
    script.write_text(ORPHANS)
    running = subprocess.Popen(
        command('--log-dir', str(tmp_path / 'log'), str(script), str(tmp_path), 'sleep'),
        env=launching.environment(),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert wait_for((tmp_path / 'pids').exists)
    running.terminate()
    assert running.wait(30) == 130
    assert gone([int(pid) for pid in (tmp_path / 'pids').read_text().split()])


def start_rank(folder: Path, script: str, supervisor: int) -> subprocess.Popen[bytes]:
    (folder / 'script.py').write_text(script)
    line = [sys.executable, rank_process.__file__, str(folder), '0.05', str(supervisor), str(folder / 'script.py'), 'x']
    return subprocess.Popen(line, env={**os.environ, 'PADDLE_TRAINER_ID': '3'}, start_new_session=True)


def test_a_rank_beats_while_it_runs_and_stops_when_stopped(tmp_path: Path) -> None:
    rank = start_rank(tmp_path, 'import time; time.sleep(300)', os.getpid())
    try:
        assert wait_for(lambda: [one.pid for one in read_processes(tmp_path)] == [rank.pid])
        (process,) = read_processes(tmp_path)
        assert (process.rank, process.session) == (3, rank.pid)
        beat = tmp_path / 'rank-3.beat'
        first = beat.stat().st_mtime_ns
        assert wait_for(lambda: beat.stat().st_mtime_ns > first)
        rank.send_signal(signal.SIGSTOP)
        assert wait_for(lambda: is_stopped(rank.pid)) and is_alive(rank.pid)
        last = beat.stat().st_mtime_ns
        time.sleep(0.3)
        assert beat.stat().st_mtime_ns == last
        assert end_sessions([process.session]) == []
        assert not is_alive(rank.pid)
    finally:
        rank.kill()
        rank.wait()


def test_a_rank_takes_its_record_away_and_sees_its_own_arguments(tmp_path: Path) -> None:
    rank = start_rank(tmp_path, 'import sys; sys.exit(sys.argv[1:] != ["x"] or 7)', os.getpid())
    assert rank.wait(30) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ended-3.json', 'script.py']
    assert read_processes(tmp_path) == []
    assert [one.pid for one in read_processes(tmp_path, 'ended')] == [rank.pid]


def test_a_rank_without_its_supervisor_ends_itself(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    rank = start_rank(tmp_path, 'import time; time.sleep(300)', ended.pid)
    assert rank.wait(30) == 97


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'script': 'none.py'}, 'no Python script'),
        ({'nproc': 0}, 'at least 1'),
        ({'deadline': 0.0}, 'positive'),
        ({'nnodes': 2}, 'need master'),
        ({'nnodes': 2, 'master': 'a:1', 'node': 2}, 'rank 2 is outside 2 machines'),
    ],
)
def test_unusable_jobs(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {'script': str(TRAIN), **change}
    with pytest.raises(ConfigError, match=message):
        Job(**given)  # type: ignore[arg-type]
