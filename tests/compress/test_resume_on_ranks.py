"""Compression jobs on two ranks: one network on both, bit by bit the same after they are killed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.distributed import Ranks
from tests.compress import rank_jobs
from tests.compress.job_net import same
from tests.distributed import launching

Outcomes = dict[str, dict[str, Any]]
# What a rank keeps for itself while it trains: sums of the magnitudes that it has seen.
OWN = '.quant_sum'
POINTS = {
    'masks': 'batch_end:1:2',
    'measured': 'batch_begin:2:2',
    'rounds': 'batch_end:3:2',
    'quantized': 'write:8:1',
    'under_fleet': 'epoch_end:1:-1',
    'divisible': 'batch_end:2:0',
}


def killed_and_resumed(folder: Path, name: str, point: str) -> Outcomes:
    """Kill a job, go on with it, and return what that ends with, and the whole job, on each rank."""
    script = Path(rank_jobs.__file__)
    assert launching.run(script, [str(folder), name, point], folder / 'killed') != 0
    assert not list(folder.glob('*.npz')) and list((folder / 'parts' / 'checkpoints').iterdir())
    launching.launch(script, [str(folder), name], folder / 'log')
    return {path.stem: dict(np.load(path)) for path in folder.glob('*.npz')}


def check(found: Outcomes) -> None:
    assert len(found) == 4
    for rank in (0, 1):
        same(found[f'parts-{rank}'], found[f'whole-{rank}'])
    first, second = ({k: v for k, v in found[f'whole-{rank}'].items() if not k.endswith(OWN)} for rank in (0, 1))
    same(first, second)


def files(folder: Path) -> dict[str, bytes]:
    """Return what a job has written; not the graphs, which have Paddle's count of layers in the process."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    return {
        name: content
        for name, content in found.items()
        if not name.startswith('checkpoints') and 'model.' not in name or name.endswith('.pdiparams')
    }


@pytest.mark.full
@pytest.mark.parametrize('name', POINTS)
def test_two_ranks_that_are_killed_go_on_to_the_same_bits(tmp_path: Path, name: str) -> None:
    found = killed_and_resumed(tmp_path, name, POINTS[name])
    check(found)
    if name == 'divisible':
        _compare_with_one_rank(tmp_path, found['whole-0'])
    if name in ('quantized', 'under_fleet'):
        _compare_files(files(tmp_path / 'parts'), files(tmp_path / 'whole'))


def _compare_with_one_rank(folder: Path, two: dict[str, Any]) -> None:
    one = rank_jobs.run('divisible', folder / 'one', Ranks(0, 1))
    assert set(one) == set(two) and one['journal'].tolist() == two['journal'].tolist()
    assert one['conv_idle'].shape[0] < 48
    for name, value in one.items():
        if value.dtype.kind == 'f':
            np.testing.assert_allclose(two[name], value, atol=1e-6, rtol=1e-5, err_msg=name)


def _compare_files(parts: dict[str, bytes], whole: dict[str, bytes]) -> None:
    assert {'sensitivities.json', 'float/model.pdiparams', 'int8/model.pdiparams', 'metrics.jsonl'} <= set(whole)
    assert set(parts) == set(whole)
    lines = [[json.loads(line) for line in found.pop('metrics.jsonl').splitlines()] for found in (parts, whole)]
    resumed, straight = ([{**line, 'seconds': 0} for line in each] for each in lines)
    assert resumed == straight and [line['epoch'] for line in resumed] == [0, 1, 2]
    assert [name for name in whole if parts[name] != whole[name]] == []


@pytest.mark.full
@pytest.mark.parametrize('number', range(3))
def test_random_kills_of_two_ranks(tmp_path: Path, number: int) -> None:
    draw = random.Random(number)
    name, where = draw.choice(['rounds', 'quantized']), draw.choice(['batch_begin', 'batch_end', 'epoch_end', 'write'])
    first, second = draw.randrange(3), draw.randrange(5)
    second = {'epoch_end': -1, 'write': draw.randrange(2)}.get(where, second)
    paddle.enable_static()
    check(killed_and_resumed(tmp_path, name, f'{where}:{first + (where == "write")}:{second}'))
