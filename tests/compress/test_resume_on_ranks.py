"""A compression job on two ranks: the same network on both, and bit by bit the same after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.compress import fleet_job
from tests.distributed.launching import launch


@pytest.mark.full
def test_two_ranks_compress_one_network_and_resume(tmp_path: Path) -> None:
    launch(Path(fleet_job.__file__), [str(tmp_path)], tmp_path / 'log')
    with np.load(tmp_path / 'rank-0.npz') as first, np.load(tmp_path / 'rank-1.npz') as second:
        assert set(first.files) == set(second.files)
        own = {'batch_norm2d_0.w_1', 'batch_norm2d_0.w_2'}
        different = {name for name in first.files if not np.array_equal(first[name], second[name])}
        # Ranks gather the statistics of batch norms from their own batches.
        assert {name.replace('eval ', '') for name in different} == own
        assert first['conv1'].shape[0] < 16 and (first['conv2'] == 0).mean() > 0.3
