"""LSQ and PACT against numpy: values, both kinds of gradients, starts, and scales that stay sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.learned_quantizers import LearnedQuantizer, LSQQuantizer, PACTQuantizer
from paddleslim_ng.quant.learned_scales import LearnedScale
from tests.conftest import Fresh

KINDS = {'lsq': LSQQuantizer, 'pact': PACTQuantizer}
SHAPE = (4, 3, 2)


def numbers(seed: int = 0) -> Any:
    """Numbers of which some are cut off, some lie on the ends, and some halfway between two steps of 0.25."""
    array = np.random.default_rng(seed).normal(0, 1.0, size=SHAPE).astype('float32')
    array[0, :, 0] = [0.75, -0.75, 0.125]
    array[1, 0] = [-0.375, 0.0]
    return array


def reference(kind: str, x: Any, weights: Any, base: Any, factor: Any, limit: int, axis: int | None, low: int) -> Any:
    """Return value, gradient of x and gradient of the factor of ``sum(weights * f(x))``, in double precision."""
    shape = [-1 if n == axis else 1 for n in range(x.ndim)]
    base, factor = base.astype('float64').reshape(shape), factor.astype('float64').reshape(shape)
    scale = base * np.clip(factor, 2.0**-10, 2.0**10)
    steps = x.astype('float64') / scale
    cut = np.clip(steps, low, limit)
    q = np.sign(cut) * np.floor(np.abs(cut) + 0.5)
    inside = (steps >= low) & (steps <= limit)
    if kind == 'lsq':
        count = x.size / x.shape[0] / base.size
        slope = np.where(inside, q - steps, q) / np.sqrt(count * limit) / base
    else:
        slope = np.where(inside, 0.0, q) / limit**2 / base
    others = tuple(n for n in range(x.ndim) if n != axis)
    return q * scale, weights * inside, (weights * slope).sum(others).reshape(-1)


def scale_for(axis: int | None, bits: int, **options: Any) -> LearnedScale:
    return LearnedScale(bits, axis, **options)


def initialize(scope: Any, quantizer: LearnedQuantizer) -> None:
    for name, array in quantizer.initial.items():
        store_array(scope, name, array)


def scale_in(scope: Any, quantizer: LearnedQuantizer) -> Any:
    return load_array(scope, str(quantizer.scale_name))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('axis', [None, 1])
@pytest.mark.parametrize(('bits', 'factor'), [(2, 1.0), (3, 0.7), (8, 1.0)])
def test_values_and_gradients_are_those_of_numpy(
    fresh: Fresh, kind: str, axis: int | None, bits: int, factor: float
) -> None:
    check(fresh, kind, axis, bits, factor, signed=True)


@pytest.mark.parametrize('kind', KINDS)
def test_numbers_below_zero_are_cut_off_where_there_is_no_sign(fresh: Fresh, kind: str) -> None:
    check(fresh, kind, None, 3, 1.0, signed=False)


def check(fresh: Fresh, kind: str, axis: int | None, bits: int, factor: float, *, signed: bool) -> None:
    """Compare differentiation of ``forward``, and ``backward``, with numpy."""
    channels = 1 if axis is None else SHAPE[axis]
    base = np.linspace(0.25, 0.3, channels).astype('float32')
    array, weights = numbers(), np.random.default_rng(5).normal(size=SHAPE).astype('float32')
    x = paddle.static.data('x', [-1, *SHAPE[1:]], 'float32')
    w = paddle.static.data('w', [-1, *SHAPE[1:]], 'float32')
    x.stop_gradient = False
    graph = GraphWrapper(fresh.main)
    quantizer = KINDS[kind](scale_for(axis, bits, scale=base), signed=signed)
    e = Expressions(Insertion(graph))
    y = quantizer.forward(e, graph.var(x))
    total = e.sum(e.multiply(y, graph.var(w)), [0, 1, 2])
    weight = graph.var(quantizer.scale.factor_name)
    slopes = paddle.static.gradients([total.raw], [graph.var(x).raw, weight.raw])
    explicit = quantizer.backward(e, graph.var(x), y, graph.var(w))
    (own,) = quantizer.parameter_gradients(e).values()
    initialize(fresh.scope, quantizer)
    factors = np.full(channels, factor, 'float32')
    store_array(fresh.scope, quantizer.scale.factor_name, factors)
    fetches = [y.raw, *slopes, explicit.raw, own.raw]
    value, dx, ds, dx2, ds2 = Executor().run(fresh.main, {'x': array, 'w': weights}, fetches)
    limit = quantizer.scale.limit
    wanted = reference(kind, array, weights, base, factors, limit, axis, -limit if signed else 0)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-6)
    assert np.unique(value).size <= channels * (2 * limit + 1)
    np.testing.assert_array_equal(dx, wanted[1].astype('float32'))
    np.testing.assert_array_equal(dx2, dx)
    np.testing.assert_allclose(ds, wanted[2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ds2, ds, rtol=1e-5, atol=1e-7)


def learner(fresh: Fresh, quantizer: LearnedQuantizer, rate: float = 0.05) -> tuple[Any, Any]:
    """Build ``mean((f(x) - x) ** 2)`` and the descent of all parameters; return the loss and f(x)."""
    x = paddle.static.data('x', [-1, *SHAPE[1:]], 'float32')
    graph = GraphWrapper(fresh.main)
    e = Expressions(Insertion(graph))
    y = quantizer.forward(e, graph.var(x))
    loss = e.mean(e.square(e.subtract(y, graph.var(x))))
    paddle.optimizer.SGD(rate).minimize(loss.raw)
    fresh.exe.run(fresh.startup)
    initialize(fresh.scope, quantizer)
    return loss.raw, y.raw


@pytest.mark.parametrize(('start', 'axis'), [('mean', None), ('mean', 1), ('max', None), ('max', 1)])
def test_the_first_batch_says_where_a_scale_starts(fresh: Fresh, start: str, axis: int | None) -> None:
    quantizer = LSQQuantizer(scale_for(axis, 4, start=start))
    loss, _ = learner(fresh, quantizer, 0.0)
    assert not load_array(fresh.scope, str(quantizer.count_name)).any()
    exe = Executor()
    for seed in (1, 2):
        exe.run(fresh.main, {'x': numbers(seed)}, [loss])
    others = tuple(n for n in range(3) if n != axis)
    size = np.abs(numbers(1))
    wanted = size.max(others) / 7 if start == 'max' else 2 * size.mean(others) / np.sqrt(7)
    np.testing.assert_allclose(scale_in(fresh.scope, quantizer), wanted.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize('bad', ['zeros', 'nan', 'inf'])
def test_nothing_but_sound_magnitudes_starts_a_scale(fresh: Fresh, bad: str) -> None:
    quantizer = LSQQuantizer(scale_for(1, 4))
    loss, y = learner(fresh, quantizer, 0.0)
    array = numbers(1)
    array[:, 0] = {'zeros': 0.0, 'nan': np.nan, 'inf': np.inf}[bad]
    _, value = Executor().run(fresh.main, {'x': array}, [loss, y])
    scale = scale_in(fresh.scope, quantizer)
    assert scale[0] == np.float32(1 / 7) and np.all(scale > 0)
    if bad == 'zeros':
        np.testing.assert_array_equal(value[:, 0], 0.0)
    if bad == 'inf':
        np.testing.assert_allclose(value[:, 0], 1.0, rtol=1e-6)
    Executor().run(fresh.main, {'x': numbers(2)}, [loss])
    found = scale_in(fresh.scope, quantizer)
    wanted = 2 * np.abs(numbers(2)[:, 0]).mean() / np.sqrt(7)
    assert bad != 'nan' and found[1] == scale[1] or bad == 'nan'
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


@pytest.mark.parametrize('factor', [0.0, -3.0, np.nan, np.inf, -np.inf, 1e-30, 1e30])
def test_a_factor_gone_astray_leaves_a_sound_scale(fresh: Fresh, factor: float) -> None:
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]))
    loss, y = learner(fresh, quantizer, 0.0)
    store_array(fresh.scope, quantizer.scale.factor_name, np.array([factor], 'float32'))
    (value,) = Executor().run(fresh.main, {'x': numbers()}, [y])
    scale = scale_in(fresh.scope, quantizer)
    assert np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(value).all()
    np.testing.assert_array_equal(value, np.rint(value / scale).astype('float32') * scale)


def test_a_factor_below_its_bound_comes_back(fresh: Fresh) -> None:
    """At -1 the scale is far too small: everything is cut off, and the error pulls it up again."""
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]))
    loss, _ = learner(fresh, quantizer, 0.5)
    name = quantizer.scale.factor_name
    store_array(fresh.scope, name, np.array([-0.2], 'float32'))
    exe = Executor()
    losses = [float(exe.run(fresh.main, {'x': numbers()}, [loss])[0]) for _ in range(200)]
    assert load_array(fresh.scope, name)[0] > 0.1
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize('kind', KINDS)
def test_training_lowers_the_error_of_a_bad_start(fresh: Fresh, kind: str) -> None:
    quantizer = KINDS[kind](scale_for(None, 4, scale=[0.02]))
    loss, _ = learner(fresh, quantizer, 2.0 if kind == 'lsq' else 0.05)
    exe = Executor()
    losses = [float(exe.run(fresh.main, {'x': numbers()}, [loss])[0]) for _ in range(100)]
    assert losses[-1] < losses[0] / 10


def test_an_evaluating_program_reads_the_scale_alone(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, *SHAPE[1:]], 'float32')
    graph = GraphWrapper(fresh.main)
    quantizer = LSQQuantizer(scale_for(1, 4), training=False)
    y = quantizer.forward(Expressions(Insertion(graph)), graph.var(x))
    assert list(quantizer.initial) == [quantizer.scale_name] == ['x.quant_scale']
    assert [var.name() for var in GraphWrapper(fresh.main).vars() if var.persistable()] == ['x.quant_scale']
    scale = np.array([0.1, 0.2, 0.3], 'float32')
    store_array(fresh.scope, 'x.quant_scale', scale)
    (value,) = Executor().run(fresh.main, {'x': numbers()}, [y.raw])
    wanted, _, _ = reference('lsq', numbers(), 1.0, scale, np.ones(3), 7, 1, -7)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_array_equal(scale_in(fresh.scope, quantizer), scale)


@pytest.mark.parametrize('kind', KINDS)
def test_a_clone_for_test_computes_the_same_and_changes_nothing(fresh: Fresh, kind: str) -> None:
    quantizer = KINDS[kind](scale_for(None, 4))
    loss, y = learner(fresh, quantizer)
    exe = Executor()
    for seed in range(3):
        exe.run(fresh.main, {'x': numbers(seed)}, [loss])
    test = clone_program(fresh.main, for_test=True)
    names = [*quantizer.initial]
    before = [load_array(fresh.scope, name) for name in names]
    (value,) = exe.run(test, {'x': numbers(7)}, [y])
    for name, array in zip(names, before):
        np.testing.assert_array_equal(load_array(fresh.scope, name), array)
    wanted, _, _ = reference(kind, numbers(7), 1.0, scale_in(fresh.scope, quantizer), np.ones(1), 7, None, -7)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_one_that_does_not_learn_adds_no_gradient(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, *SHAPE[1:]], 'float32')
    graph = GraphWrapper(fresh.main)
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25], learns=False))
    e = Expressions(Insertion(graph))
    y = quantizer.forward(e, graph.var(x))
    assert y.raw.stop_gradient
    with matching_ir(fresh.main):
        quantizer.backward(e, graph.var(x), y, y)
    assert quantizer.parameter_gradients(e) == {}


@pytest.mark.parametrize('scale', [[0.0], [-1.0], [np.nan], [np.inf]])
def test_a_given_scale_must_be_sound(scale: Any) -> None:
    with pytest.raises(ConfigError, match='finite and positive'):
        scale_for(None, 4, scale=scale)


def test_what_else_is_refused(fresh: Fresh) -> None:
    with pytest.raises(ConfigError, match='known: mean, max'):
        scale_for(None, 4, start='median')
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]))
    learner(fresh, quantizer)
    graph = GraphWrapper(fresh.main)
    e, x = Expressions(Insertion(graph)), graph.var('x')
    with pytest.raises(GraphError, match='is learned already'):
        LSQQuantizer(scale_for(None, 4)).forward(e, x)
    with pytest.raises(GraphError, match='after the quantizer itself'):
        LSQQuantizer(scale_for(None, 4)).backward(e, x, x, x)
    with pytest.raises(GraphError, match='has 3 scales, and 2 are given'):
        LSQQuantizer(scale_for(1, 4, scale=[1.0, 2.0])).forward(e, e.scale(x))
