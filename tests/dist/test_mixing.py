"""Mixed teachers against numpy in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import pytest

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.dist.losses import soft_label
from paddleslim_ng.dist.mixing import mix
from paddleslim_ng.errors import ConfigError, GraphError
from tests.conftest import Fresh

Array = npt.NDArray[Any]


def teachers(count: int = 3, batch: int = -1, classes: int = 4) -> list[Any]:
    return [paddle.static.data(f't{number}', [batch, classes], 'float32') for number in range(count)]


def logits(count: int = 3, batch: int = 5, scale: float = 3.0) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {f't{number}': (scale * rng.standard_normal((batch, 4))).astype('float32') for number in range(count)}


def softmax(x: Array) -> Array:
    e = np.exp(x.astype('float64') - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@pytest.mark.parametrize('batch', [-1, 5])
@pytest.mark.parametrize('weights', [None, [1, 2, 5], [1, 0, 3]])
def test_means_of_logits_and_of_probabilities(fresh: Fresh, batch: int, weights: list[float] | None) -> None:
    given = teachers(batch=batch)
    of_logits, of_probabilities = mix(given, weights), mix(['t0', *given[1:]], weights, fresh.main, kind='probability')
    feed = logits()
    shares = np.array(weights or [1, 1, 1]) / sum(weights or [1, 1, 1])
    found = Executor().run(fresh.main, feed, [of_logits, of_probabilities])
    arrays = [array.astype('float64') for array in feed.values()]
    assert np.allclose(found[0], sum(share * x for share, x in zip(shares, arrays)), atol=1e-6)
    expected = sum(share * softmax(x) for share, x in zip(shares, arrays))
    assert np.allclose(found[1], np.log(expected), atol=1e-5)
    assert np.allclose(softmax(found[1]), expected, atol=1e-6)


def test_extreme_logits_stay_finite(fresh: Fresh) -> None:
    result = mix(teachers(2), kind='probability')
    feed = {'t0': np.array([[1e4, -1e4, 0, 0]], 'float32'), 't1': np.array([[1e4, -1e4, 1e4, 0]], 'float32')}
    (found,) = Executor().run(fresh.main, feed, [result])
    assert np.isfinite(found).all()
    assert np.allclose(softmax(found), [[0.75, 0, 0.25, 0]], atol=1e-6)


def test_one_teacher_is_itself(fresh: Fresh) -> None:
    given = teachers(1)
    found = Executor().run(fresh.main, logits(1), [mix(given), mix(given, kind='probability')])
    assert np.allclose(found[0], logits(1)['t0'], atol=1e-6)
    assert np.allclose(softmax(found[1]), softmax(logits(1)['t0']), atol=1e-6)


def test_no_gradient_reaches_a_teacher_that_would_take_one(fresh: Fresh) -> None:
    x = paddle.static.data('t0', [-1, 4], 'float32')
    taught = paddle.nn.Linear(4, 4, weight_attr=paddle.ParamAttr(name='student'))(x)
    open_teachers = [paddle.nn.Linear(4, 4, weight_attr=paddle.ParamAttr(name=f'teacher{n}'))(x) for n in range(2)]
    mixed = mix(open_teachers, [1, 2], kind='probability')
    assert mixed.stop_gradient
    loss = soft_label(mixed, taught)
    paddle.optimizer.SGD(0.1).minimize(loss)
    fresh.exe.run(fresh.startup)
    updated = {var.name() for op in GraphWrapper(fresh.main).ops() if op.is_opt_op() for var in op.inputs('Param')}
    assert 'student' in updated
    assert not any(name.startswith('teacher') for name in updated)
    assert np.isfinite(Executor().run(fresh.main, logits(1), [loss])[0])


def test_errors_leave_the_program_alone(fresh: Fresh) -> None:
    given = teachers()
    wider = paddle.static.data('wider', [-1, 5], 'float32')
    paddle.static.data('whole', [-1, 4], 'int64')
    for values, weights, kind, error, words in (
        ([], None, 'logits', ConfigError, 'one or more'),
        ('t0', None, 'logits', ConfigError, 'one or more'),
        (given, None, 'logit', ConfigError, "did you mean 'logits'"),
        (given, [1, 2], 'logits', ConfigError, '3 values and 2 weights'),
        (given, [0, 0, 0], 'logits', ConfigError, 'positive, finite sum'),
        (given, [1, math.nan, 1], 'logits', ConfigError, 'finite'),
        (given, [1, -1, 1], 'logits', ConfigError, 'at least 0'),
        ([given[0], 't0'], None, 'logits', ConfigError, 'given twice'),
        ([given[0], wider], None, 'logits', GraphError, 'wider'),
        ([given[0], 'whole'], None, 'logits', GraphError, 'int64'),
        ([given[0], 't9'], None, 'logits', GraphError, 'did you mean'),
    ):
        with pytest.raises(error, match=words):
            mix(values, weights, kind=kind)  # type: ignore[arg-type]
    assert GraphWrapper(fresh.main).ops() == []
