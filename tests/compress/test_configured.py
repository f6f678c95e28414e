"""A configuration drives the compressor: strategies, settings, optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import TrainerOptions
from paddleslim_ng.errors import ConfigError
from tests.compress.job_net import JobNet, adam, batches

YAML = """
version: 1.0
strategies:
  sparse:
    class: UnstructuredPruneStrategy
    ratio: 0.5
  thin:
    class: UniformPruneStrategy
    start_epoch: 1
    end_epoch: 3
    target_ratio: 0.4
    pruned_params: conv.*
    round_to: 1
compressor:
  epoch: 2
  checkpoint_path: {folder}
  keep_checkpoints: 3
  seed: 7
  monitor: acc
  optimizer:
    type: Momentum
    learning_rate: {{type: CosineAnnealingDecay, learning_rate: 0.1}}
    weight_decay: 0.0001
    gradient_clip: {{type: ClipGradByNorm, clip_norm: 2.0}}
  budget: {{macs: 10}}
  strategies: [thin, sparse]
"""


def test_a_file_may_leave_the_epochs_to_the_constructor() -> None:
    settings: Any = {
        'version': 1.0,
        'strategies': {'thin': {'class': 'UniformPruneStrategy', 'start_epoch': 2}},
        'compressor': {'strategies': ['thin']},
    }
    assert JobNet().compressor(epoch=3).config(settings).epochs() == 3
    settings['compressor']['epoch'] = 4
    assert JobNet().compressor(epoch=3).config(settings).epochs() == 4
    with pytest.raises(ConfigError, match='starts in epoch 2, and the job has 2 epochs'):
        del settings['compressor']['epoch']
        JobNet().compressor(epoch=2).config(settings)


def test_a_file_drives_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / 'compress.yaml'
    file.write_text(YAML.format(folder=tmp_path / 'checkpoints'))
    net = JobNet(minimize=False)
    result = net.compressor(options=TrainerOptions(eval_epoch=3)).config(file).run()
    assert [entry.strategy for entry in result.journal] == ['sparse', 'thin']
    assert len(result.records) == 3 and [bool(record.metrics) for record in result.records] == [False, False, True]
    rates = [0.1 * (1 + np.cos(np.pi * step / 3)) / 2 for step in (0, 1, 2)]
    assert [record.learning_rate for record in result.records] == pytest.approx(rates, abs=1e-9)
    assert len(list((tmp_path / 'checkpoints').iterdir())) == 3
    assert 'multiply-accumulates, where 10 are allowed' in result.exceeded[0]
    assert net.value('conv1').shape[0] < 16 and (net.value('conv2') == 0).mean() > 0.3

    file.write_text(file.read_text().replace('ratio: 0.5', 'ratio: 0.6'))
    told = 'has changed since the checkpoint'
    assert told not in caplog.text
    again = JobNet(minimize=False).compressor(options=TrainerOptions(eval_epoch=3)).config(file).run()
    assert again.records == result.records
    assert told in caplog.text and 'plugins.sparse.ratio was 0.5 and is 0.6. What was done' in caplog.text


def test_a_program_that_is_built_anew_finds_the_schedule_where_the_job_is(tmp_path: Path) -> None:
    schedule = {'type': 'CosineAnnealingDecay', 'learning_rate': 0.1}
    settings = {
        'version': 1.0,
        'distillers': {'maps': {'class': 'L2Distiller'}},
        'strategies': {
            'distil': {
                'class': 'DistillationStrategy', 'distillers': ['maps'], 'teacher': 'original',
                'start_epoch': 1, 'end_epoch': 2,
            },
        },
        'compressor': {
            'epoch': 4, 'strategies': ['distil'], 'schedule_by': 'batch', 'checkpoint_path': str(tmp_path),
            'optimizer': {'type': 'Momentum', 'learning_rate': schedule},
        },
    }  # fmt: skip
    data = list(batches())
    result = JobNet(minimize=False).compressor(train_reader=data).config(settings).run()
    assert [entry.note['what'] for entry in result.journal] == ['keep', 'merge', 'strip']
    rates = [0.1 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in (1, 2, 3, 4)]
    assert [record.learning_rate for record in result.records] == pytest.approx(rates, abs=1e-9)


def test_optimizers_that_are_given_stay() -> None:
    settings: dict[str, Any] = {'version': 1.0, 'compressor': {'optimizer': {'type': 'SGD', 'learning_rate': 0.1}}}
    net = JobNet(minimize=False)
    compressor = net.compressor(train_optimizer=adam).config(settings)
    assert isinstance(compressor.context.train_optimizer.make(), paddle.optimizer.Adam)
    assert isinstance(compressor.context.distiller_optimizer.make(), paddle.optimizer.Adam)
    compressor = net.compressor(distiller_optimizer=adam).config(settings)
    assert isinstance(compressor.context.train_optimizer.make(), paddle.optimizer.SGD)
    assert isinstance(compressor.context.distiller_optimizer.make(), paddle.optimizer.Adam)
    compressor = net.compressor().config(settings)
    assert compressor.context.distiller_optimizer is compressor.context.train_optimizer


@pytest.mark.parametrize(
    'kind', ['SGD', 'Momentum', 'Adam', 'AdamW', 'Adamax', 'Adagrad', 'Adadelta', 'RMSProp', 'Lamb']
)
def test_every_optimizer_is_made(kind: str) -> None:
    rate = {
        'type': 'LinearWarmup', 'warmup_steps': 4, 'start_lr': 0.0, 'end_lr': 0.1,
        'learning_rate': {'type': 'PolynomialDecay', 'learning_rate': 0.1},
    }  # fmt: skip
    settings = {
        'epoch': 2,
        'schedule_by': 'batch',
        'optimizer': {'type': kind, 'learning_rate': rate, 'weight_decay': 0.01},
    }
    compressor = (
        JobNet(minimize=False).compressor(train_reader=list(batches())).config({'version': 1.0, 'compressor': settings})
    )
    source = compressor.context.train_optimizer
    made = source.make()
    assert type(made).__name__ == kind and source.make() is not made
    assert made._learning_rate.learning_rate.decay_steps == 10


def test_lengths_that_are_not_known() -> None:
    settings = {
        'epoch': 2,
        'schedule_by': 'batch',
        'optimizer': {'type': 'SGD', 'learning_rate': {'type': 'CosineAnnealingDecay', 'learning_rate': 0.1}},
    }
    compressor = JobNet(minimize=False).compressor().config({'version': 1.0, 'compressor': settings})
    with pytest.raises(ConfigError, match='the length of an epoch is needed'):
        compressor.run()


def test_a_file_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / 'compress.yaml'
    file.write_text(YAML.format(folder=tmp_path / 'checkpoints').replace('target_ratio', 'target_ration'))
    compressor = JobNet().compressor()
    with pytest.raises(ConfigError, match=r'compress.yaml:11.*target_ration'):
        compressor.config(file)
    assert not compressor.strategies and compressor.checkpoint_path is None
