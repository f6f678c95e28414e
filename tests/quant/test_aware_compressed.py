"""Quantization-aware training of pruned, sparse and merged programs, and into Paddle Lite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.core import GraphWrapper, clone_program, load_array, lookup
from paddleslim_ng.core.teachers import teacher_of
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.aware import quant_aware
from paddleslim_ng.quant.aware_export import export_aware
from paddleslim_ng.quant.aware_spec import spec_of
from paddleslim_ng.quant.convert import convert
from tests.dist.merged_nets import BETWEEN_LOGITS, Distilled, same
from tests.dist.nets import batch
from tests.quant import training_nets as nets

CPU = paddle.CPUPlace()


def momentum() -> Any:
    """Return an optimizer."""
    return paddle.optimizer.Momentum(0.05, 0.9)


def zeros_of(net: nets.TrainingNet, masks: dict[str, str]) -> dict[str, Any]:
    """Return where masks are zero."""
    return {name: load_array(net.scope, mask) == 0 for name, mask in masks.items()}


@pytest.mark.parametrize('masks_first', [True, False])
def test_zeros_of_a_sparse_network_stay_zeros(masks_first: bool) -> None:
    net = nets.build(optimizer=momentum)
    program = net.program
    if masks_first:
        pruner = slim.sparse.UnstructuredPruner(program, 'ratio', 0.6, scope=net.scope)
        program = quant_aware(program, CPU, {'weight_bits': 4}, net.scope)
    else:
        program = quant_aware(program, CPU, {'weight_bits': 4}, net.scope)
        pruner = slim.sparse.UnstructuredPruner(program, 'ratio', 0.6, scope=net.scope)
    pruner.step()
    zeros = zeros_of(net, pruner.masks)
    assert sum(where.sum() for where in zeros.values()) > 100
    losses = [float(step[0]) for step in net.steps(8, program, feed=nets.FEED)]
    assert losses[-1] < losses[0]
    for name, where in zeros.items():
        assert not load_array(net.scope, name)[where].any()
    integers = convert(program, CPU, scope=net.scope, feed=nets.FEED)
    codes = {
        name: load_array(net.scope, f'{name}@integers') for name in spec_of(program, net.scope).tensors if name in zeros
    }
    assert codes and GraphWrapper(integers).ops()
    for name, array in codes.items():
        assert not array[zeros[name]].any() and array.any()


def test_masks_come_with_the_optimizer_of_a_quantized_program() -> None:
    net = nets.build()
    program = quant_aware(net.program, CPU, None, net.scope)
    pruner = slim.sparse.UnstructuredPruner(program, 'ratio', 0.6, scope=net.scope)
    trained = nets.minimize(net, program, momentum())
    pruner.step()
    zeros = zeros_of(net, pruner.masks)
    assert sum(where.sum() for where in zeros.values()) > 100
    trained.steps(2, feed=nets.FEED)
    for name, where in zeros.items():
        assert not load_array(net.scope, name)[where].any()


def test_a_pruned_network() -> None:
    net = nets.build(optimizer=momentum)
    pruned, _, _ = slim.prune.Pruner().prune(net.program, net.scope, ['conv2d_3.w_0'], [0.5])
    train = quant_aware(pruned, CPU, scope=net.scope)
    losses = [float(step[0]) for step in net.steps(6, train, feed=nets.FEED)]
    assert losses[-1] < losses[0]
    spec = spec_of(train, net.scope)
    name = 'conv2d_3.w_0'
    assert spec.tensors[name].scale.size == 4 == load_array(net.scope, name).shape[0]
    convert(train, CPU, scope=net.scope, feed=nets.FEED)


@pytest.mark.parametrize('minimized', [False, True])
def test_a_merged_teacher_is_left_alone(minimized: bool) -> None:
    net = Distilled(BETWEEN_LOGITS['soft_label'], minimize=minimized)
    teacher = net.teachers()
    before = [repr(op) for op in GraphWrapper(net.main).ops() if teacher_of(op) is not None]
    outputs = [net.merged[net.teacher.logits]]
    feed = batch()
    test = clone_program(net.main, for_test=True)
    (expected,) = slim.Executor().run(test, feed, outputs, scope=net.scope)
    train = quant_aware(net.main, CPU, {'weight_bits': 4}, net.scope)
    assert [repr(op) for op in GraphWrapper(train).ops() if teacher_of(op) is not None] == before
    if not minimized:
        startup = paddle.static.Program()
        with paddle.static.program_guard(train, startup), paddle.utils.unique_name.guard('later_'):
            momentum().minimize(lookup(train, net.total))
        slim.Executor().run(startup, scope=net.scope)
    losses = [float(slim.Executor().run(train, feed, [net.total], scope=net.scope)[0]) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert same(teacher, net.teachers())
    (found,) = slim.Executor().run(train, feed, outputs, scope=net.scope)
    np.testing.assert_array_equal(found, expected)
    spec = spec_of(train, net.scope)
    assert len(spec.operators) == 3 and not [name for name in spec.tensors if name.startswith('teacher_')]
    assert any('teacher' in reason for reason in spec.skipped.values())


def test_half_precision_is_refused() -> None:
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [None, 3, 8, 8], 'float32')
        half = paddle.cast(x, 'float16')
        paddle.cast(half, 'float32') + paddle.nn.Conv2D(3, 3, 1)(x)
    scope = paddle.static.Scope()
    slim.Executor().run(startup, scope=scope)
    with pytest.raises(GraphError, match='half precision'):
        quant_aware(main, CPU, scope=scope)


def test_int8_kernels_in_paddle_lite(tmp_path: Path) -> None:
    """What is exported from either IR, and on the legacy one what Paddle itself saves after ``convert``."""
    net = nets.build(optimizer=momentum)
    test = quant_aware(clone_program(net.program, for_test=True), CPU, scope=net.scope, for_test=True)
    train = quant_aware(net.program, CPU, scope=net.scope)
    net.steps(2, train)
    exported = export_aware(test, tmp_path / 'int8', ['x'], [net.logits], net.scope, feed=nets.FEED)
    models = [exported.prefix]
    if GraphWrapper(test).ir == 'legacy':
        for onnx_format in (True, False):
            program = convert(test, CPU, {'onnx_format': onnx_format}, net.scope, feed=nets.FEED)
            block = program.global_block()
            prefix = str(tmp_path / f'paddle_{onnx_format}')
            with paddle.static.scope_guard(net.scope):
                paddle.static.save_inference_model(
                    prefix, [block.var('x')], [block.var(net.logits.name)], paddle.static.Executor(CPU), program=program
                )
            models.append(Path(prefix))
    for model in models:
        lite = slim.deploy.to_lite(model, tmp_path / model.name, 'arm', 'int8', check=False)
        kernels = [kernel for kernel in lite.kernels if kernel.op in ('conv2d', 'depthwise_conv2d', 'fc')]
        assert len(kernels) == 5 and all(kernel.precision == 'int8' for kernel in kernels), (model, lite.kernels)
