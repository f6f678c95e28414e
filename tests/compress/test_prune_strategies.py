"""Channel pruning by sensitivity, and gradual magnitude pruning, as strategies."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paddleslim_ng.analysis import flops, model_size
from paddleslim_ng.compress import Context, Strategy, StructurePruner
from paddleslim_ng.compress.strategies import GMPStrategy, SensitivePruneStrategy, UniformPruneStrategy
from paddleslim_ng.compress.strategies.loss_curves import LossCurve, find_ratios
from paddleslim_ng.core import load_array
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError
from tests.compress.job_net import JobNet, batches, same, tensors
from tests.compress.prune_net import PruneNet


def test_curves_rise_and_go_through_what_rises_already() -> None:
    curve = LossCurve({0.2: 0.01, 0.4: 0.05, 0.6: 0.2, 0.8: 0.6})
    for ratio, loss in ((0.0, 0.0), (0.2, 0.01), (0.6, 0.2), (1.0, 1.0)):
        assert curve.loss_at(ratio) == pytest.approx(loss, abs=2e-4)
        assert curve.ratio_at(curve.loss_at(ratio)) == pytest.approx(ratio, abs=1e-3)
    noisy = LossCurve({0.2: 0.03, 0.4: -0.01, 0.6: 0.01, 0.8: 0.01})
    losses = [noisy.loss_at(ratio) for ratio in np.linspace(0, 1, 101)]
    assert all(np.diff(losses) > 0) and losses[0] == 0 and losses[-1] == pytest.approx(1, abs=1e-3)
    # The two that fall are joined at their mean, as least squares has it.
    assert noisy.loss_at(0.2) == pytest.approx(0.01, abs=1e-4) and noisy.loss_at(0.8) == pytest.approx(0.01, abs=1e-4)
    flat = LossCurve({0.5: 0.0})
    assert [flat.ratio_at(loss) for loss in (0.0, 2.5e-5)] == pytest.approx([0, 0.25], abs=1e-3)
    for wrong in ({}, {0.5: float('nan')}):
        with pytest.raises(ConfigError, match='finite losses'):
            LossCurve(wrong)


@pytest.mark.parametrize(('target', 'ratio', 'round_to'), [('flops', 0.5, 1), ('params', 0.4, 1), ('flops', 0.6, 4)])
def test_the_target_is_met_and_layers_lose_by_what_they_bear(target: str, ratio: float, round_to: int) -> None:
    net = PruneNet()
    count = {'flops': flops, 'params': model_size}[target]
    before = count(net.main)
    strategy = SensitivePruneStrategy(
        target=target, target_ratio=ratio, metric_name='agree', round_to=round_to, pruned_params='conv.*'
    )
    result = net.run(strategy)
    removed = 1 - count(result.eval_program) / before
    assert removed == pytest.approx(ratio, abs=0.02) and removed == pytest.approx(strategy.removed)
    assert count(result.train_program) == count(result.eval_program)
    kept = {name: load_array(net.scope, name).shape[0] for name in ('conv_a', 'conv_idle', 'conv_b')}
    assert all(number % round_to == 0 for number in kept.values())
    # Nothing depends on it, and so most of it leaves.
    assert kept['conv_idle'] / 48 < min(kept['conv_a'] / 32, kept['conv_b'] / 48)
    # Addends lose the same, and are measured once.
    assert load_array(net.scope, 'conv_b').shape[0] == load_array(net.scope, 'conv_c').shape[0]
    assert set(strategy.sensitivities) == {'conv_a', 'conv_idle', 'conv_b'}
    assert list(strategy.sensitivities['conv_a']) == [0.2, 0.4, 0.6, 0.8]


def test_measurements_are_kept_in_a_file_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / 'sensitivities.json'
    first = PruneNet()
    options: dict[str, Any] = {'metric_name': 'agree', 'round_to': 1, 'sensitivities_file': file, 'delta_rate': 0.3}
    first.run(SensitivePruneStrategy(**options))
    content = json.loads(file.read_text())
    assert list(content['sensitivities']['conv_a']) == ['0.3', '0.6']
    again = PruneNet()
    again.run(strategy := SensitivePruneStrategy(**options))
    assert again.calls == 0 < first.calls
    assert strategy.sensitivities['conv_a'] == {float(k): v for k, v in content['sensitivities']['conv_a'].items()}
    same(tensors(again.main, again.scope), tensors(first.main, first.scope))
    with pytest.raises(CheckpointError, match='stale: the network'):
        PruneNet(seed=5).run(SensitivePruneStrategy(**options))
    for others in ('l2_norm', 'l0_norm'):
        pruner = StructurePruner(criterions={'*': others, 'conv_a': 'l1_norm'})
        options['sensitivities_file'] = tmp_path / 'by-name.json'
        if others == 'l2_norm':
            PruneNet().run(SensitivePruneStrategy(pruner=pruner, **options))
            continue
        with pytest.raises(CheckpointError, match='stale: the criterion'):
            PruneNet().run(SensitivePruneStrategy(pruner=pruner, **options))


def test_steps_wait_for_convergence_and_are_taken_before_the_end() -> None:
    net = PruneNet()
    total = flops(net.main)
    for converge, epochs in ((True, [0, 2, 4]), (False, [0, 5, 6])):
        net = PruneNet()
        net.values = iter([0.5] * 20) if converge else (0.5 + 0.1 * (index % 2) for index in range(20))
        strategy = SensitivePruneStrategy(
            num_steps=3, target_ratio=0.6, metric_name='agree', round_to=1, convergence=0.01, delta_rate=0.4
        )
        seen: list[float] = []
        result = net.run(strategy, Watch(seen), epoch=7)
        assert [entry.epoch_id for entry in result.journal] == epochs
        for epoch, step in zip(epochs, (1, 2, 3)):
            assert seen[epoch] / total == pytest.approx(0.4 ** (step / 3), abs=0.02)


class TwoLayers:
    """A session on a network of 8 and 16 channels: counts of channels that stay, for the cost to work on."""

    def decide(self, names: list[str], ratios: list[float]) -> Any:
        assert names == ['first', 'second']
        kept = [round(count * (1 - ratio)) for count, ratio in zip((8, 16), ratios)]
        return SimpleNamespace(cut=kept)


def test_a_layer_that_jumps_too_far_stays_while_others_go_on() -> None:
    def cost(kept: Any) -> int:
        first, second = kept
        return int(324 * first + 36 * first * second + 40 * second)

    curves = {'first': LossCurve({0.3: 0.1}), 'second': LossCurve({0.3: 0.3})}
    session: Any = TwoLayers()
    every = [cost((first, second)) for first in range(1, 9) for second in range(2, 17)]
    for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        wanted = cost((8, 16)) * (1 - share)
        found = find_ratios(session, curves, dict.fromkeys(curves, 0.9), cost, wanted)
        assert abs(found.left - wanted) <= max(0.015 * cost((8, 16)), min(abs(one - wanted) for one in every))


class Watch(Strategy):
    """Writes down what the network costs in each epoch."""

    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.seen = seen

    def on_epoch_end(self, context: Context) -> None:
        self.seen.append(flops(context.eval_program))


def test_no_layer_loses_more_than_max_ratio_over_all_steps() -> None:
    net = PruneNet()
    strategy = SensitivePruneStrategy(
        target_ratio=0.8, metric_name='agree', round_to=1, max_ratio=0.5, num_steps=3, end_epoch=3, delta_rate=0.4
    )
    net.run(strategy, epoch=4)
    assert strategy.steps == 3 and strategy.removed is not None and strategy.removed < 0.8
    assert load_array(net.scope, 'conv_idle').shape[0] == 24 and load_array(net.scope, 'conv_a').shape[0] >= 16


def test_sensitive_arguments_and_metrics_that_do_not_serve(caplog: pytest.LogCaptureFixture) -> None:
    for options in ({'num_steps': 0}, {'delta_rate': 1.0}, {'convergence': 0.0}, {'target_ratio': 1.5}):
        with pytest.raises(ConfigError):
            SensitivePruneStrategy(**options)
    net = PruneNet()
    before = tensors(net.main, net.scope)
    with pytest.raises(ConfigError, match="no metric 'agreed'.*agree"):
        net.run(SensitivePruneStrategy(metric_name='agreed'))
    net.values = iter([0.0])
    with pytest.raises(DataError):
        net.run(SensitivePruneStrategy(metric_name='agree'))
    net.values = iter([0.5, float('nan')])
    with pytest.raises(DataError):
        net.run(SensitivePruneStrategy(metric_name='agree'))
    same(tensors(net.main, net.scope), before)
    with pytest.raises(ConfigError, match='round_to=64'):
        PruneNet().run(SensitivePruneStrategy(metric_name='agree', round_to=64, target_ratio=0.1))


class Ratios(Strategy):
    """Writes down the share of zeros after each batch."""

    def __init__(self, net: JobNet, seen: list[float]) -> None:
        super().__init__()
        self.net, self.seen = net, seen

    def on_batch_end(self, context: Context) -> None:
        values = np.concatenate([self.net.value(name).reshape(-1) for name in ('conv1', 'conv2', 'fc')])
        self.seen.append(float((values == 0).mean()))


LIST = list(batches())


def test_the_ratio_rises_in_cubic_steps() -> None:
    net, seen = JobNet(), []
    compressor = net.compressor(epoch=6, train_reader=LIST)
    strategy = GMPStrategy(1, 5, ratio=0.8, initial_ratio=0.2, stable_iterations=0, pruning_iterations=12)
    compressor.add_strategy(strategy)
    compressor.add_strategy(Ratios(net, seen))
    compressor.run()
    assert not any(seen[:5])
    assert seen[5:17] == pytest.approx([0.2] * 12, abs=0.01) and seen[17:] == pytest.approx([0.8] * 13, abs=0.01)
    assert strategy.schedule is not None and strategy.schedule.tuning_iterations == 8


@pytest.mark.parametrize('phases', [{}, {'stable_epochs': 2.2, 'pruning_epochs': 4.4, 'tuning_epochs': 2}])
def test_the_plan_is_made_of_the_epochs(phases: dict[str, float]) -> None:
    net, seen = JobNet(), []
    compressor = net.compressor(epoch=12, train_reader=LIST)
    strategy = GMPStrategy(1, 11, ratio=0.7, initial_ratio=0.1, **phases)
    compressor.add_strategy(strategy)
    compressor.add_strategy(Ratios(net, seen))
    compressor.run()
    schedule = strategy.schedule
    assert schedule is not None and (schedule.pruning_iterations, schedule.pruning_steps) == (22, 2)
    assert (schedule.stable_iterations, schedule.tuning_iterations) == ((11, 10) if phases else (0, 28))
    first = 5 + schedule.stable_iterations
    steps = [0.1, 0.1 + 0.6 * (1 - 0.5**3), 0.7]
    assert [seen[first], seen[first + 11], seen[first + 22]] == pytest.approx(steps, abs=0.01)


def test_plans_that_cannot_work(caplog: pytest.LogCaptureFixture) -> None:
    for options, match in (
        ({'initial_ratio': 0.6}, 'initial_ratio'),
        ({'pruning_iterations': 20, 'pruning_steps': 2}, 'ten times'),
        ({'pruning_iterations': 5}, 'one step takes more than 10'),
        ({'pruning_iterations': 50, 'pruning_epochs': 2}, 'not both'),
        ({'stable_epochs': -1}, 'above 0'),
    ):
        with pytest.raises(ConfigError, match=match):
            GMPStrategy(**options)
    for reader, match in ((LIST, 'rise over 4 batches'), (batches, 'length of an epoch is not known')):
        compressor = JobNet().compressor(epoch=2, train_reader=reader)
        compressor.add_strategy(GMPStrategy())
        with pytest.raises(ConfigError, match=match):
            compressor.run()
    compressor = JobNet().compressor(epoch=2, train_reader=batches)
    compressor.add_strategy(GMPStrategy(pruning_iterations=20, stable_epochs=0.5))
    with pytest.raises(ConfigError, match='no phase in epochs'):
        compressor.run()
    compressor = JobNet().compressor(epoch=2, train_reader=LIST)
    compressor.add_strategy(GMPStrategy(pruning_iterations=20))
    compressor.run()
    assert 'will not reach 0.55' in caplog.text


def test_weights_come_back_after_channels_have_left() -> None:
    """What was kept aside is cut with its parameter: it is that of the channels that stay."""

    class Look(Strategy):
        def on_batch_begin(self, context: Context) -> None:
            pruner = strategy.pruner
            if pruner is not None and (context.epoch_id, context.batch_id) in ((0, 4), (1, 0)):
                kept.append(pruner.state_dict()['backup/conv2'])

    kept: list[Any] = []
    net = JobNet()
    compressor = net.compressor(epoch=3, train_reader=LIST)
    strategy = GMPStrategy(ratio=0.6, pruning_iterations=14, pruning_steps=1, initial_ratio=0.3, regrowth=True)
    compressor.add_strategy(strategy)
    compressor.add_strategy(UniformPruneStrategy(1, target_ratio=0.3, round_to=1, pruned_params='conv.*'))
    compressor.add_strategy(Look())
    compressor.run()
    before, after = kept
    rows = [load_array(net.scope, f'conv2@kept_positions_{axis}')[0, 1:] for axis in (0, 1)]
    expected = before[np.ix_(*rows)]
    assert after.shape == net.value('conv2').shape == expected.shape and after.size < before.size
    np.testing.assert_array_equal(after, expected)
    values = np.concatenate([net.value(name).reshape(-1) for name in ('conv1', 'conv2', 'fc')])
    assert (values == 0).mean() == pytest.approx(0.6, abs=0.01)
