"""A saved inference model, loaded again in either mode of Paddle, is analysed and pruned like any program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim


def _save(folder: Path) -> tuple[Path, list[Any]]:
    net = slim.models.classification.build_classifier(
        'MobileNet', [1, 16, 16], 4, seed=3, model_kwargs={'scale': 0.125}
    )
    prefix = folder / 'model'
    slim.runtime.save_inference_model(net.val_program, prefix, ['image'], [net.logits])
    image = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype('float32')
    return prefix, [
        image,
        net.exe.run(net.val_program, {'image': image, 'label': np.zeros([2, 1], 'int64')}, [net.logits])[0],
    ]


def test_a_loaded_model_has_parameters_and_can_be_pruned(tmp_path: Path, fresh: Any) -> None:
    prefix, (image, expected) = _save(tmp_path)
    model = slim.runtime.load_inference_model(prefix)
    names = [var.name() for var in slim.GraphWrapper(model.program).all_parameters()]
    assert 'conv2_1_sep_weights' in names
    assert 'image' not in names
    exe = slim.Executor()
    loaded = exe.run(model.program, {'image': image}, model.fetches, scope=model.scope)[0]
    np.testing.assert_array_equal(loaded, expected)
    pruner = slim.prune.Pruner()
    pruned, _, _ = pruner.prune(model.program, model.scope, ['conv2_1_sep_weights'], [0.5])
    assert pruner.report.equivalence is not None
    assert pruner.report.equivalence.effect > 0
    assert slim.GraphWrapper(pruned).var('conv2_1_sep_weights').shape()[0] == 4
    assert slim.analysis.flops(pruned) < slim.analysis.flops(model.program)


def test_a_program_of_the_other_ir_runs_in_the_executor(tmp_path: Path, fresh: Any) -> None:
    if not slim.core.paddle_compat.has_pir() or not slim.core.paddle_compat.in_pir_mode():
        pytest.skip('only a Paddle in PIR mode has another mode to leave')
    with paddle.pir_utils.OldIrGuard():
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, startup):
            x = paddle.static.data('x', [None, 3])
            y = paddle.nn.Linear(3, 2)(x)
    exe = slim.Executor()
    exe.run(startup, scope=fresh.scope)
    out = exe.run(main, {'x': np.ones([1, 3], 'float32')}, [y], scope=fresh.scope)[0]
    weight, bias = (slim.core.load_array(fresh.scope, p.name()) for p in slim.GraphWrapper(main).all_parameters())
    np.testing.assert_allclose(out, weight.sum(0, keepdims=True) + bias, rtol=1e-6)
