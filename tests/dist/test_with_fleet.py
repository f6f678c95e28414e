"""Two ranks with a teacher train what one process trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from paddleslim_ng.core import GraphWrapper
from tests.dist import fleet_job
from tests.distributed import launching, nets


def test_two_ranks_and_one_process(tmp_path: Path) -> None:
    launching.launch(Path(fleet_job.__file__), [str(tmp_path)], tmp_path / 'log')
    ranks = [np.load(tmp_path / f'rank-{rank}.npz') for rank in range(2)]
    assert all(ranks[0][name].tobytes() == ranks[1][name].tobytes() for name in ranks[0].files)

    net = fleet_job.student(nets.momentum())
    assert len(fleet_job.frozen(net)) == 8, 'four parameters, and scale, shift and statistics of batch norm'
    want = fleet_job.train(net, 0, 1)
    assert want.keys() == set(ranks[0].files)
    for name, array in want.items():
        np.testing.assert_allclose(ranks[0][name], array, atol=1e-6, rtol=0, err_msg=name)
    assert not np.allclose(want['fc'], nets.initial()['fc'], atol=1e-3)
    assert int((want['fc_mask'] == 0).sum() + (want['conv_mask'] == 0).sum()) == (64 * 5 + 4 * 9) // 2

    for found in (json.loads((tmp_path / f'rank-{rank}.json').read_text()) for rank in range(2)):
        assert found['frozen'] is True
        assert found['shared'] == [], "the teacher's statistics are no rank's own"
        assert found['message'].startswith("'teacher_bias' is not the same on all ranks")


def test_the_teacher_changes_what_is_learnt() -> None:
    """The figures above would also agree if the loss against the teacher were dropped."""
    alone = nets.build(nets.momentum().minimize)
    assert not [var for var in GraphWrapper(alone.main).vars() if 'teacher_' in var.name()]
    nets.start(alone, nets.initial())
    net = fleet_job.student(nets.momentum())
    nets.start(net, nets.initial())
    for one in (alone, net):
        nets.run(one, 0)
    assert not np.allclose(nets.arrays(alone)['fc'], nets.arrays(net)['fc'], atol=1e-3)
