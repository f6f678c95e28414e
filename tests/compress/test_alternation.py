"""Rounds of compression and training: each begins with what the one before has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.analysis import flops
from paddleslim_ng.compress import Compressor, Context, Strategy, TrainerOptions, load_config
from paddleslim_ng.compress.strategies import (
    AlternationStrategy,
    GreedyPruneStrategy,
    SensitivePruneStrategy,
    UniformPruneStrategy,
)
from paddleslim_ng.core import clone_program, load_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune import load_model
from tests.compress.job_net import same, tensors
from tests.compress.prune_net import PruneNet
from tests.compress.resume_job import Interrupt, Rebuild


class Calls(Strategy):
    """Writes down what it is called with, and counts its own epochs."""

    def __init__(self, calls: list[Any], start_epoch: int = 0, end_epoch: int = 0) -> None:
        super().__init__(start_epoch, end_epoch)
        self.calls, self.count = calls, 0

    def __deepcopy__(self, memo: Any) -> Calls:
        return Calls(self.calls, self.start_epoch, self.end_epoch)

    def on_compression_begin(self, context: Context) -> None:
        self.calls.append(('begin', context.epoch_id, context.epoch))

    def on_epoch_begin(self, context: Context) -> None:
        self.count += 1
        self.calls.append(('epoch', context.epoch_id, self.count, self.is_active(context.epoch_id)))

    def on_compression_end(self, context: Context) -> None:
        self.calls.append(('end', context.epoch_id, self.count))


def test_a_round_is_a_job_of_its_own() -> None:
    calls: list[Any] = []
    net = PruneNet()
    net.run(AlternationStrategy([Calls(calls, 1)], rounds=2, round_epochs=2, start_epoch=1), epoch=6)
    round_ = [('begin', 0, 2), ('epoch', 0, 1, False), ('epoch', 1, 2, True), ('end', 1, 2)]
    assert calls == [*round_, *round_]


def test_each_round_prunes_what_the_one_before_has_left(tmp_path: Path) -> None:
    net = PruneNet()
    inner = SensitivePruneStrategy(
        target_ratio=0.3, metric_name='agree', round_to=1, delta_rate=0.4, sensitivities_file=tmp_path / 'kept.json'
    )
    result = net.run(AlternationStrategy([inner], rounds=3, round_epochs=1))
    assert flops(result.eval_program) / flops(net.main) == pytest.approx(0.7**3, abs=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'kept-round-2.json',
        'kept-round-3.json',
        'kept.json',
    ]
    assert inner.steps == 0 and len(result.records) == 3


def _rounds(compressor: Compressor, net: PruneNet, bad: int) -> AlternationStrategy:
    """Return rounds that prune and rebuild the training program; the metric falls at the end of one of them."""
    strategy = AlternationStrategy(
        [
            UniformPruneStrategy(target_ratio=0.2, round_to=1, pruned_params='conv.*'),
            lambda: Rebuild(0),
        ],
        rounds=3, round_epochs=2, metric_name='agree', max_loss=0.6,
    )  # fmt: skip
    measure = net.agree

    def agree(program: Any, scope: Any) -> float:
        at_end = strategy.round == bad and strategy._running and compressor.context.epoch_id == 2 * bad + 1
        return 0.1 if at_end else measure(program, scope)

    compressor.context.eval_func['agree'] = agree
    return strategy


class Tensors(Strategy):
    """Keeps the tensors that each epoch begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Any] = {}

    def on_epoch_begin(self, context: Context) -> None:
        self.kept[context.epoch_id] = tensors(context.train_program, context.scope)


def adam() -> Any:
    return paddle.optimizer.Adam(paddle.optimizer.lr.StepDecay(1e-4, step_size=2))


def _job(folder: Path | None, bad: int, point: tuple[str, int, int] = ('nowhere', 0, 0)) -> dict[str, Any]:
    net = PruneNet(optimizer=adam())
    compressor = net.compressor(epoch=7, checkpoint_path=folder, checkpoint_every=1)
    kept = Tensors()
    strategy = _rounds(compressor, net, bad)
    for one in (kept, strategy, Interrupt(point, _interrupt)):
        compressor.add_strategy(one)
    result = compressor.run()
    found = tensors(result.train_program, result.scope)
    found['metrics'] = np.array(compressor.context.eval_results['agree'])
    found['journal'] = np.array([f'{entry.note["round"]} {entry.note["strategy"]}' for entry in result.journal])
    found['flops'] = np.array(flops(result.eval_program) / flops(net.main))
    return {'found': found, 'kept': kept.kept, 'strategy': strategy}


class Interrupted(Exception):
    pass


def _interrupt() -> None:
    raise Interrupted


@pytest.fixture(scope='module')
def whole() -> dict[str, Any]:
    paddle.enable_static()
    return _job(None, bad=1)


def test_a_round_below_the_floor_is_taken_back(whole: dict[str, Any]) -> None:
    found, strategy = whole['found'], whole['strategy']
    assert strategy.finished and strategy.round == 0
    assert found['journal'].tolist() == ['0 UniformPruneStrategy', '0 Rebuild']
    assert found['flops'] == pytest.approx(0.8, abs=0.02)
    same(whole['kept'][4], whole['kept'][2])
    # One more value than epochs: that of the network after the round was taken back.
    assert len(found['metrics']) == 8 and found['metrics'][3] == 0.1 < found['metrics'][4]


@pytest.mark.parametrize(
    'point',
    [
        ('batch_end', 3, 0),
        pytest.param(('batch_end', 1, 0), marks=pytest.mark.full),
        pytest.param(('batch_begin', 5, 1), marks=pytest.mark.full),
    ],
    ids=lambda point: f'{point[0]}-{point[1]}-{point[2]}',
)
def test_rounds_that_are_interrupted_end_with_the_same_bits(
    tmp_path: Path, whole: dict[str, Any], point: tuple[str, int, int]
) -> None:
    with pytest.raises(Interrupted):
        _job(tmp_path, 1, point)
    same(_job(tmp_path, 1)['found'], whole['found'])


def test_the_best_model_is_not_one_that_was_taken_back(tmp_path: Path) -> None:
    net = PruneNet()
    inner = UniformPruneStrategy(target_ratio=0.2, round_to=1, pruned_params='conv.*')
    compressor = net.compressor(options=TrainerOptions(monitor='agree', best_path=tmp_path / 'best'))
    compressor.add_strategy(AlternationStrategy([inner], rounds=1, metric_name='agree', accuracy_floor=0.999))
    result = compressor.run()
    assert not result.journal and result.best is result.records[0] and result.best.metrics == result.metrics
    assert result.metrics['agree'] == net.agree(result.eval_program, net.scope)
    loaded = clone_program(net.test)
    scope = paddle.static.Scope()
    load_model(net.exe, loaded, tmp_path / 'best', scope=scope)
    same(tensors(loaded, scope), tensors(result.eval_program, net.scope))
    assert load_array(scope, 'conv_a').shape[0] == 32


def test_all_rounds_without_training() -> None:
    net = PruneNet()
    inner = [UniformPruneStrategy(target_ratio=0.2, round_to=1, pruned_params='conv.*')]
    strategy = AlternationStrategy(inner, rounds=3)
    compressor = net.compressor()
    compressor.add_strategy(strategy)
    compressor.epochs = lambda: 0  # type: ignore[method-assign]
    assert flops(compressor.run().eval_program) / flops(net.main) == pytest.approx(0.8**3, abs=0.02)


def test_arguments_that_do_not_serve() -> None:
    inner = [UniformPruneStrategy()]
    for strategies, options, match in (
        (inner, {'rounds': 0}, 'rounds'),
        (inner, {'round_epochs': 1.5}, 'round_epochs'),
        (inner, {'end_epoch': 5}, 'which is 2'),
        (inner, {'max_loss': 0.1, 'accuracy_floor': 0.5}, 'not both'),
        ([], {}, 'empty'),
        ([UniformPruneStrategy(1)], {}, 'beyond a round of 1 epochs'),
        ([lambda: 3], {}, 'is an instance of'),
    ):
        with pytest.raises(ConfigError, match=match):
            AlternationStrategy(strategies, **options)


def test_rounds_in_a_configuration() -> None:
    strategies: Mapping[str, Any] = {
        'prune': {'class': 'GreedyPruneStrategy', 'max_loss': 0.1},
        'rounds': {
            'class': 'AlternationStrategy',
            'strategies': ['prune'],
            'rounds': 3,
            'round_epochs': 4,
            'start_epoch': 1,
        },
    }  # fmt: skip
    config = load_config({'version': 1.0, 'strategies': strategies, 'compressor': {'strategies': ['rounds']}})
    (made,) = config.create_strategies()
    assert isinstance(made, AlternationStrategy) and config.epochs == made.end_epoch == 13 and not config.notes
    assert isinstance(made._make(0)['GreedyPruneStrategy'], GreedyPruneStrategy)
    for change, match in (
        ({'end_epoch': 9}, 'end in 13'),
        ({'strategies': ['prun']}, "'prune'"),
        ({'rounds': 0}, 'rounds'),
    ):
        wrong = {**strategies, 'rounds': {**strategies['rounds'], **change}}
        with pytest.raises(ConfigError, match=match):
            load_config({'version': 1.0, 'strategies': wrong, 'compressor': {'strategies': ['rounds']}})
