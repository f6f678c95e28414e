"""One loss on several pairs of features: the sum of what each gives on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import Executor, GraphWrapper
from paddleslim_ng.dist.feature_losses import feature_losses
from paddleslim_ng.dist.feature_pairs import match_features
from paddleslim_ng.dist.losses import fsp
from paddleslim_ng.dist.merge import merge
from paddleslim_ng.errors import ConfigError, GraphError
from tests.conftest import Fresh

RNG = np.random.default_rng(0)
FEED = {f'{side}{n}': RNG.standard_normal((4, 3, 2, 2)).astype('float32') for side in 'ts' for n in range(3)}


def pairs() -> list[tuple[Any, Any]]:
    return [
        (paddle.static.data(f't{n}', [-1, 3, 2, 2], 'float32'), paddle.static.data(f's{n}', [-1, 3, 2, 2], 'float32'))
        for n in range(3)
    ]


def distance(n: int) -> Any:
    return np.mean((FEED[f't{n}'].astype('float64') - FEED[f's{n}']) ** 2)


def content(*programs: Any) -> list[str]:
    return [repr(op) for program in programs for op in GraphWrapper(program).ops()]


def test_weighted_sum_of_mean_squares(fresh: Fresh) -> None:
    given = pairs()
    plain = feature_losses(given)
    halved = feature_losses([(t.name, s.name) for t, s in given], 'l2', 0.5, fresh.main)
    weighted = feature_losses(given, 'l2', [1, 0, 3])
    found = Executor().run(fresh.main, FEED, [plain, halved, weighted])
    parts = [distance(n) for n in range(3)]
    assert np.allclose(found[0], sum(parts), rtol=1e-5)
    assert np.allclose(found[1], sum(parts) / 2, rtol=1e-5)
    assert np.allclose(found[2], parts[0] + 3 * parts[2], rtol=1e-5)


def test_function_of_ones_own(fresh: Fresh) -> None:
    total = feature_losses(pairs(), lambda teacher, student: paddle.mean(F.relu(teacher - student)), [2, 1, 1])
    (found,) = Executor().run(fresh.main, FEED, [total])
    parts = [np.maximum(FEED[f't{n}'] - FEED[f's{n}'], 0).mean() for n in range(3)]
    assert np.allclose(found, 2 * parts[0] + parts[1] + parts[2], rtol=1e-5)


def test_pairs_of_pairs_and_options(fresh: Fresh) -> None:
    (t0, s0), (t1, s1), _ = pairs()
    total = feature_losses([((t0, t1), (s0, s1))], 'fsp')
    attention = feature_losses([(t0, s0), (t1, s1)], 'attention_transfer', power=1.0)
    other = feature_losses([(t0, s0), (t1, s1)], 'attention_transfer', power=2.0)
    found = Executor().run(fresh.main, FEED, [total, fsp(t0, t1, s0, s1), attention, other])
    assert found[0] == found[1]
    assert abs(found[2] - found[3]) > 1e-3


def network(width: int) -> tuple[Any, Any]:
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        x = paddle.static.data('x', [-1, 2, 6, 6], 'float32')
        h = F.relu(nn.Conv2D(2, width, 3, weight_attr=paddle.ParamAttr(name='first'), bias_attr=False)(x))
        h = F.relu(nn.Conv2D(width, width, 3, weight_attr=paddle.ParamAttr(name='second'), bias_attr=False)(h))
        nn.Linear(width * 4, 3, weight_attr=paddle.ParamAttr(name='third'), bias_attr=False)(paddle.flatten(h, 1))
    return main, startup


def test_matched_pairs_of_a_merged_program_train_through_adapters() -> None:
    scope = paddle.static.Scope()
    (teacher, start_teacher), (student, startup) = network(5), network(3)
    exe = Executor()
    exe.run(start_teacher, scope=scope)
    merge(teacher, student, {'x': 'x'}, scope=scope, teacher_scope=None)
    pairs = match_features(student, prefix='teacher_', channels='any')
    assert pairs == match_features(student, channels='any')
    before = match_features(teacher, network(3)[0], prefix='teacher_', channels='any')
    assert [pair.names for pair in pairs] == [pair.names for pair in before]
    with paddle.static.program_guard(student, startup):
        total = feature_losses(pairs, 'regression', [1, 2, 3], student, startup)
        paddle.optimizer.SGD(0.05).minimize(total)
    # What was built does not add to the features, and one more teacher's side cannot be asked for.
    assert [pair.names for pair in match_features(student, channels='any')] == [pair.names for pair in pairs]
    with pytest.raises(GraphError, match="'other_'"):
        match_features(student, prefix='other_')
    exe.run(startup, scope=scope)
    feed = {'x': np.random.default_rng(0).standard_normal((4, 2, 6, 6)).astype('float32')}
    values = [float(np.ravel(exe.run(student, feed, [total], scope=scope)[0])[0]) for _ in range(12)]
    assert values[-1] < 0.9 * values[0]


def test_errors_leave_the_programs_alone(fresh: Fresh) -> None:
    given = pairs()
    small = paddle.static.data('small', [-1, 3, 5, 5], 'float32')
    before = content(fresh.main, fresh.startup), set(map(repr, GraphWrapper(fresh.main).vars()))

    def broken(teacher: Any, student: Any) -> Any:
        paddle.mean(teacher)
        raise KeyError('mine')

    for wrong, kind, weights, options, error, words in (
        ([], 'l2', None, {}, ConfigError, 'no pairs'),
        (given, 'l3', None, {}, ConfigError, 'unknown kind'),
        (given, 'hinton', None, {}, ConfigError, 'unknown kind'),
        (given, 'l2', None, {'power': 1}, ConfigError, "no option 'power'"),
        (given, 'l2', [1, 2], {}, ConfigError, '3 pairs and 2 weights'),
        (given, 'l2', [1, 2, -1], {}, ConfigError, 'at least 0'),
        (given, 'fsp', None, {}, ConfigError, 'fsp'),
        ([given[0], ('t0', 's0')], 'l2', None, {}, ConfigError, 'given twice'),
        (['t0', 's0'], 'l2', None, {}, ConfigError, 'a pair is'),
        ([given[0], ('t1', small)], 'l2', None, {}, GraphError, 'small'),
        ([given[0], ('t1', 's9')], 'l2', None, {}, GraphError, 'did you mean'),
        (given, broken, None, {}, KeyError, 'mine'),
    ):
        with pytest.raises(error, match=words):
            feature_losses(wrong, kind, weights, **options)  # type: ignore[arg-type]
    assert (content(fresh.main, fresh.startup), set(map(repr, GraphWrapper(fresh.main).vars()))) == before
