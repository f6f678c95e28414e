"""PaddleSlim's pruning tutorial, step by step, with the figures that it prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim

SEP_WEIGHTS = [
    *(f'conv{stage}_{unit}_sep_weights' for stage in (2, 3, 4) for unit in (1, 2)),
    *(f'conv5_{unit}_sep_weights' for unit in range(1, 7)),
    'conv6_sep_weights',
]
RATIOS = {
    'conv2_1_sep_weights': 0.3,
    'conv2_2_sep_weights': 0.3,
    'conv3_1_sep_weights': 0.20999995231656052,
    'conv3_2_sep_weights': 0.15296293795649352,
    'conv4_1_sep_weights': 0.1833331959422747,
}


def _batch() -> dict[str, Any]:
    digits = slim.data.digits(size=28).train
    return {'image': digits.images[:16], 'label': digits.labels[:16]}


@pytest.mark.parametrize('train_first', [True, False], ids=['training first', 'evaluation first'])
def test_both_programs_are_pruned_as_printed(train_first: bool, fresh: Any) -> None:
    place = paddle.CPUPlace()
    exe, train_program, val_program, inputs, outputs = slim.models.image_classification(
        'MobileNet', [1, 28, 28], 10, seed=0, scope=fresh.scope
    )
    params = [p.name() for p in slim.GraphWrapper(train_program).all_parameters() if '_sep_weights' in p.name()]
    assert params == SEP_WEIGHTS
    assert slim.analysis.flops(train_program) == slim.analysis.flops(val_program) == 10_896_832
    dense = exe.run(val_program, feed=_batch(), fetch_list=outputs)

    def prune_train() -> Any:
        pruner = slim.prune.Pruner()
        pruned = pruner.prune(
            train_program, fresh.scope, params=RATIOS.keys(), ratios=RATIOS.values(), place=place, verify=True
        )[0]
        assert pruner.report.equivalence is not None
        assert pruner.report.equivalence.max_relative < 1e-5
        return pruned

    def prune_val() -> Any:
        return slim.prune.Pruner().prune(
            val_program, fresh.scope, params=RATIOS.keys(), ratios=RATIOS.values(), place=place, only_graph=True
        )[0]

    if train_first:
        pruned_program, pruned_val_program = prune_train(), prune_val()
    else:
        pruned_val_program, pruned_program = prune_val(), prune_train()
    assert slim.analysis.flops(pruned_program) == slim.analysis.flops(pruned_val_program) == 9_588_167

    sparse = exe.run(pruned_val_program, feed=_batch(), fetch_list=outputs)
    assert len(sparse) == len(dense) == 3
    assert not np.array_equal(sparse[2], dense[2])
    losses = [float(exe.run(pruned_program, feed=_batch(), fetch_list=outputs)[2]) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert np.isfinite(exe.run(pruned_val_program, feed=_batch(), fetch_list=[outputs[2]])[0]).all()
