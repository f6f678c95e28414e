"""LSQ and PACT against numpy: values, both kinds of gradients, starts, and scales that stay sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper, load_array, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError, DataError, GraphError
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
    return LearnedScale('x', bits, channels=1 if axis is None else SHAPE[axis], axis=axis, **options)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('axis', [None, 1])
@pytest.mark.parametrize('bits', [2, 3, 8])
@pytest.mark.parametrize('factor', [1.0, 0.7])
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
    quantizer = KINDS[kind](scale_for(axis, bits, scale=base), fresh.scope, signed=signed)
    e = Expressions(Insertion(graph))
    y = quantizer.forward(e, graph.var(x))
    total = e.sum(e.multiply(y, graph.var(w)), [0, 1, 2])
    weight = graph.var(quantizer.scale.names.factor)
    slopes = paddle.static.gradients([total.raw], [graph.var(x).raw, weight.raw])
    explicit = quantizer.backward(e, graph.var(x), y, graph.var(w))
    (own,) = quantizer.parameter_gradients(e).values()
    factors = np.full(channels, factor, 'float32')
    store_array(fresh.scope, quantizer.scale.names.factor, factors)
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
    return loss.raw, y.raw


@pytest.mark.parametrize(('start', 'axis'), [('mean', None), ('mean', 1), ('max', None), ('max', 1)])
def test_the_first_batch_says_where_a_scale_starts(fresh: Fresh, start: str, axis: int | None) -> None:
    quantizer = LSQQuantizer(scale_for(axis, 4, start=start), fresh.scope)
    loss, _ = learner(fresh, quantizer, 0.0)
    with pytest.raises(GraphError, match='run a training step'):
        quantizer.scale.read(fresh.scope)
    exe = Executor()
    for seed in (1, 2):
        exe.run(fresh.main, {'x': numbers(seed)}, [loss])
    others = tuple(n for n in range(3) if n != axis)
    size = np.abs(numbers(1))
    wanted = size.max(others) / 7 if start == 'max' else 2 * size.mean(others) / np.sqrt(7)
    np.testing.assert_allclose(quantizer.scale.read(fresh.scope), wanted.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize('bad', ['zeros', 'nan', 'inf'])
def test_nothing_but_sound_magnitudes_starts_a_scale(fresh: Fresh, bad: str) -> None:
    quantizer = LSQQuantizer(scale_for(1, 4), fresh.scope)
    loss, y = learner(fresh, quantizer, 0.0)
    array = numbers(1)
    array[:, 0] = {'zeros': 0.0, 'nan': np.nan, 'inf': np.inf}[bad]
    _, value = Executor().run(fresh.main, {'x': array}, [loss, y])
    scale = quantizer.scale.read(fresh.scope)
    assert scale[0] == np.float32(1 / 7) and np.all(scale > 0)
    if bad == 'zeros':
        np.testing.assert_array_equal(value[:, 0], 0.0)
    if bad == 'inf':
        np.testing.assert_allclose(value[:, 0], 1.0, rtol=1e-6)
    Executor().run(fresh.main, {'x': numbers(2)}, [loss])
    found = quantizer.scale.read(fresh.scope)
    wanted = 2 * np.abs(numbers(2)[:, 0]).mean() / np.sqrt(7)
    assert bad != 'nan' and found[1] == scale[1] or bad == 'nan'
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


@pytest.mark.parametrize('factor', [0.0, -3.0, np.nan, np.inf, -np.inf, 1e-30, 1e30])
def test_a_factor_gone_astray_leaves_a_sound_scale(fresh: Fresh, factor: float) -> None:
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]), fresh.scope)
    loss, y = learner(fresh, quantizer, 0.0)
    store_array(fresh.scope, quantizer.scale.names.factor, np.array([factor], 'float32'))
    (value,) = Executor().run(fresh.main, {'x': numbers()}, [y])
    scale = quantizer.scale.read(fresh.scope)
    assert np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(value).all()
    np.testing.assert_array_equal(value, np.rint(value / scale).astype('float32') * scale)


def test_a_factor_below_its_bound_comes_back(fresh: Fresh) -> None:
    """At -1 the scale is far too small: everything is cut off, and the error pulls it up again."""
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]), fresh.scope)
    loss, _ = learner(fresh, quantizer, 0.5)
    name = quantizer.scale.names.factor
    store_array(fresh.scope, name, np.array([-0.2], 'float32'))
    exe = Executor()
    losses = [float(exe.run(fresh.main, {'x': numbers()}, [loss])[0]) for _ in range(200)]
    assert load_array(fresh.scope, name)[0] > 0.1
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize('kind', KINDS)
def test_training_lowers_the_error_of_a_bad_start(fresh: Fresh, kind: str) -> None:
    quantizer = KINDS[kind](scale_for(None, 4, scale=[0.02]), fresh.scope)
    loss, _ = learner(fresh, quantizer, 2.0 if kind == 'lsq' else 0.05)
    exe = Executor()
    losses = [float(exe.run(fresh.main, {'x': numbers()}, [loss])[0]) for _ in range(100)]
    assert losses[-1] < losses[0] / 10


def test_an_evaluating_program_reads_the_scale_and_finds_none(fresh: Fresh) -> None:
    quantizer = LSQQuantizer(scale_for(None, 4), fresh.scope, training=False)
    learner(fresh, quantizer, 0.0)
    before = load_array(fresh.scope, quantizer.scale.names.base)
    Executor().run(fresh.main, {'x': numbers()})
    np.testing.assert_array_equal(load_array(fresh.scope, quantizer.scale.names.base), before)
    with pytest.raises(GraphError, match='run a training step'):
        quantizer.scale.read(fresh.scope)


def test_one_that_does_not_learn_adds_no_gradient(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, *SHAPE[1:]], 'float32')
    graph = GraphWrapper(fresh.main)
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]), fresh.scope, learns=False)
    e = Expressions(Insertion(graph))
    y = quantizer.forward(e, graph.var(x))
    assert y.raw.stop_gradient
    with matching_ir(fresh.main):
        quantizer.backward(e, graph.var(x), y, y)
    assert quantizer.parameter_gradients(e) == {}


@pytest.mark.parametrize('scale', [[0.0], [-1.0], [np.nan], [np.inf], [1.0, 2.0]])
def test_a_given_scale_must_be_sound(scale: Any) -> None:
    with pytest.raises(ConfigError, match='finite and positive'):
        scale_for(None, 4, scale=scale)


def test_what_else_is_refused(fresh: Fresh) -> None:
    with pytest.raises(ConfigError, match='known: mean, max'):
        scale_for(None, 4, start='median')
    quantizer = LSQQuantizer(scale_for(None, 4, scale=[0.25]), fresh.scope)
    learner(fresh, quantizer)
    graph = GraphWrapper(fresh.main)
    with pytest.raises(GraphError, match='already learns a scale'):
        quantizer.forward(Expressions(Insertion(graph)), graph.var('x'))
    with pytest.raises(GraphError, match='after the quantizer itself'):
        LSQQuantizer(scale_for(None, 4), fresh.scope).backward(
            Expressions(Insertion(graph)), graph.var('x'), graph.var('x'), graph.var('x')
        )
    store_array(fresh.scope, quantizer.scale.names.base, np.array([0.0], 'float32'))
    with pytest.raises(DataError, match='finite and positive'):
        quantizer.scale.read(fresh.scope)
