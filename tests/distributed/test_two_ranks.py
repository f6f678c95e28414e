"""Two ranks on this machine: one launch, many scenarios, compared with one process and with numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import store_array
from paddleslim_ng.distributed import Checkpoints, Ranks
from paddleslim_ng.sparse import Polynomial, UnstructuredPruner
from tests.distributed import launching, nets

STEPS = 50
ALONE = Ranks(0, 1)


def alone(folder: Path) -> Checkpoints:
    """Train four steps in this process and leave a checkpoint."""
    net = nets.build(nets.momentum().minimize)
    nets.start(net, nets.initial())
    for step in range(4):
        nets.run(net, step)
    saved = Checkpoints(folder, net.main, net.scope, ranks=ALONE)
    saved.save(4)
    return saved


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paddle.enable_static()
    made = tmp_path_factory.mktemp('ranks')
    alone(made / 'one')
    launching.launch(launching.HERE / 'rank_scenarios.py', [str(made)], made / 'log')
    return made


@pytest.fixture(scope='module')
def found(folder: Path) -> list[Any]:
    return [json.loads((folder / f'rank-{rank}.json').read_text()) for rank in range(2)]


def test_fleet_knows_the_ranks_and_gets_its_functions_back(found: list[Any]) -> None:
    assert [one['fleet'] for one in found] == [[0, 2], [1, 2]]
    assert [one['restored'] for one in found] == [True, True]


def test_exchanges(found: list[Any]) -> None:
    for one in found:
        assert one['exchange']['gather'] == [[0, -(2**60)], [1, 7 - 2**60]]
        assert bytes.fromhex(one['exchange']['broadcast']) == bytes(range(256)) * 3 + b'x'
        assert one['exchange']['mean'] == [[1.5, 0.1]]
        assert one['exchange']['nothing'] == ['', [2, 0, 3]]


def test_a_rank_without_a_batch_is_an_error_on_all(found: list[Any]) -> None:
    more = 'DistributedError: train_reader has 2 batches on the ranks [0], and more on the others: every rank needs as'
    failed = ['DistributedError: train_reader failed at batch 3 on the ranks [1]', 'DataError: the disk of rank 1']
    for rank, one in enumerate(found):
        assert one['uneven'][0] == [3, '']
        assert [taken for taken, _ in one['uneven']] == [3, 2, 2]
        assert one['uneven'][1][1].startswith(more) and one['uneven'][2][1].startswith(failed[rank])


def test_exchanges_of_fleet_do_something(found: list[Any]) -> None:
    for one in found:
        exchange = one['fleet_exchange']
        assert exchange['waited'] is True
        assert 'this one sets localsgd' in exchange['refused']
        assert (exchange['sum'], exchange['max'], exchange['min']) == ([[4.0, -3.0]], [[2.5, -1.0]], [[1.5, -2.0]])
        assert exchange['gather'] == [0.5, 1.5]
        assert 'different shapes or types' in exchange['differ']
        assert 'sum, max, min' in exchange['mode']


def test_half_precision_is_added_up_right(found: list[Any]) -> None:
    mean = [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]
    for one in found:
        assert one['half_precision'] == {'float16': [mean, mean], 'bfloat16': [mean, mean]}


def test_masked_ranks_agree_bit_by_bit_and_with_one_process(found: list[Any], folder: Path) -> None:
    ranks = [np.load(folder / f'masked-{rank}.npz') for rank in range(2)]
    assert all(ranks[0][name].tobytes() == ranks[1][name].tobytes() for name in ranks[0].files)

    net = nets.build(nets.momentum().minimize)
    masks = nets.add_masks(net)
    nets.start(net, {**nets.initial(), **masks})
    for step in range(STEPS):
        nets.run(net, step)
    for name, array in nets.arrays(net).items():
        np.testing.assert_allclose(ranks[0][name], array, atol=1e-6, rtol=0)
        assert not np.array_equal(array, nets.initial()[name])


def test_masked_weights_are_zero_after_every_step(found: list[Any], folder: Path) -> None:
    zeros = int((np.load(folder / 'masked-0.npz')['fc_mask'] == 0).sum())
    assert zeros > 200
    assert [one['masked_training']['zeros'] for one in found] == [[zeros], [zeros]]


def test_a_pruner_masks_all_ranks_alike(found: list[Any], folder: Path) -> None:
    ranks = [np.load(folder / f'pruned-{rank}.npz') for rank in range(2)]
    assert all(ranks[0][name].tobytes() == ranks[1][name].tobytes() for name in ranks[0].files)
    assert found[0]['pruned_training']['shares'] == found[1]['pruned_training']['shares']
    assert found[0]['pruned_training']['shares'][-1] == 0.75

    net = nets.build(nets.momentum().minimize)
    pruner = UnstructuredPruner(net.main, ratio=0.75, scope=net.scope, schedule=Polynomial(2, 12, interval=3))
    nets.start(net, nets.initial())
    for step in range(20):
        nets.run(net, step)
        pruner.step()
    for name, array in nets.arrays(net, ranks[0].files).items():
        np.testing.assert_allclose(ranks[0][name], array, atol=1e-6, rtol=0)


def test_ranks_are_compared_at_the_first_step_and_when_masks_change(found: list[Any]) -> None:
    for one in found:
        shares = [0.0, *one['pruned_training']['shares']]
        changes = [step for step in range(2, 21) if shares[step] != shares[step - 1]]
        assert one['pruned_training']['compared'] == [1, *changes] and len(changes) >= 3


def test_a_mask_that_differs_is_named_at_once_and_a_parameter_at_the_next_change(found: list[Any]) -> None:
    for one in found:
        assert "'fc_mask' is not the same on all ranks at step 21" in one['pruned_training']['by_mask']
        assert one['pruned_training']['unseen'] == ''
        assert "'bias' is not the same on all ranks at step 24" in one['pruned_training']['by_parameter']


def test_sending_what_is_kept_gives_the_same_bits(found: list[Any]) -> None:
    digests = [digest for one in found for digest in one['kept_only'].values()]
    assert len(digests) == 6 and len(set(digests)) == 1


def test_all_start_with_the_parameters_of_rank_0(found: list[Any]) -> None:
    started = [digests[0] for one in found for digests in one['broadcast_start'].values()]
    assert len(set(started)) == 1 and len(started) == 6


def test_the_size_of_the_vectors_changes_nothing(found: list[Any]) -> None:
    ended = [digests[1] for one in found for digests in one['broadcast_start'].values()]
    assert len(set(ended)) == 1 and len(ended) == 6


def test_a_program_without_all_reduce_is_caught_before_and_after_a_step(found: list[Any]) -> None:
    for one in found:
        assert one['unsynchronized']['before'] == ''
        assert "2 ranks train 'conv', 'bias', 'fc' and 1 more each for itself" in one['unsynchronized']['guard']
        assert one['unsynchronized']['after'].startswith(
            "'conv' is not the same on all ranks at step 1: rank 0 against rank 1. 4 of 4 tensors differ."
        )


def test_stock_fleet_refuses_or_is_caught(found: list[Any], ir: str) -> None:
    for one in found:
        assert one['stock_fleet']['refused'] == (ir == 'pir')
        if ir != 'pir':
            assert 'each for itself' in one['stock_fleet']['guard']
            assert "'conv' is not the same on all ranks" in one['stock_fleet']['after']


def test_statistics_are_shared_for_a_while(found: list[Any]) -> None:
    own = [one['statistics']['own'] for one in found]
    assert len(own[0]) == 2 and own[0] != own[1]
    for one in found:
        assert one['statistics']['kept'] == one['statistics']['shared']
        for name, values in one['statistics']['shared'].items():
            expected = np.mean([np.float64(np.float32(part[name])) for part in own], axis=0)
            np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_truncated_file_takes_all_ranks_one_checkpoint_back(found: list[Any]) -> None:
    for one in found:
        assert one['checkpoints']['nothing'] is True
        assert one['checkpoints']['restored'] == [2, {'epoch': 1}, 2]
        assert one['checkpoints']['again'] == one['checkpoints']['straight']
        assert one['checkpoints']['begun'][:2] == [None, None]
        assert 'the ranks have [[2, 1], []]' in one['checkpoints']['begun'][2]
    # Statistics of batch norm and the random numbers belong to a rank.
    assert found[0]['checkpoints']['straight'] != found[1]['checkpoints']['straight']


def test_one_process_goes_on_as_two_and_two_as_one(found: list[Any], folder: Path) -> None:
    net = nets.build(nets.momentum().minimize)
    nets.start(net)
    restored = Checkpoints(folder / 'one', net.main, net.scope, ranks=ALONE).restore()
    assert restored is not None and restored.ranks == 1
    for one in found:
        assert one['other_number'] == {'step': 4, 'ranks': 1, 'digest': nets.digest(nets.arrays(net))}
    for name, array in nets.initial(1).items():
        store_array(net.scope, name, array)
    restored = Checkpoints(folder / 'two', net.main, net.scope, ranks=ALONE).restore()
    assert restored is not None and (restored.step, restored.ranks) == (9, 2)
    for step in range(9, 14):
        nets.run(net, step)
    end = np.load(folder / 'two-end.npz')
    for name, array in nets.arrays(net).items():
        np.testing.assert_allclose(end[name], array, atol=1e-6, rtol=0)


def test_no_scenario_ended_in_an_error(found: list[Any]) -> None:
    assert not [value for one in found for value in one.values() if isinstance(value, str)]
