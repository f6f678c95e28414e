"""Pruned weights are zero after every single step, whatever updates them, and the others train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.errors import GraphError
from paddleslim_ng.sparse import UnstructuredPruner
from tests.prune.optimizer_cases import CASES, append_update, configuration
from tests.prune.training_nets import FULL, Net, build, train

Array = npt.NDArray[Any]
WORKING = [name for name, case in CASES.items() if configuration() not in case.refused]


def _weights(net: Net, pruner: UnstructuredPruner) -> dict[str, Array]:
    return {name: load_array(net.scope, name) for name in pruner.masks}


@pytest.mark.parametrize('name', WORKING)
def test_zeros_are_exact_after_every_step(name: str) -> None:
    net = build(lambda loss: append_update(CASES[name], loss), FULL, CASES[name].dtype)
    pruner = UnstructuredPruner(net.main, ratio=0.6, scope=net.scope)
    assert set(pruner.masks) >= {'w1', 'w3'}
    train(net, net.main, net.scope, 0, 1)
    pruner.step()
    masks = {key: load_array(net.scope, mask) for key, mask in pruner.masks.items()}
    total = sum(mask.size for mask in masks.values())
    assert sum(int((mask == 0).sum()) for mask in masks.values()) == round(0.6 * total)
    before = _weights(net, pruner)
    for number in range(1, 4):
        train(net, net.main, net.scope, number, 1)
        after = _weights(net, pruner)
        for key, mask in masks.items():
            assert not after[key][mask == 0].any(), f'{key} revived'
            assert np.isfinite(after[key]).all()
    assert any((after[key] != before[key])[masks[key] == 1].all() for key in masks)


@pytest.mark.parametrize('name', ['SGD', 'Momentum', 'Adam', 'AdamW'])
def test_state_of_pruned_weights_sees_no_gradient(name: str) -> None:
    """Accumulators that start at zero stay at zero where the gradient is masked from the first step on."""
    net = build(lambda loss: append_update(CASES[name], loss), FULL, CASES[name].dtype)
    pruner = UnstructuredPruner(net.main, ratio=0.5, scope=net.scope)
    pruner.step()
    train(net, net.main, net.scope, 0, 2)
    mask = load_array(net.scope, 'w3_mask')
    slots = [
        var.name()
        for var in GraphWrapper(net.main).vars()
        if var.persistable() and var.name().startswith('w3_') and var.shape() == mask.shape and var.name() != 'w3_mask'
    ]
    assert len(slots) == {'SGD': 0, 'Momentum': 1, 'Adam': 2, 'AdamW': 2}[name]
    for slot in slots:
        values = load_array(net.scope, slot)
        assert not values[mask == 0].any() and values[mask == 1].any()


class Linear:
    """y = x w, squared error, in numpy and in Paddle."""

    def __init__(self, make: Callable[[], Any], late: bool = False) -> None:
        self.main, startup = paddle.static.Program(), paddle.static.Program()
        self.scope = paddle.static.Scope()
        self.exe = paddle.static.Executor(paddle.CPUPlace())
        random = np.random.RandomState(1)
        self.feed = {'x': random.rand(8, 6).astype('float32'), 'y': random.rand(8, 4).astype('float32')}
        with paddle.static.program_guard(self.main, startup), paddle.utils.unique_name.guard():
            x, y = paddle.static.data('x', [8, 6], 'float32'), paddle.static.data('y', [8, 4], 'float32')
            attr = paddle.ParamAttr(name='w')
            error = paddle.nn.Linear(6, 4, weight_attr=attr, bias_attr=False)(x) - y
            self.loss = paddle.mean(error * error)
            self.pruner = UnstructuredPruner(self.main, ratio=0.5, scope=self.scope) if late else None
            make().minimize(self.loss)
        self.before = clone_program(self.main)
        if self.pruner is None:
            self.pruner = UnstructuredPruner(self.main, ratio=0.5, scope=self.scope)
        self.exe.run(startup, scope=self.scope)

    def run(self, program: Any = None) -> Array:
        self.exe.run(program or self.main, feed=self.feed, scope=self.scope)
        return load_array(self.scope, 'w')

    def gradient(self, w: Array) -> Array:
        x, y = self.feed['x'].astype('float64'), self.feed['y']
        return 2 * x.T @ (x @ w - y) / y.size


def test_training_equals_numpy() -> None:
    """Momentum with decay: velocity and decay see masked gradients."""
    net = Linear(lambda: paddle.optimizer.Momentum(0.1, 0.9, weight_decay=0.02))
    net.pruner.step()
    w = load_array(net.scope, 'w').astype('float64')
    mask = load_array(net.scope, 'w_mask')
    assert mask.sum() == 12
    velocity = np.zeros_like(w)
    for _ in range(4):
        velocity = 0.9 * velocity + mask * net.gradient(w) + 0.02 * w
        w = mask * (w - 0.1 * velocity)
        np.testing.assert_allclose(net.run(), w, rtol=1e-5, atol=1e-7)


def test_clipping_sees_masked_gradients() -> None:
    net = Linear(lambda: paddle.optimizer.SGD(0.5, grad_clip=paddle.nn.ClipGradByNorm(0.01)))
    net.pruner.step()
    w, mask = load_array(net.scope, 'w').astype('float64'), load_array(net.scope, 'w_mask')
    gradient = mask * net.gradient(w)
    expected = w - 0.5 * gradient * 0.01 / max(0.01, np.sqrt((gradient**2).sum()))
    np.testing.assert_allclose(net.run(), expected, rtol=1e-5, atol=1e-7)


def test_a_pruner_made_before_minimize_masks_from_its_first_step_on() -> None:
    net = Linear(lambda: paddle.optimizer.Adam(0.1), late=True)
    net.run()
    net.pruner.step()
    mask = load_array(net.scope, 'w_mask')
    for _ in range(2):
        assert not net.run()[mask == 0].any()


def test_a_clone_from_before_the_pruner_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    net = Linear(lambda: paddle.optimizer.Momentum(0.1, 0.9))
    net.pruner.step()
    mask = load_array(net.scope, 'w_mask')
    assert net.run(net.before)[mask == 0].any()
    with caplog.at_level('WARNING', 'paddleslim_ng'):
        net.pruner.step()
        net.pruner.step()
    assert sum('not the one with the masks' in text for text in caplog.messages) == 1
    assert not load_array(net.scope, 'w')[mask == 0].any()


def test_clones_from_after_the_pruner_train_sparse_and_test_clones_carry_nothing() -> None:
    net = Linear(lambda: paddle.optimizer.Momentum(0.1, 0.9))
    net.pruner.step()
    mask = load_array(net.scope, 'w_mask')
    assert not net.run(clone_program(net.main))[mask == 0].any()
    test = GraphWrapper(clone_program(net.main, for_test=True))
    assert not test.has_var('w_mask') and not any(op.is_opt_op() or op.is_bwd_op() for op in test.ops())


def test_compiled_programs_are_made_from_masked_ones() -> None:
    net = Linear(lambda: paddle.optimizer.Momentum(0.1, 0.9))
    if configuration() == '3.3.1 PIR':
        with pytest.raises(TypeError):  # of Paddle
            paddle.static.CompiledProgram(net.main)
        return
    compiled = paddle.static.CompiledProgram(net.main)
    net.pruner.step()
    mask = load_array(net.scope, 'w_mask')
    for _ in range(2):
        assert not net.run(compiled)[mask == 0].any()
    with pytest.raises(GraphError, match='pass the program itself'):
        UnstructuredPruner(compiled, scope=net.scope)


def test_inference_models_and_saves(tmp_path: Any) -> None:
    net = Linear(lambda: paddle.optimizer.Momentum(0.1, 0.9))
    net.pruner.step()
    net.run()
    w, mask = load_array(net.scope, 'w'), load_array(net.scope, 'w_mask')
    test = clone_program(net.main, for_test=True)
    graph = GraphWrapper(test)
    product = next(op for op in graph.ops() if op.type() == 'matmul_v2').all_outputs()[0]
    with paddle.static.scope_guard(net.scope):
        path = str(tmp_path / 'model')
        paddle.static.save_inference_model(path, [graph.var('x').raw], [product.raw], net.exe, program=test)
        paddle.static.save(net.main, str(tmp_path / 'state'))
        store_array(net.scope, 'w_mask', np.ones_like(mask))
        store_array(net.scope, 'w', np.ones_like(w))
        paddle.static.load(net.main, str(tmp_path / 'state'))
    np.testing.assert_array_equal(load_array(net.scope, 'w_mask'), mask)
    np.testing.assert_array_equal(load_array(net.scope, 'w'), w)
    from paddleslim_ng.runtime import load_inference_model

    model = load_inference_model(path)
    assert [var.name() for var in GraphWrapper(model.program).vars() if var.persistable()] == ['w']
    assert np.count_nonzero(load_array(model.scope, 'w')) == 12
