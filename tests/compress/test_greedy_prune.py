"""Greedy pruning: the cheapest step first, and a floor that holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddleslim_ng.analysis import flops
from paddleslim_ng.compress import Context, Strategy
from paddleslim_ng.compress.strategies import GreedyPruneStrategy, UnstructuredPruneStrategy
from paddleslim_ng.compress.strategies.greedy_prune import Candidate, choose
from paddleslim_ng.core import GraphWrapper, has_array, load_array
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.prune.records import record_name
from tests.compress.job_net import same, tensors
from tests.compress.prune_net import PruneNet


def _strategy(**options: Any) -> GreedyPruneStrategy:
    given = {'metric_name': 'agree', 'round_to': 1, 'pruned_params': 'conv.*', 'max_loss': 0.3}
    return GreedyPruneStrategy(**{**given, **options})


def test_the_cheapest_layer_goes_first_and_the_floor_holds() -> None:
    net = PruneNet()
    before = flops(net.main)
    strategy = _strategy(step_ratio=0.1)
    result = net.run(strategy, epoch=8)
    assert result.journal[0].note['ratios'].keys() == {'conv_idle'}
    assert strategy.steps > 0 and strategy.floor.value == pytest.approx(0.7)
    assert net.agree(result.eval_program, net.scope) >= 0.7 and result.metrics['agree'] >= 0.7
    assert 1 - flops(result.eval_program) / before == pytest.approx(strategy.removed) and strategy.removed > 0.15
    assert flops(result.train_program) == flops(result.eval_program)
    assert load_array(net.scope, 'conv_idle').shape[0] >= 5


def test_the_target_ends_it() -> None:
    net = PruneNet()
    strategy = _strategy(step_ratio=0.15, target_ratio=0.25, accuracy_floor=0.01, max_loss=None)
    net.run(strategy, epoch=6)
    assert strategy.finished and strategy.steps == 2 and strategy.removed == pytest.approx(0.25, abs=0.02)
    # Without epochs there is nothing to train, and steps follow one another.
    net = PruneNet()
    net.run(strategy := _strategy(step_ratio=0.15, target_ratio=0.25))
    assert strategy.finished and strategy.removed == pytest.approx(0.25, abs=0.02)


class Drop(Strategy):
    """Keeps the tensors of each epoch's end, and the programs' costs."""

    def __init__(self, net: PruneNet) -> None:
        super().__init__()
        self.net, self.kept, self.costs = net, {}, []

    def on_epoch_begin(self, context: Context) -> None:
        self.kept[context.epoch_id] = tensors(context.train_program, context.scope)

    def on_epoch_end(self, context: Context) -> None:
        self.costs.append(flops(context.eval_program))


@pytest.mark.parametrize('first', [True, False], ids=['first', 'second'])
def test_a_step_that_costs_too_much_is_taken_back_with_its_training(first: bool) -> None:
    net = PruneNet()
    strategy, drop = _strategy(retrain_epochs=2, step_ratio=0.2), Drop(net)
    sparse = UnstructuredPruneStrategy(pruned_params='conv_b|fc', ratio=0.25)
    compressor = net.compressor(epoch=7)
    judged = [0.1] if first else [0.9, 0.1]
    measure = net.agree

    def agree(program: Any, scope: Any) -> float:
        """Say of the network what is wanted at the end of each step."""
        found = measure(program, scope)
        epoch = compressor.context.epoch_id
        on_trial = strategy._trial is not None and epoch % 2 == 1
        return judged[epoch // 2] if on_trial and epoch // 2 < len(judged) else found

    compressor.context.eval_func['agree'] = agree
    for one in (sparse, drop, strategy):
        compressor.add_strategy(one)
    result = compressor.run()
    end = 2 * len(judged)
    assert strategy.finished and strategy.steps == len(judged) - 1
    # The end of the last epoch before the step, as the epoch after the step begins with.
    before, after = drop.kept[end - 2], drop.kept[end]
    same(after, before)
    # Costs are noted before the step is judged.
    assert len(set(drop.costs[end:])) == 1 and drop.costs[end - 1] == drop.costs[end - 2] < drop.costs[end]
    assert drop.costs[end] == (flops(net.main) if first else drop.costs[0])
    assert [entry.strategy for entry in result.journal] == ['UnstructuredPruneStrategy'] + (
        [] if first else ['GreedyPruneStrategy']
    )
    # The masks act in the program that was made again.
    zeros = load_array(net.scope, 'conv_b') == 0
    np.testing.assert_array_equal(load_array(net.scope, 'conv_b')[zeros], 0)
    assert zeros.mean() > 0.15 and result.metrics['agree'] == pytest.approx(measure(result.eval_program, net.scope))
    assert has_array(net.scope, record_name('conv_idle', 0)) is not first
    assert GraphWrapper(result.train_program).var('conv_idle').shape()[0] == load_array(net.scope, 'conv_idle').shape[0]


def test_a_change_of_another_strategy_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    net = PruneNet()
    strategy = _strategy(accuracy_floor=0.999, max_loss=None, step_ratio=0.4, retrain_epochs=2)
    sparse = UnstructuredPruneStrategy(1, pruned_params='fc', ratio=0.25)
    result = net.run(strategy, sparse, epoch=4)
    assert [entry.strategy for entry in result.journal] == ['GreedyPruneStrategy', 'UnstructuredPruneStrategy']
    assert 'the step stays, because' in caplog.text and strategy.finished


def test_what_is_chosen() -> None:
    whole = [Candidate('a', 0.5, 0.1, 0.03), Candidate('b', 0.3, 0.09, 0.02), Candidate('c', 0.9, 0.02, -0.1)]
    assert [one.name for one in choose(whole, 0.1)] == ['b']
    small = [Candidate('a', 0.9, 0.04, 0.04), Candidate('b', 0.9, 0.03, 0.0), Candidate('c', 0.9, 0.06, 0.01)]
    assert [one.name for one in choose(small, 0.1)] == ['b', 'c']
    assert choose([], 0.1) == []


def test_greedy_arguments_and_networks_that_do_not_serve(caplog: pytest.LogCaptureFixture) -> None:
    for options in (
        {'max_loss': None}, {'accuracy_floor': 0.5}, {'max_loss': 2.0}, {'step_ratio': 0.0}, {'retrain_epochs': 0},
        {'target_ratio': 1.0},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            _strategy(**options)
    net = PruneNet()
    before = tensors(net.main, net.scope)
    with pytest.raises(ConfigError, match="'agree' is 1 before anything is removed, below the floor 2"):
        net.run(_strategy(accuracy_floor=2, max_loss=None), epoch=2)
    net.values = iter([0.0])
    with pytest.raises(DataError):
        net.run(_strategy(), epoch=2)
    same(tensors(net.main, net.scope), before)
    PruneNet().run(strategy := _strategy(), epoch=1)
    assert strategy.finished and 'no epochs are left for a step' in caplog.text
    PruneNet().run(strategy := _strategy(round_to=64), epoch=2)
    assert strategy.finished and 'no layer can lose about 10.0% of the flops' in caplog.text
