"""Beginning and end in one process: what is replaced, and that it comes back."""

from __future__ import annotations

from collections.abc import Iterator

import paddle
import pytest
from paddle.distributed import fleet

from paddleslim_ng import distributed
from paddleslim_ng.distributed import context as context_module
from paddleslim_ng.distributed.ranks import read_ranks
from paddleslim_ng.errors import DistributedError
from tests.distributed import nets

NAMES = ('distributed_optimizer', 'save_persistables', 'barrier_worker')
UTILITIES = ('all_reduce', 'all_gather', 'barrier')


def functions() -> list[object]:
    return [*(getattr(fleet, name) for name in NAMES), *(getattr(fleet.util, name) for name in UTILITIES)]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ('PADDLE_TRAINER_ID', 'PADDLE_TRAINERS_NUM'):
        monkeypatch.delenv(name, raising=False)
    before = functions()
    yield
    distributed.shutdown()
    assert functions() == before


def test_what_is_replaced_comes_back() -> None:
    before = functions()
    context = distributed.init()
    assert all(now != then for now, then in zip(functions(), before))
    assert distributed.init() is context
    assert distributed.current_ranks() is context.ranks
    distributed.shutdown()
    assert functions() == before
    distributed.shutdown()
    with distributed.init():
        assert functions() != before
    assert functions() == before


def test_one_process_trains_as_without_and_exchanges_with_itself() -> None:
    digests = []
    with distributed.init() as context:
        assert (context.ranks.rank, context.ranks.size) == (0, 1)
        for minimize in (fleet.distributed_optimizer(nets.momentum()).minimize, nets.momentum().minimize):
            net = nets.build(minimize)
            nets.start(net, nets.initial())
            checks = distributed.RankChecks(net.main, net.scope)
            nets.run(net, 0)
            checks.after_step()
            digests.append(nets.digest(nets.arrays(net)))
        assert fleet.util.all_reduce([1.5, 2.0]).tolist() == [1.5, 2.0]
        assert fleet.util.all_gather(3) == [3]
        fleet.barrier_worker()
        assert context.ranks.broadcast(b'odd') == b'odd'
        with pytest.raises(DistributedError, match='writes no file; use slim.distributed.Checkpoints'):
            fleet.save_persistables(None, 'nowhere')
    assert digests[0] == digests[1]


def test_builds_for_gpus_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, 'is_cpu_build', lambda: False)
    before = functions()
    with distributed.init():
        assert functions() == before


def test_dynamic_mode_is_an_error() -> None:
    before = functions()
    paddle.disable_static()
    with pytest.raises(DistributedError, match='paddle.enable_static'):
        distributed.init()
    assert functions() == before


def test_ranks_that_cannot_connect_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rank: int, size: int) -> None:
        raise RuntimeError('TIMEOUT')

    monkeypatch.setattr(context_module, 'connect_gloo', fail)
    monkeypatch.setenv('PADDLE_TRAINER_ID', '1')
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '3')
    before = functions()
    with pytest.raises(DistributedError, match='rank 1 cannot connect with the other 2: TIMEOUT'):
        distributed.init()
    assert functions() == before


def test_what_the_launcher_says() -> None:
    found = read_ranks({'PADDLE_TRAINER_ID': '2', 'PADDLE_TRAINERS_NUM': '4'})
    assert (found.rank, found.size) == (2, 4)
    assert read_ranks({}).size == 1
    for given in ({'PADDLE_TRAINER_ID': '4', 'PADDLE_TRAINERS_NUM': '4'}, {'PADDLE_TRAINERS_NUM': 'many'}):
        with pytest.raises(DistributedError):
            read_ranks(given)
