"""The training loop alone: hooks, ends, what it writes down, what it keeps."""

from __future__ import annotations

import json
import logging
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Budget, Context, EpochRecord, Strategy, Trainer, TrainerOptions
from paddleslim_ng.compress.training_log import format_table
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.prune import load_model
from tests.compress.job_net import JobNet, same, tensors


def _trainer(net: JobNet, kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    return kind(net.compressor().context, TrainerOptions(**options))


def _momentum(schedule: Any) -> Any:
    return paddle.optimizer.Momentum(schedule, 0.9)


def test_the_loop_alone_trains(caplog: pytest.LogCaptureFixture) -> None:
    net = JobNet()
    trainer = _trainer(net)
    with caplog.at_level(logging.INFO, 'paddleslim_ng'):
        records = trainer.fit(3)
    assert [record.epoch for record in records] == [0, 1, 2] and trainer.stopped is None
    assert records[2].train['total_loss'] == records[2].train['loss'] < records[0].train['loss']
    assert records[0].samples == 37 and set(records[1].metrics) == {'acc', 'loss'}
    assert trainer.context.eval_results['acc'] == [record.metrics['acc'] for record in records]
    assert trainer.context.train_results['loss'] == [record.train['loss'] for record in records]
    lines = trainer.table().splitlines()
    assert len(lines) == 4 and lines[0].split()[:3] == ['epoch', 'train', 'total_loss']
    assert sum('train total_loss' in message for message in caplog.messages) == 1


class TwoLosses(Trainer):
    """Weighs a second loss in, and evaluates by a number of its own."""

    def train_losses(self, values: Mapping[str, Any], feed: Mapping[str, Any]) -> dict[str, Any]:
        return {'total_loss': values['loss'] + 0.5, 'cross_entropy': values['loss'], 'decay': 0.5}

    def eval_metrics(self) -> dict[str, float]:
        return {'epochs': float(self.context.epoch_id)}

    def should_stop(self, record: EpochRecord) -> str | None:
        return 'enough' if record.metrics['epochs'] >= 1 else None


def test_hooks_are_the_users() -> None:
    trainer = _trainer(JobNet(), TwoLosses, monitor='epochs')
    records = trainer.fit(5)
    assert trainer.stopped == 'enough' and len(records) == 2 and records[1].best
    train = records[0].train
    assert set(train) == {'total_loss', 'cross_entropy', 'decay'}
    assert train['total_loss'] == pytest.approx(train['cross_entropy'] + 0.5)
    result = JobNet().compressor(epoch=4, trainer=TwoLosses).run()
    assert result.stopped == 'enough' and result.metrics == {'epochs': 1.0}


class LikeAMC(Trainer):
    """Stops by True and False, and evaluates without data."""

    def eval_metrics(self) -> dict[str, Any]:
        return {'acc': np.array([0.5])}

    def should_stop(self, record: EpochRecord) -> bool:
        return record.epoch == 1


def test_hooks_as_amc_has_them() -> None:
    net = JobNet()
    result = net.compressor(epoch=4, trainer=LikeAMC, eval_reader=None, options=TrainerOptions(monitor='acc')).run()
    assert len(result.records) == 2 and result.stopped == 'should_stop() says so' and result.metrics == {'acc': 0.5}


class NoTotal(Trainer):
    def train_losses(self, values: Mapping[str, Any], feed: Mapping[str, Any]) -> dict[str, Any]:
        return {'part': values['loss']}


class Diverging(Trainer):
    def train_losses(self, values: Mapping[str, Any], feed: Mapping[str, Any]) -> dict[str, Any]:
        return {'total_loss': values['loss'] * (np.nan if self.context.batch_id == 2 else 1)}


class Wordy(Trainer):
    def train_losses(self, values: Mapping[str, Any], feed: Mapping[str, Any]) -> dict[str, Any]:
        return {'total_loss': values['loss'], 'remark': 'good'}


class Silent(Trainer):
    def eval_metrics(self) -> Any:
        return None


def test_losses_that_do_not_serve() -> None:
    with pytest.raises(ConfigError, match="return 'total_loss'"):
        _trainer(JobNet(), NoTotal).fit(1)
    with pytest.raises(DataError, match='batch 3 of epoch 0: total_loss is nan'):
        _trainer(JobNet(), Diverging).fit(1)
    with pytest.raises(DataError, match="'remark' is 'good'"):
        _trainer(JobNet(), Wordy).fit(1)
    with pytest.raises(DataError, match=r'eval_metrics\(\) gave None'):
        _trainer(JobNet(), Silent).fit(1)
    with pytest.raises(ConfigError, match="there is no metric 'f1'; there are"):
        _trainer(JobNet(), monitor='f1').fit(1)
    with pytest.raises(ConfigError, match="'f1' is to be monitored, and the evaluation found"):
        _trainer(JobNet(), Scripted, monitor='f1').fit(1)
    context = JobNet().compressor(eval_reader=None).context
    for given, options in ((context, {}), (JobNet().compressor().context, {'eval_epoch': 0})):
        with pytest.raises(ConfigError, match="'f1' is to be monitored, and nothing evaluates"):
            Trainer(given, TrainerOptions(monitor='f1', **options)).fit(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'loss' is monitored, of which the least is best"):
        _trainer(JobNet(), monitor='loss').fit(1)
    unnamed = JobNet()
    before = unnamed.value('fc')
    with pytest.raises(ConfigError, match="no 'loss'"):
        unnamed.compressor(train_fetch_list=[('cost', unnamed.loss_name)], epoch=1).run()
    np.testing.assert_array_equal(unnamed.value('fc'), before)


def test_evaluation_every_few_epochs_and_after_the_last() -> None:
    for every, expected in ((2, [1, 3, 4]), (0, [])):
        records = _trainer(JobNet(), eval_epoch=every).fit(5)
        assert [record.epoch for record in records if record.metrics] == expected


class Scripted(Trainer):
    """Evaluates to what a list says."""

    values = (0.3, 0.5, 0.5, 0.4, 0.6, 0.1)

    def eval_metrics(self) -> dict[str, float]:
        return {'acc': self.values[self.context.epoch_id]}


@pytest.mark.parametrize(
    ('options', 'epochs', 'best'),
    [
        ({'patience': 2}, 4, [0, 1]),
        ({'patience': 3}, 6, [0, 1, 4]),
        ({'patience': 1, 'mode': 'min'}, 2, [0]),
        ({'patience': 2, 'min_delta': 0.25}, 3, [0]),
        ({}, 6, [0, 1, 4]),
    ],
)
def test_stopping_on_a_plateau(options: dict[str, Any], epochs: int, best: list[int]) -> None:
    trainer = _trainer(JobNet(), Scripted, monitor='acc', **options)
    records = trainer.fit(6)
    assert len(records) == epochs and [record.epoch for record in records if record.best] == best
    assert (trainer.stopped is None) == (epochs == 6)


def test_not_before_the_last_strategy_ends() -> None:
    compressor = JobNet().compressor(epoch=6, trainer=Scripted, options=TrainerOptions(monitor='acc', patience=1))
    compressor.add_strategy(Strategy(0, 5))
    result = compressor.run()
    assert len(result.records) == 6 and result.stopped is None
    compressor = JobNet().compressor(epoch=6, trainer=Scripted, options=TrainerOptions(monitor='acc', patience=1))
    compressor.add_strategy(Strategy(0, 4))
    result = compressor.run()
    assert len(result.records) == 4 and 'acc has not become better' in str(result.stopped)
    assert result.best is not None and result.best.epoch == 1


def test_the_floor_of_the_learning_rate() -> None:
    net = JobNet(_momentum(paddle.optimizer.lr.ExponentialDecay(0.1, 0.1)))
    trainer = _trainer(net, least_learning_rate=0.005)
    records = trainer.fit(9)
    assert [record.learning_rate for record in records] == pytest.approx([0.1, 0.01])
    assert trainer.stopped == 'the learning rate 0.001 is below 0.005'


def test_schedules_by_batch_and_on_plateaus() -> None:
    net = JobNet(_momentum(paddle.optimizer.lr.ExponentialDecay(0.1, 0.5)))
    assert _trainer(net, schedule_by='batch').fit(1)[0].learning_rate == pytest.approx(0.1 * 0.5**5)
    plateau = paddle.optimizer.lr.ReduceOnPlateau(0.1, mode='max', factor=0.1, patience=0)
    records = _trainer(JobNet(_momentum(plateau)), Scripted, monitor='acc').fit(4)
    assert [record.learning_rate for record in records] == pytest.approx([0.1, 0.1, 0.1, 0.01])
    assert _trainer(JobNet(paddle.optimizer.SGD(0.1))).fit(1)[0].learning_rate is None


def test_the_best_model_is_kept(tmp_path: Path) -> None:
    class Watching(Scripted):
        def eval_metrics(self) -> dict[str, float]:
            kept.append(tensors(self.context.eval_program, self.context.scope))
            return super().eval_metrics()

    kept: list[dict[str, Any]] = []
    _trainer(JobNet(), Watching, monitor='acc', best_path=tmp_path / 'best').fit(6)
    fresh = JobNet(seed=9)
    load_model(None, fresh.test, tmp_path / 'best', scope=fresh.scope)
    same(tensors(fresh.test, fresh.scope), kept[4])


def test_the_best_is_looked_for_anew_when_the_network_changes() -> None:
    class Changing(Strategy):
        def on_epoch_end(self, context: Context) -> None:
            if context.epoch_id == 4:
                context.replace_programs(self)

    compressor = JobNet().compressor(epoch=6, trainer=Scripted, options=TrainerOptions(monitor='acc'))
    compressor.add_strategy(Changing())
    assert [record.epoch for record in compressor.run().records if record.best] == [0, 1, 4, 5]


def test_lines_of_json(tmp_path: Path) -> None:
    file = tmp_path / 'new' / 'log.jsonl'
    records = _trainer(JobNet(), metrics_file=file).fit(2)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [EpochRecord.of(line) for line in lines] == records
    with pytest.raises(ConfigError, match='is a folder'):
        _trainer(JobNet(), metrics_file=tmp_path)


def test_visualdl_gets_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VisualDL itself is an extra; here stands something that writes down how it is called."""
    calls: list[Any] = []

    class LogWriter:
        def __init__(self, logdir: str) -> None:
            calls.append(logdir)

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            calls.append((tag, step))

        def close(self) -> None:
            calls.append('closed')

    monkeypatch.setitem(sys.modules, 'visualdl', None)
    with pytest.raises(ConfigError, match=r'paddleslim-ng\[visualdl\]'):
        _trainer(JobNet(), visualdl=tmp_path)
    module = types.ModuleType('visualdl')
    module.LogWriter = LogWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'visualdl', module)
    _trainer(JobNet(), visualdl=tmp_path).fit(1)
    tags = ['train/total_loss', 'train/loss', 'eval/acc', 'eval/loss', 'learning_rate']
    assert calls == [str(tmp_path), *((tag, 0) for tag in tags), 'closed']


def test_bars_are_shown_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    _trainer(JobNet(), progress=True).fit(1)
    assert 'epoch 1/1' in capsys.readouterr().err
    _trainer(JobNet()).fit(1)  # no terminal
    assert capsys.readouterr().err.count('epoch') == 0


def test_tables_of_ragged_records() -> None:
    first = EpochRecord(0, {'total_loss': 1.25}, {}, 0.1, 8, 0.5)
    second = EpochRecord(1, {'total_loss': 0.5}, {'acc': 0.75}, 0.01, 8, 12.25, best=True)
    assert [line.split() for line in format_table([first, second]).splitlines()] == [
        ['epoch', 'train', 'total_loss', 'eval', 'acc', 'learning', 'rate', 'samples', 'seconds'],
        ['0', '1.25', '-', '0.1', '8', '0.5'],
        ['1*', '0.5', '0.75', '0.01', '8', '12.2'],
    ]


@pytest.mark.parametrize(
    'options',
    [
        {'mode': 'best'},
        {'schedule_by': 'step'},
        {'eval_epoch': -1},
        {'patience': 0},
        {'min_delta': -1},
        {'least_learning_rate': '1e-5'},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_do_not_serve(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainerOptions(**options)


def test_a_time_that_is_used_up_ends_training() -> None:
    result = JobNet().compressor(epoch=5, budget=Budget(seconds=0)).run()
    assert len(result.records) == 1 and 'seconds are used' in str(result.stopped)
