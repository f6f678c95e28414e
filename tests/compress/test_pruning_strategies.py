"""Uniform channel pruning and unstructured pruning as strategies."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from paddleslim_ng.analysis import flops, model_size
from paddleslim_ng.compress import Compressor, Context, Strategy
from paddleslim_ng.compress.strategies import UniformPruneStrategy, UnstructuredPruneStrategy
from paddleslim_ng.core import Executor, GraphWrapper, clone_program, load_array
from paddleslim_ng.errors import ConfigError, NotPrunableError
from paddleslim_ng.prune import Pruner
from tests.compress.job_net import ALONE, JobNet


def _conv(name: str, *sizes: int, **options: Any) -> Any:
    return nn.Conv2D(*sizes, weight_attr=paddle.ParamAttr(name=name), **options)


class WideNet:
    """Three convolutions with a branch, wide enough for ratios to be met within 1 %."""

    def __init__(self) -> None:
        self.main, startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        with paddle.static.program_guard(self.main, startup), paddle.utils.unique_name.guard():
            x = paddle.static.data('x', [-1, 3, 8, 8], 'float32')
            first = F.relu(_conv('conv_a', 3, 96, 3, padding=1)(x))
            left = _conv('conv_b', 96, 128, 3, padding=1)(first)
            right = _conv('conv_c', 96, 128, 1)(first)
            last = _conv('conv_d', 128, 80, 3)(F.relu(left + right))
            out = nn.Linear(80, 10)(paddle.flatten(F.adaptive_avg_pool2d(last, 1), 1))
            self.loss = paddle.mean(out)
        Executor().run(startup, scope=self.scope)

    def pruned(self, strategy: Strategy) -> Any:
        compressor = Compressor(
            None, self.scope, self.main, None, ['x'], [('loss', self.loss)], clone_program(self.main, True),
            eval_fetch_list=[('loss', self.loss)], ranks=ALONE,
        )  # fmt: skip
        compressor.add_strategy(strategy)
        return compressor.run()


@pytest.mark.parametrize(
    ('target', 'ratio', 'round_to'), [('flops', 0.3, 1), ('flops', 0.5, 8), ('params', 0.7, 1), ('flops', 0.62, 4)]
)
def test_the_target_is_met_within_a_percent(target: str, ratio: float, round_to: int) -> None:
    net = WideNet()
    count = {'flops': flops, 'params': model_size}[target]
    before = count(net.main)
    strategy = UniformPruneStrategy(target=target, target_ratio=ratio, round_to=round_to)
    result = net.pruned(strategy)
    removed = 1 - count(result.eval_program) / before
    assert removed == pytest.approx(ratio, abs=0.01) and removed == pytest.approx(strategy.removed)
    assert count(result.train_program) == count(result.eval_program) and count(net.main) == before
    for name in ('conv_a', 'conv_b', 'conv_d'):
        kept = load_array(net.scope, name).shape[0]
        assert kept % round_to == 0 and strategy.ratio is not None
        assert (
            abs(kept / GraphWrapper(net.main).var(name).shape()[0] - (1 - strategy.ratio)) < 0.5 * round_to / 80 + 0.01
        )


def test_the_nearest_that_rounding_reaches_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    net = WideNet()
    result = net.pruned(strategy := UniformPruneStrategy(target_ratio=0.5, round_to=64))
    assert 'nearest to 50.0%' in caplog.text
    assert strategy.removed == pytest.approx(1 - flops(result.eval_program) / flops(net.main))
    # No other ratio comes nearer.
    other, whole = WideNet(), flops(net.main)
    names = ['conv_a', 'conv_b', 'conv_d']
    tried = [
        Pruner(round_to=64).prune(other.main, other.scope, names, [ratio] * 3, only_graph=True)[0]
        for ratio in np.arange(0.05, 0.95, 0.05)
    ]
    assert abs(strategy.removed - 0.5) <= min(abs(1 - flops(one) / whole - 0.5) for one in tried) + 1e-9
    with pytest.raises(ConfigError, match='cannot be approached.*round_to=128'):
        WideNet().pruned(UniformPruneStrategy(target_ratio=0.1, round_to=128))


def test_given_ratios_and_patterns() -> None:
    net = WideNet()
    net.pruned(UniformPruneStrategy(channel_ratios={'conv_a': 0.25}, round_to=1))
    assert load_array(net.scope, 'conv_a').shape[0] == 72 and load_array(net.scope, 'conv_d').shape[0] == 80
    with pytest.raises(ConfigError, match='remove nothing.*round_to=8'):
        net.pruned(UniformPruneStrategy(channel_ratios={'conv_d': 0.03}))
    net = WideNet()
    strategy = UniformPruneStrategy(channel_ratios=0.5, pruned_params='conv.*', excluded_params='conv_[bc]', round_to=1)
    net.pruned(strategy)
    shapes = [load_array(net.scope, f'conv_{letter}').shape[0] for letter in 'abd']
    assert shapes == [48, 128, 40]
    net = WideNet()
    net.pruned(UniformPruneStrategy(channel_ratios=0.5, pruned_params='conv_a', pruner=Pruner('geometry_median')))
    assert load_array(net.scope, 'conv_a').shape[0] == 48


def test_pruning_arguments_that_do_not_serve() -> None:
    for options in (
        {'target': 'latency'}, {'target_ratio': 1.0}, {'target_ratio': 0}, {'max_ratio': True}, {'channel_ratios': 1.5},
        {'pruned_params': '('}, {'pruner': 'l1_norm'}, {'round_to': 0},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            UniformPruneStrategy(**options)
    with pytest.raises(ConfigError, match='no parameter is called as dense'):
        WideNet().pruned(UniformPruneStrategy(pruned_params='dense.*'))
    with pytest.raises(ConfigError, match="channel_ratios names \\['dense'\\]"):
        WideNet().pruned(UniformPruneStrategy(channel_ratios={'dense': 0.5}))
    with pytest.raises(NotPrunableError):
        compressor = JobNet().compressor(train_reader=None)
        compressor.add_strategy(UniformPruneStrategy(channel_ratios={'fc': 0.5}))
        compressor.run()


def _sparsity(net: JobNet, names: tuple[str, ...] = ('conv1', 'conv2', 'fc')) -> float:
    values = np.concatenate([net.value(name).reshape(-1) for name in names])
    return float((values == 0).mean())


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'ratio': 0.5}, 0.5),
        ({'ratio': 0.75, 'local_sparsity': True}, 0.75),
        ({'pattern': '2:4'}, 0.5),
        ({'ratio': 0.6, 'sparse_block': [4, 1]}, 0.6),
    ],
    ids=['ratio', 'local', 'pattern', 'blocks'],
)
def test_weights_leave(options: dict[str, Any], expected: float) -> None:
    net = JobNet()
    compressor = net.compressor(epoch=2)
    compressor.add_strategy(UnstructuredPruneStrategy(1, **options))
    compressor.run()
    names = ('conv2', 'fc') if 'pattern' in options else ('conv1', 'conv2', 'fc')
    assert _sparsity(net, names) == pytest.approx(expected, abs=0.01)


def test_patterns_thresholds_and_static_zeros() -> None:
    net = JobNet()
    compressor = net.compressor(epoch=1)
    compressor.add_strategy(UnstructuredPruneStrategy(mode='threshold', threshold=0.05, pruned_params='conv2|fc'))
    compressor.run()
    assert _sparsity(net, ('conv1',)) == 0 and 0.1 < _sparsity(net, ('conv2',)) < 1
    zeros = net.value('conv2') == 0
    fresh = net.compressor(epoch=1)
    fresh.add_strategy(UnstructuredPruneStrategy(mode='static', excluded_params='fc'))
    fresh.run()
    np.testing.assert_array_equal(net.value('conv2') == 0, zeros)
    assert _sparsity(net, ('fc',)) == 0


def test_zeros_stay_after_the_end() -> None:
    class Watching(Strategy):
        def on_batch_end(self, context: Context) -> None:
            seen.append(net.value('conv2') == 0)

    seen: list[Any] = []
    net = JobNet()
    compressor = net.compressor(epoch=3)
    compressor.add_strategy(UnstructuredPruneStrategy(0, 1, ratio=0.5))
    compressor.add_strategy(Watching())
    compressor.run()
    assert seen[0].mean() > 0.3
    for zeros in seen[1:]:
        np.testing.assert_array_equal(zeros, seen[0])


def test_sparse_arguments_that_do_not_serve() -> None:
    for options in ({'mode': 'once'}, {'prune_params_type': 'conv3x3'}, {'pruned_params': '['}):
        with pytest.raises(ConfigError):
            UnstructuredPruneStrategy(**options)
    compressor = JobNet().compressor(epoch=1)
    compressor.add_strategy(UnstructuredPruneStrategy(pruned_params='dense'))
    with pytest.raises(ConfigError, match='no parameter that can be pruned'):
        compressor.run()
