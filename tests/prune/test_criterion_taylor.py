"""Taylor importance against differences of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleslim_ng.core import Executor, clone_program, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.models.layers import batch_norm, conv, linear
from paddleslim_ng.prune import Pruner, PruningSession
from paddleslim_ng.prune.taylor import Taylor
from tests.conftest import Fresh
from tests.prune.pruning_net import PARAMETERS, Built, build, feed, randomize

BATCHES = [feed(1), feed(2)]


@pytest.fixture
def net() -> Built:
    return build()


def scores_of(net: Built, criterion: Taylor, names: list[str] = PARAMETERS) -> dict[str, Any]:
    session = PruningSession(net.val, net.scope, criterion)
    return dict(session._score([session.request(name, 0.5) for name in names]))


def bend(x: Any) -> Any:
    """A smooth activation that every version builds."""
    return x / (1.0 + 0.5 * x * x)


class Smooth:
    """A network without kinks, so that differences of its loss are slopes."""

    names = ('a_weights', 'b_weights', 'c_weights')

    def __init__(self, fresh: Fresh) -> None:
        x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
        y = paddle.static.data('y', [-1, 1], 'int64')
        h = bend(batch_norm(conv(x, 6, 3, name='a'), name='a_bn'))
        h = bend(conv(h, 5, 3, name='b', bias=True, stride=2))
        h = bend(linear(paddle.flatten(F.avg_pool2d(h, 2), 1), 8, weight='c_weights', bias='c_offset'))
        logits = linear(h, 5, weight='d_weights', bias='d_offset')
        self.loss = paddle.mean(F.cross_entropy(logits, y))
        self.program = fresh.main
        self.test = clone_program(fresh.main, for_test=True)
        self.scope, self.exe = fresh.scope, Executor()
        fresh.exe.run(fresh.startup)
        randomize(self.program, self.scope, 3)

    def slope(self, name: str, where: tuple[Any, ...], batch: dict[str, Any]) -> float:
        """Return how fast the loss changes when some weights are scaled together."""
        values = load_array(self.scope, name)
        step, found = 4e-3, []
        for factor in (1 + step, 1 - step):
            new = values.copy()
            new[where] *= factor
            store_array(self.scope, name, new)
            found.append(float(self.exe.run(self.test, batch, [self.loss], scope=self.scope)[0]))
        store_array(self.scope, name, values)
        return (found[0] - found[1]) / (2 * step)

    def scores(self, criterion: Taylor) -> dict[str, Any]:
        session = PruningSession(self.program, self.scope, criterion)
        return dict(session._score([session.request(name, 0.5) for name in self.names]))


@pytest.mark.parametrize('power', [1, 2])
def test_joint_importance_is_the_slope_of_the_loss(fresh: Fresh, power: int) -> None:
    net = Smooth(fresh)
    found = net.scores(Taylor(net.program, net.loss, BATCHES, power=power, jointly=True))
    for name in net.names:
        axis = 1 if name == 'c_weights' else 0
        for channel in range(4):
            where = (slice(None),) * axis + (channel,)
            slopes = [abs(net.slope(name, where, batch)) ** power for batch in BATCHES]
            assert found[name][channel] == pytest.approx(np.mean(slopes), rel=0.02, abs=2e-4)


def test_importance_of_single_weights(fresh: Fresh) -> None:
    net = Smooth(fresh)
    found = net.scores(Taylor(net.program, net.loss, BATCHES[:1]))
    for name in net.names:
        axis = 1 if name == 'c_weights' else 0
        channel = np.take(load_array(net.scope, name), 1, axis=axis)
        slopes = [net.slope(name, _at(where, axis), BATCHES[0]) for where in np.ndindex(channel.shape)]
        assert found[name][1] == pytest.approx(np.square(slopes).sum(), rel=0.02, abs=1e-5)


def _at(where: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*where[:axis], 1, *where[axis:])


def test_training_and_evaluation_programs_agree_and_nothing_changes(net: Built) -> None:
    before, ops = net.values(net.train), str(net.train)
    first = scores_of(net, Taylor(net.train, net.loss, BATCHES))
    second = scores_of(net, Taylor(net.val, net.loss, tuple(BATCHES)))
    for name in PARAMETERS:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5)
    assert str(net.train) == ops
    after = net.values(net.train)
    assert all((before[name] == after[name]).all() for name in before)


def test_one_pass_over_the_feeds_serves_a_session(net: Built) -> None:
    passes = []
    criterion = Taylor(net.train, net.loss, lambda: passes.append(1) or iter(BATCHES))
    session = PruningSession(net.val, net.scope, criterion)
    footprints = [session.footprint(name, 0.5) for name in PARAMETERS]
    assert passes == [1]
    assert {'c1_weights', 'c3_weights'} <= set(footprints[0])


def test_pruning_by_taylor_is_proved(net: Built) -> None:
    pruner = Pruner(Taylor(net.train, net.loss, BATCHES))
    pruner.prune(net.val, net.scope, PARAMETERS, [0.25] * 4)
    assert pruner.report.equivalence is not None
    assert [entry.removed for entry in pruner.report.pruned] == [3, 3, 4, 4]


def test_unusable_arguments(net: Built) -> None:
    for options, message in (({'feeds': []}, 'empty'), ({'feeds': BATCHES, 'power': 3}, 'power')):
        with pytest.raises(ConfigError, match=message):
            Taylor(net.train, net.loss, **options)
    with pytest.raises(GraphError, match='lossy'):
        Taylor(net.train, 'lossy', BATCHES)
    with pytest.raises(ConfigError, match='no batch'):
        scores_of(net, Taylor(net.train, net.loss, list))


def test_gradients_that_are_not_finite(net: Built) -> None:
    broken = {**BATCHES[1], 'x': np.full_like(BATCHES[1]['x'], np.nan)}
    with pytest.raises(DataError, match='on batch 1'):
        scores_of(net, Taylor(net.train, net.loss, [BATCHES[0], broken]))


def test_parameters_that_the_loss_does_not_see(fresh: Fresh) -> None:
    x = paddle.static.data('x', [-1, 3, 6, 6])
    seen, aside = conv(x, 4, 3, name='seen'), conv(x, 4, 3, name='aside')
    loss = paddle.mean(conv(seen, 2, 1, name='next'))
    conv(aside, 2, 1, name='end')
    fresh.exe.run(fresh.startup)
    session = PruningSession(fresh.main, fresh.scope, Taylor(fresh.main, loss, [{'x': BATCHES[0]['x'][:, :, :6, :6]}]))
    session.footprint('seen_weights', 0.5)
    with pytest.raises(GraphError, match="does not depend on \\['aside_weights'\\]"):
        session.footprint('aside_weights', 0.5)


def test_programs_that_do_not_fit(net: Built) -> None:
    taylor = Taylor(net.train, net.loss, BATCHES)
    pruned, _, _ = Pruner().prune(net.val, net.scope, ['c1_weights'], [0.5])
    with pytest.raises(GraphError, match='given to Taylor'):
        Pruner(taylor).prune(pruned, net.scope, ['c3_weights'], [0.5])
