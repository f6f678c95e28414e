"""New operators and state: they compute what numpy computes, on both IRs, and vanish with the training part."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.core.gradients import gradient_of, last_writer, updates_of
from paddleslim_ng.core.insertion import Insertion, add_state, insertable, remove_state
from paddleslim_ng.errors import GraphError, UnsupportedOpError


class Training:
    """One linear layer without bias, trained with SGD on the mean of its output, so that the gradient is known."""

    def __init__(self, reads: int = 1) -> None:
        self.main, startup = paddle.static.Program(), paddle.static.Program()
        self.scope = paddle.static.Scope()
        self.exe = paddle.static.Executor(paddle.CPUPlace())
        with paddle.static.program_guard(self.main, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [2, 3], 'float32')
            layer = paddle.nn.Linear(3, 2, weight_attr=paddle.ParamAttr(name='w'), bias_attr=False)
            y = layer(x)
            for _ in range(reads - 1):
                y = y + layer(x)
            self.loss = paddle.mean(y)
            paddle.optimizer.SGD(0.5).minimize(self.loss)
        self.exe.run(startup, scope=self.scope)
        self.x = np.random.RandomState(0).rand(2, 3).astype('float32')

    @property
    def weight(self) -> Any:
        return load_array(self.scope, 'w')

    def step(self) -> None:
        self.exe.run(self.main, feed={'x': self.x}, scope=self.scope)

    def update(self, reads: int = 1) -> Any:
        """Return what one step adds to the weight."""
        return -0.5 * reads * np.repeat(self.x.sum(0)[:, None], 2, 1) / 4


def _mask(net: Training, *, gradient: bool, parameter: bool) -> Any:
    graph = GraphWrapper(net.main)
    w = graph.var('w')
    mask = add_state(graph, 'mask', w.shape(), 'uint8')
    grad = gradient_of(graph, w)
    assert grad is not None
    places = []
    if gradient:
        places.append((grad, grad.inputs()[-1], 'backward'))
    if parameter:
        places.append((w, last_writer(graph, w), 'optimizer'))
    for var, place, role in places:
        here = Insertion(graph, after=place, role=role)
        factor = here.op('cast', {'X': mask}, {'out_dtype': 'float32'})
        here.op('elementwise_mul', {'X': var, 'Y': factor}, into=var)
    value = np.array([[1, 0], [0, 1], [1, 1]], 'uint8')
    store_array(net.scope, 'mask', value)
    return value


@pytest.mark.parametrize('reads', [1, 2])
def test_a_gradient_is_replaced_for_all_that_read_it(reads: int) -> None:
    net = Training(reads)
    mask = _mask(net, gradient=True, parameter=False)
    before = net.weight
    net.step()
    np.testing.assert_allclose(net.weight, before + mask * net.update(reads), rtol=1e-5)


def test_a_parameter_is_overwritten_behind_its_update() -> None:
    net = Training()
    mask = _mask(net, gradient=False, parameter=True)
    before = net.weight
    net.step()
    np.testing.assert_allclose(net.weight, mask * (before + net.update()), rtol=1e-5)


def test_what_was_inserted_behind_a_gradient_comes_first_or_second_as_asked() -> None:
    net = Training()
    graph = GraphWrapper(net.main)
    grad = gradient_of(graph, graph.var('w'))
    assert grad is not None
    here = Insertion(graph, after=grad.inputs()[-1], role='backward')
    here.op('scale', {'X': grad}, {'scale': 3.0, 'bias': 0.0, 'bias_after_scale': True}, into=grad)
    graph = GraphWrapper(net.main)
    scaled = gradient_of(graph, graph.var('w'))
    assert scaled is not None and scaled.name() == grad.name()
    Insertion(graph, after=scaled.inputs()[-1], role='backward').op(
        'scale', {'X': scaled}, {'scale': 1.0, 'bias': 1.0, 'bias_after_scale': True}, into=scaled
    )
    before = net.weight
    net.step()
    np.testing.assert_allclose(net.weight, before + 3.0 * net.update() - 0.5, rtol=1e-5)


def test_clones_for_test_drop_operators_and_state() -> None:
    net = Training()
    before = [op.type() for op in GraphWrapper(clone_program(net.main, for_test=True)).ops()]
    _mask(net, gradient=True, parameter=True)
    test = GraphWrapper(clone_program(net.main, for_test=True))
    assert [op.type() for op in test.ops()] == before
    assert not test.has_var('mask')


def test_a_forward_operator_between_two_others() -> None:
    net = Training()
    graph = GraphWrapper(clone_program(net.main, for_test=True))
    mean = graph.ops()[-1]
    (product,) = mean.all_inputs()
    here = Insertion(graph, before=mean)
    doubled = here.op('elementwise_add', {'X': product, 'Y': product})
    here.redirect(product, doubled, [mean])
    from paddleslim_ng.core import Executor

    (value,) = Executor().run(graph.program, {'x': net.x}, [net.loss], net.scope)
    np.testing.assert_allclose(value, 2 * (net.x @ net.weight).mean(), rtol=1e-5)


def test_state_is_saved_and_loaded_with_the_program(tmp_path: Any) -> None:
    net = Training()
    mask = _mask(net, gradient=False, parameter=True)
    with paddle.static.scope_guard(net.scope):
        paddle.static.save(net.main, str(tmp_path / 'state'))
        store_array(net.scope, 'mask', np.ones_like(mask))
        paddle.static.load(net.main, str(tmp_path / 'state'))
    np.testing.assert_array_equal(load_array(net.scope, 'mask'), mask)


def test_unused_state_is_removed() -> None:
    net = Training()
    graph = GraphWrapper(net.main)
    add_state(graph, 'extra', [2], 'float32')
    with pytest.raises(GraphError, match='no unused state'):
        remove_state(graph, 'w')
    remove_state(graph, 'extra')
    assert not GraphWrapper(net.main).has_var('extra')


def test_refusals_change_nothing() -> None:
    net = Training()
    graph = GraphWrapper(net.main)
    before = str(net.main)
    update = updates_of(graph, graph.var('w'))[0]
    here = Insertion(graph, after=update)
    with pytest.raises(GraphError, match='already has'):
        add_state(graph, 'w', [1], 'float32')
    with pytest.raises(GraphError, match='positive'):
        add_state(graph, 'm', [-1, 2], 'float32')
    with pytest.raises(GraphError, match='element type'):
        add_state(graph, 'm', [2], 'float33')
    with pytest.raises(UnsupportedOpError, match='nonsense'):
        here.op('nonsense', {'X': 'w'})
    with pytest.raises(GraphError, match='no slot'):
        here.op('scale', {'Z': 'w'})
    with pytest.raises(GraphError, match='no attribute'):
        here.op('scale', {'X': 'w'}, {'factor': 2.0})
    with pytest.raises(GraphError, match='does not read'):
        here.redirect('x', 'w', [update])
    with pytest.raises(GraphError, match='another wrapped program'):
        here.op('scale', {'X': GraphWrapper(net.main).var('w')})
    with pytest.raises(GraphError, match='role'):
        Insertion(graph, role='sideways')
    assert str(net.main) == before
    assert insertable(graph, 'elementwise_mul') and not insertable(graph, 'nonsense')


def test_a_place_changes_its_role_and_clones_for_test_drop_what_trains() -> None:
    """Without a backward part, too, where nothing else tells that an operator updates state."""
    main, scope = paddle.static.Program(), paddle.static.Scope()
    with paddle.static.program_guard(main):
        x = paddle.static.data('x', [2, 3], 'float32')
        y = paddle.nn.functional.relu(x)
    graph = GraphWrapper(main)
    (relu,) = graph.ops()
    total = add_state(graph, 'total', [1], 'float32')
    here = Insertion(graph, before=relu)
    with here.role('optimizer'):
        step = here.op('reshape2', {'X': here.op('mean', {'X': graph.var('x')})}, {'shape': [1]})
        here.op('elementwise_add', {'X': total, 'Y': step}, into=total)
    here.redirect('x', here.op('elementwise_mul', {'X': graph.var('x'), 'Y': total}), [relu])
    assert len(here.built) == 4
    with pytest.raises(GraphError, match='role'), here.role('sideways'):
        pass
    store_array(scope, 'total', np.ones(1, 'float32'))
    test = clone_program(clone_program(main), for_test=True)
    assert [op.type() for op in GraphWrapper(test).ops()] == ['elementwise_mul', 'relu']
    array = np.full((2, 3), 3, 'float32')
    runner, name = Executor(), GraphWrapper.name_of(y)
    assert runner.run(test, {'x': array}, [name], scope=scope)[0].max() == 3
    assert runner.run(main, {'x': array}, [name], scope=scope)[0].max() == 12
    assert load_array(scope, 'total') == 4
