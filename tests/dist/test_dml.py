"""Deep mutual learning against networks that are trained apart, with the others' probabilities fed as constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.core import Executor, GraphWrapper, has_array, load_array, lookup, store_array
from paddleslim_ng.core.teachers import distillation_of, teacher_prefixes
from paddleslim_ng.dist.dml import MutualLearning, dml
from paddleslim_ng.dist.peers import Peer
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.prune import Pruner
from paddleslim_ng.runtime import data_inputs, load_inference_model, save_inference_model
from tests.conftest import Fresh

RATE, HEAT, WEIGHT = 0.1, 2.0, 0.7
RNG = np.random.default_rng(0)
FEED = {'x': RNG.standard_normal((4, 2, 6, 6)).astype('float32'), 'label': RNG.integers(0, 3, (4, 1))}
Array = npt.NDArray[Any]


class Net:
    """A small classifier with batch norm, and one more loss where ``others`` networks teach it from outside."""

    def __init__(self, width: int, seed: int, others: int = 0, image: str = 'x', train: bool = False) -> None:
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.main.random_seed = self.startup.random_seed = seed
        self.scope = paddle.static.Scope()
        with paddle.static.program_guard(self.main, self.startup), paddle.utils.unique_name.guard():
            x = paddle.static.data(image, [-1, 2, 6, 6], 'float32')
            label = paddle.static.data('label', [-1, 1], 'int64')
            decayed = paddle.ParamAttr(name='conv', regularizer=paddle.regularizer.L2Decay(0.1), learning_rate=0.5)
            h = nn.Conv2D(2, width, 3, weight_attr=decayed, bias_attr=False)(x)
            h = F.relu(nn.BatchNorm2D(width)(h))
            h = paddle.flatten(F.adaptive_avg_pool2d(h, 2), 1)
            self.logits = nn.Linear(4 * width, 3, weight_attr=paddle.ParamAttr(name='fc'))(h)
            self.loss = F.cross_entropy(self.logits, label)
            total = self.loss
            for number in range(others):
                # sum q log p is what depends on this network; q comes from outside.
                q = paddle.static.data(f'q{number}', [-1, 3], 'float32')
                crossed = F.softmax_with_cross_entropy(self.logits / HEAT, q, soft_label=True)
                total = total + paddle.mean(crossed) * (WEIGHT * HEAT**2 / others)
            if train:
                paddle.optimizer.Momentum(RATE, 0.9).minimize(total)
        Executor().run(self.startup, scope=self.scope)

    def peer(self, **kwargs: Any) -> Peer:
        return Peer(self.main, self.logits, self.loss, self.scope, **kwargs)

    def state(self) -> dict[str, Array]:
        return {var.name(): load_array(self.scope, var.name()) for var in GraphWrapper(self.main).all_parameters()}


def softmax(x: Array) -> Array:
    e = np.exp(x.astype('float64') - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def joint(nets: list[Net], scope: Any, **kwargs: Any) -> MutualLearning:
    mutual = dml([net.peer() for net in nets], weight=WEIGHT, temperature=HEAT, scope=scope, **kwargs)
    with paddle.static.program_guard(mutual.program, mutual.startup_program):
        paddle.optimizer.Momentum(RATE, 0.9).minimize(mutual.total)
    Executor().run(mutual.startup_program, scope=scope)
    return mutual


@pytest.mark.parametrize('widths', [(3, 3), (3, 4, 5)])
def test_each_peer_takes_its_own_step(widths: tuple[int, ...]) -> None:
    """Peers of one architecture, and of several: two steps equal those of networks trained apart."""
    nets = [Net(width, seed) for seed, width in enumerate(widths, 1)]
    apart = [Net(width, seed, len(widths) - 1, train=True) for seed, width in enumerate(widths, 1)]
    scope, exe = paddle.static.Scope(), Executor()
    mutual = joint(nets, scope)
    for net, other in zip(nets, apart):
        for name, value in net.state().items():
            assert np.array_equal(value, load_array(other.scope, name))
    for _ in range(2):
        wanted = [*(peer.logits for peer in mutual.peers), *(peer.loss for peer in mutual.peers), mutual.total]
        found = exe.run(mutual.program, FEED, wanted, scope=scope)
        logits, losses, total = found[: len(nets)], found[len(nets) : -1], found[-1]
        q = [softmax(x / HEAT) for x in logits]
        for k, net in enumerate(apart):
            others = [q[other].astype('float32') for other in range(len(nets)) if other != k]
            feed = {**FEED, **{f'q{number}': other for number, other in enumerate(others)}}
            alone = exe.run(net.main, feed, [net.logits, net.loss], scope=net.scope)
            assert np.allclose(alone[0], logits[k], atol=1e-5)
            divergences = [np.sum(o * (np.log(o) - np.log(q[k])), -1).mean() for o in q if o is not q[k]]
            assert np.allclose(losses[k], alone[1] + WEIGHT * HEAT**2 * np.mean(divergences), atol=1e-5)
        assert np.allclose(total, np.sum(losses), atol=1e-5)
    for peer, net in zip(mutual.peers, apart):
        for name, value in net.state().items():
            assert np.allclose(load_array(scope, peer.names[name]), value, atol=1e-5), name


def test_only_parameters_of_peers_are_optimized_and_nothing_is_a_teacher() -> None:
    nets = [Net(3, 1), Net(4, 2)]
    scope = paddle.static.Scope()
    mutual = joint(nets, scope)
    graph = GraphWrapper(mutual.program)
    updated = {var.name() for op in graph.ops() if op.is_opt_op() for var in op.inputs('Param')}
    assert {f'{p}_{n}' for p in ('peer0', 'peer1') for n in ('conv', 'fc')} < updated
    assert all(name.startswith(('peer0_', 'peer1_')) for name in updated)
    assert teacher_prefixes(graph) == []
    assert {distillation_of(op) for op in graph.ops() if not (op.is_bwd_op() or op.is_opt_op())} == {
        None,
        'dml',
        'combine',
    }
    assert [var.name() for var in data_inputs(graph)] == ['x', 'label']
    assert mutual.variable(1, nets[1].logits) is not None
    assert GraphWrapper(mutual.program).name_of(mutual.variable(1, 'conv')) == 'peer1_conv'


def test_startup_programs_make_initial_values_and_one_program_serves_twice() -> None:
    net = Net(3, 1)
    other = Net(3, 2).startup
    scope = paddle.static.Scope()
    before = net.state()
    peers = [Peer(net.main, net.logits, net.loss, startup_program=startup) for startup in (net.startup, other)]
    mutual = dml(peers, scope=scope, prefixes=['a_', 'b_'])
    assert np.array_equal(load_array(scope, 'a_conv'), before['conv'])
    assert not np.array_equal(load_array(scope, 'a_conv'), load_array(scope, 'b_conv'))
    assert all(np.array_equal(value, before[name]) for name, value in net.state().items())
    found = Executor().run(mutual.program, FEED, [peer.divergence for peer in mutual.peers], scope=scope)
    assert min(float(np.ravel(value)[0]) for value in found) > 1e-4


def test_values_move_within_one_scope_and_are_copied_from_others(fresh: Fresh) -> None:
    first, second = Net(3, 1), Net(4, 2)
    for name, value in first.state().items():
        store_array(fresh.scope, name, value)
    dml([Peer(first.main, first.logits, first.loss), second.peer()])
    assert not has_array(fresh.scope, 'conv')
    assert np.array_equal(load_array(fresh.scope, 'peer0_conv'), first.state()['conv'])
    assert np.array_equal(load_array(fresh.scope, 'peer1_conv'), second.state()['conv'])


def test_inputs_of_other_names_are_shared() -> None:
    nets = [Net(3, 1), Net(4, 2, image='picture')]
    scope = paddle.static.Scope()
    with pytest.raises(GraphError, match="'picture'"):
        dml([nets[0].peer(), nets[1].peer()], scope=scope)
    mutual = dml([nets[0].peer(), nets[1].peer(inputs={'picture': 'x'})], scope=scope)
    (found,) = Executor().run(mutual.program, FEED, [mutual.peers[1].logits], scope=scope)
    feed = {'picture': FEED['x'], 'label': FEED['label']}
    (alone,) = Executor().run(nets[1].main, feed, [nets[1].logits], scope=nets[1].scope)
    assert np.allclose(found, alone, atol=1e-6)


def test_one_peer_alone_is_saved_and_computes_the_same(tmp_path: Path) -> None:
    nets = [Net(3, 1), Net(4, 2)]
    scope, exe = paddle.static.Scope(), Executor()
    mutual = joint(nets, scope)
    exe.run(mutual.program, FEED, scope=scope)
    program = mutual.extract(1)
    graph = GraphWrapper(program)
    assert [var.name() for var in data_inputs(graph)] == ['x']
    assert all(var.name().startswith('peer1_') for var in graph.all_parameters())
    assert not any(op.is_bwd_op() or op.is_opt_op() or distillation_of(op) for op in graph.ops())
    feed = {'x': FEED['x']}
    (expected,) = exe.run(program, feed, [mutual.peers[1].logits], scope=scope)
    for name, value in {n: load_array(scope, mutual.peers[1].names[n]) for n in nets[1].state()}.items():
        store_array(nets[1].scope, name, value)
    own = GraphWrapper(nets[1].main).clone(for_test=True).program
    (alone,) = exe.run(own, FEED, [nets[1].logits], scope=nets[1].scope)
    assert np.allclose(expected, alone, atol=1e-6)
    path = str(tmp_path / 'peer')
    save_inference_model(program, path, ['x'], [mutual.peers[1].logits], scope=scope)
    loaded = load_inference_model(path)
    (again,) = exe.run(loaded.program, feed, loaded.fetches, scope=loaded.scope)
    assert np.allclose(again, expected, atol=1e-6)


def test_peers_are_pruned_while_they_learn() -> None:
    nets = [Net(4, 1), Net(4, 2)]
    scope, exe = paddle.static.Scope(), Executor()
    mutual = joint(nets, scope)
    pruned, *_ = Pruner().prune(mutual.program, scope, ['peer1_conv'], [0.5], place=paddle.CPUPlace())
    exe.run(pruned, FEED, [mutual.total], scope=scope)
    assert load_array(scope, 'peer1_conv').shape[0] == 2
    assert load_array(scope, 'peer0_conv').shape[0] == 4
    program = mutual.extract(1, pruned)
    assert GraphWrapper(program).var('peer1_conv').shape()[0] == 2
    (found,) = exe.run(program, {'x': FEED['x']}, [mutual.peers[1].logits], scope=scope)
    assert found.shape == (4, 3)
    assert lookup(program, mutual.peers[1].logits) is not None


def test_errors_leave_programs_and_scopes_alone(fresh: Fresh) -> None:
    first, second, wide = Net(3, 1), Net(4, 2), Net(5, 3)
    trained = Net(3, 4, train=True)
    with paddle.static.program_guard(wide.main, wide.startup):
        more = paddle.concat([wide.logits, wide.logits], axis=1)
    contents = [[repr(op) for op in GraphWrapper(net.main).ops()] for net in (first, second)]
    empty = paddle.static.Scope()

    def other(**changes: Any) -> Peer:
        return Peer(
            **{
                **{'program': second.main, 'logits': second.logits, 'loss': second.loss, 'scope': second.scope},
                **changes,
            }
        )

    for peers, options, error, words in (
        ([first.peer()], {}, ConfigError, 'two or more'),
        ([first.peer(), second], {}, ConfigError, 'two or more'),
        ([first.peer(), trained.peer()], {}, GraphError, 'before minimize'),
        ([first.peer(), second.peer()], {'weight': -1.0}, ConfigError, 'weight'),
        ([first.peer(), second.peer()], {'temperature': 0.0}, ConfigError, 'temperature'),
        ([first.peer(), second.peer()], {'prefixes': ['a_', 'a_']}, ConfigError, 'different'),
        ([first.peer(), second.peer(inputs={'y': 'x'})], {}, GraphError, 'inputs of peer 1'),
        ([first.peer(), other(logits='logit')], {}, GraphError, 'no variable'),
        ([first.peer(), other(logits=first.logits)], {}, GraphError, 'another program'),
        ([first.peer(), other(loss=second.logits)], {}, GraphError, 'no scalar'),
        ([first.peer(), Peer(wide.main, more, wide.loss, wide.scope)], {}, GraphError, 'must match'),
        ([first.peer(), other(scope=empty)], {}, GraphError, 'no initial value'),
        ([first.peer(), other(scope=first.scope)], {}, GraphError, 'scope or startup_program of its own'),
    ):
        with pytest.raises(error, match=words):
            dml(peers, scope=fresh.scope, **options)  # type: ignore[arg-type]
        assert not any(has_array(fresh.scope, f'peer{n}_{name}') for n in (0, 1) for name in ('conv', 'fc'))
    assert [[repr(op) for op in GraphWrapper(net.main).ops()] for net in (first, second)] == contents
    mutual = dml([first.peer(), second.peer()], scope=fresh.scope)
    with pytest.raises(GraphError, match='already has'):
        dml([first.peer(), second.peer()], scope=fresh.scope)
    with pytest.raises(ConfigError, match='from 0 to 1'):
        mutual.extract(2)
    with pytest.raises(GraphError, match='no variable'):
        mutual.variable(0, 'nothing')
