"""Expressions compute what numpy computes, on both IRs, and gradients pass where they should."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import pytest
from scipy.special import log_softmax, logsumexp, softmax

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper
from paddleslim_ng.core.additions import Additions
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion

Array = npt.NDArray[Any]
X = np.random.default_rng(0).standard_normal((3, 4)).astype('float32')
Y = np.random.default_rng(1).standard_normal((3, 4)).astype('float32')
MAPS = np.random.default_rng(2).standard_normal((3, 2, 4, 6)).astype('float32')
WEIGHT = np.random.default_rng(3).standard_normal((5, 2, 1, 1)).astype('float32')
LABEL = np.array([2, 0, 3])

VERBS: dict[str, tuple[Callable[..., VarWrapper], Array]] = {
    'add': (lambda e, x: e.add(x['x'], x['y']), X + Y),
    'subtract': (lambda e, x: e.subtract(x['x'], x['y']), X - Y),
    'multiply': (lambda e, x: e.multiply(x['x'], x['y']), X * Y),
    'divide': (lambda e, x: e.divide(x['x'], x['y']), X / Y),
    'constant': (lambda e, x: e.add(x['x'], e.constant(0.1)), X + np.float32(0.1)),
    'maximum': (lambda e, x: e.maximum(x['x'], x['y']), np.maximum(X, Y)),
    'scale': (lambda e, x: e.scale(x['x'], 2, -1), 2 * X - 1),
    'scale_by': (lambda e, x: e.scale_by(x['x'], e.mean(x['y'])), X * Y.mean()),
    'square': (lambda e, x: e.square(x['x']), X**2),
    'sqrt': (lambda e, x: e.sqrt(e.square(x['x'])), np.abs(X)),
    'exp': (lambda e, x: e.exp(x['x']), np.exp(X)),
    'abs': (lambda e, x: e.abs(x['x']), np.abs(X)),
    'round': (lambda e, x: e.round(e.scale(x['x'], 3.0)), np.sign(X) * np.floor(3 * np.abs(X) + 0.5)),
    'round halves': (lambda e, x: e.round(e.scale(x['x'], 0.0, -2.5)), np.full_like(X, -3)),
    'power': (lambda e, x: e.power(e.abs(x['x']), 1.5), np.abs(X) ** 1.5),
    'clip': (lambda e, x: e.clip(x['x'], -0.5, 0.25), np.clip(X, -0.5, 0.25)),
    'mean of all': (lambda e, x: e.mean(x['x']), X.mean()),
    'mean': (lambda e, x: e.mean(x['x'], [0], keep=True), X.mean(0, keepdims=True)),
    'sum': (lambda e, x: e.sum(x['maps'], [2, -1]), MAPS.sum((2, 3))),
    'max': (lambda e, x: e.max(x['x'], [-1], keep=True), X.max(-1, keepdims=True)),
    'min': (lambda e, x: e.min(x['maps'], [1, 3]), MAPS.min((1, 3))),
    'cumulated': (lambda e, x: e.cumulated(e.exp(x['x']), 1), np.cumsum(np.exp(X), 1)),
    'softmax': (lambda e, x: e.softmax(x['x'], 0), softmax(X, 0)),
    'log_softmax': (lambda e, x: e.log_softmax(e.scale(x['x'], 1e4)), log_softmax(X.astype('float64') * 1e4, -1)),
    'log_sum_exp': (lambda e, x: e.log_sum_exp(x['x'], 0, keep=True), logsumexp(X, 0, keepdims=True)),
    'argmax': (lambda e, x: e.argmax(x['x'], 0), X.argmax(0)),
    'argmax of equals': (lambda e, x: e.argmax(e.scale(x['x'], 0.0)), np.zeros(3, 'int64')),
    'argsort': (lambda e, x: e.argsort(x['x'], 1), X.argsort(1)),
    'search': (
        lambda e, x: e.search(e.cumulated(e.exp(x['x']), 1), x['y']),
        (np.cumsum(np.exp(X), 1)[:, None] < Y[..., None]).sum(-1),
    ),
    'take': (lambda e, x: e.take(e.reshape(x['x'], [-1]), x['label']), X.reshape(-1)[LABEL]),
    'sum_at': (lambda e, x: e.sum_at(x['label'], e.max(x['x'], [1]), 5), [X.max(1)[1], 0, X.max(1)[0], X.max(1)[2], 0]),
    'one_hot': (lambda e, x: e.one_hot(x['label'], 4), np.eye(4)[LABEL]),
    'at_most': (lambda e, x: e.at_most(x['x'], e.mean(x['y'], [1], keep=True)), Y.mean(1, keepdims=True) >= X),
    'where': (lambda e, x: e.where(e.at_most(x['x'], x['y']), x['x'], x['y']), np.minimum(X, Y)),
    'matmul': (lambda e, x: e.matmul(x['x'], x['y'], transpose_y=True), X @ Y.T),
    'reshape': (lambda e, x: e.reshape(x['maps'], [0, 0, -1]), MAPS.reshape(3, 2, 24)),
    'unsqueeze': (lambda e, x: e.subtract(e.unsqueeze(x['x'], 0), e.unsqueeze(x['x'], 1)), X[None] - X[:, None]),
    'transpose': (lambda e, x: e.transpose(x['maps'], [0, 2, 3, 1]), MAPS.transpose(0, 2, 3, 1)),
    'concat': (lambda e, x: e.concat([x['x'], x['y']], 1), np.concatenate([X, Y], 1)),
    'tile': (lambda e, x: e.tile(x['x'], [2, 3]), np.tile(X, (2, 3))),
    'slice': (lambda e, x: e.slice(x['maps'], 3, 1, 5), MAPS[..., 1:5]),
    'cast': (lambda e, x: e.cast(x['x'], 'float64'), X.astype('float64')),
    'average_pool': (lambda e, x: e.average_pool(x['maps'], (2, 3)), MAPS.reshape(3, 2, 2, 2, 2, 3).mean((3, 5))),
    'convolve': (
        lambda e, x: e.convolve(x['maps'], x['weight']),
        np.einsum('nchw,dc->ndhw', MAPS, WEIGHT[:, :, 0, 0]),
    ),
    'stop': (lambda e, x: e.stop(x['x']), X),
}
STOPS = {'argmax', 'argsort', 'search', 'argmax of equals', 'one_hot', 'at_most', 'stop'}
FEED = {'x': X, 'y': Y, 'maps': MAPS, 'weight': WEIGHT, 'label': LABEL}


def inputs(stops: bool) -> tuple[Any, Expressions, dict[str, VarWrapper]]:
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()):
        for name, array in FEED.items():
            shape = list(array.shape) if name == 'weight' else [-1, *array.shape[1:]]
            paddle.static.data(name, shape, str(array.dtype)).stop_gradient = stops or name == 'label'
    graph = GraphWrapper(program)
    return program, Expressions(Insertion(graph)), {name: graph.var(name) for name in FEED}


@pytest.mark.parametrize('verb', VERBS)
def test_a_verb(verb: str) -> None:
    build, wanted = VERBS[verb]
    program, e, variables = inputs(stops=False)
    result = build(e, variables)
    assert result.raw.stop_gradient == (verb in STOPS)
    (value,) = Executor().run(program, FEED, [result.raw])
    np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=1e-5)
    assert str(value.dtype) == result.dtype()
    assert all(n in (-1, m) for n, m in zip(result.shape(), value.shape)) and len(result.shape()) == value.ndim


@pytest.mark.parametrize('verb', ['add', 'mean of all', 'matmul', 'reshape', 'convolve'])
def test_no_gradient_passes_where_none_comes_in(verb: str) -> None:
    _, e, variables = inputs(stops=True)
    assert VERBS[verb][0](e, variables).raw.stop_gradient


@pytest.mark.parametrize('verb', ['reshape', 'unsqueeze', 'transpose', 'log_softmax', 'log_sum_exp', 'power', 'clip'])
def test_a_gradient_comes_back(verb: str) -> None:
    """The operators that keep something for their gradient, against a difference quotient."""
    name = 'maps' if verb in ('reshape', 'transpose') else 'x'
    program, e, variables = inputs(stops=False)
    total = e.mean(e.square(VERBS[verb][0](e, variables)))
    with paddle.static.program_guard(program, paddle.static.Program()):
        (slope,) = paddle.static.gradients([total.raw], [variables[name].raw])
    exe = Executor()
    (gradient,) = exe.run(program, FEED, [slope])
    place = (1,) * FEED[name].ndim
    step = np.zeros_like(FEED[name])
    step[place] = 1e-3
    ahead, behind = (exe.run(program, {**FEED, name: FEED[name] + d}, [total.raw])[0] for d in (step, -step))
    np.testing.assert_allclose(gradient[place], (ahead - behind) / 2e-3, rtol=2e-2, atol=1e-4 * np.abs(ahead))


def test_mixed_precision_around_an_expression_changes_nothing(ir: str) -> None:
    """On PIR Paddle casts the operands while it builds; legacy programs are rewritten when the optimizer is made."""
    program, e, variables = inputs(stops=False)
    mixed = paddle.amp.auto_cast(dtype='bfloat16') if ir == 'pir' else nullcontext()
    with paddle.static.program_guard(program, paddle.static.Program()), mixed:
        exact = e.matmul(variables['x'], variables['y'], transpose_y=True)
        if ir == 'pir':  # still in force outside
            assert 'bfloat16' in str(paddle.matmul(exact.raw, exact.raw).dtype).lower()
    assert exact.dtype() == 'float32'
    (value,) = Executor().run(program, FEED, [exact.raw])
    np.testing.assert_allclose(value, X @ Y.T, rtol=1e-5, atol=1e-6)


def test_additions_are_taken_out() -> None:
    program, e, variables = inputs(stops=False)
    e.add(variables['x'], variables['y'])
    before, added = str(program), Additions(program)
    e.mean(e.reshape(variables['maps'], [0, -1]))
    with paddle.static.program_guard(program, paddle.static.Program()):
        paddle.static.create_parameter([2, 2], 'float32')
    assert added.operators() and str(program) != before
    added.undo()
    assert str(program) == before and not added.operators()
