"""What a strategy will want later is looked for before the job trains; what compares, and in which mode jobs run."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import SoftLabelDistiller, Strategy, Trainer, TrainerOptions
from paddleslim_ng.compress.strategies import (
    AlternationStrategy,
    DistillationStrategy,
    GMPStrategy,
    GreedyPruneStrategy,
    QuantizationStrategy,
    SensitivePruneStrategy,
    UniformPruneStrategy,
    UnstructuredPruneStrategy,
)
from paddleslim_ng.errors import SlimError
from tests.compress.job_net import JobNet, adam


@pytest.fixture(scope='module')
def net() -> JobNet:
    paddle.enable_static()
    return JobNet()


@pytest.mark.parametrize(
    ('strategy', 'message'),
    [
        (SensitivePruneStrategy(1, metric_name='top5'), "no metric 'top5'; there are"),
        (GreedyPruneStrategy(1, metric_name='top5', max_loss=0.1), "no metric 'top5'"),
        (
            AlternationStrategy([UniformPruneStrategy()], start_epoch=1, metric_name='top5', max_loss=0.1),
            "metric 'top5'",
        ),
        (SensitivePruneStrategy(1, metric_name='acc', pruned_params='deconv.*'), 'no parameter is called as deconv'),
        (UniformPruneStrategy(1, pruned_params='deconv.*'), 'no parameter is called as deconv'),
        (UnstructuredPruneStrategy(1, pruned_params='deconv.*'), 'no parameter that can be pruned is called as deconv'),
        (GMPStrategy(1, pruned_params='deconv.*', pruning_iterations=20), 'no parameter that can be pruned'),
        (DistillationStrategy([SoftLabelDistiller()], 1, teacher='nowhere/model'), 'no inference model'),
        (DistillationStrategy([SoftLabelDistiller()], 1), 'there are no teacher_programs'),
        (DistillationStrategy([SoftLabelDistiller(teacher=1)], 1, teacher='original'), 'teacher 1, and there are 1'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Strategy) else '',
)
def test_what_cannot_work_ends_the_job_before_it_trains(net: JobNet, strategy: Strategy, message: str) -> None:
    before = net.value('fc')
    compressor = net.compressor(epoch=3, distiller_optimizer=adam)
    compressor.add_strategy(strategy)
    with pytest.raises(SlimError, match=message):
        compressor.run()
    np.testing.assert_array_equal(net.value('fc'), before)


def test_jobs_run_in_dynamic_mode() -> None:
    compressor = JobNet(minimize=False).compressor(epoch=2, train_optimizer=adam)
    compressor.add_strategy(DistillationStrategy([SoftLabelDistiller()], 0, 1, teacher='original'))
    compressor.add_strategy(QuantizationStrategy(1))
    paddle.disable_static()
    assert len(compressor.run().records) == 2
    assert paddle.in_dynamic_mode()


def test_what_quantizers_do_not_bear() -> None:
    for second, message in (
        (UniformPruneStrategy(1, round_to=1), 'removes channels, and the network is quantized already'),
        (QuantizationStrategy(1), 'the network is quantized already, by another strategy'),
    ):
        compressor = JobNet().compressor(epoch=2)
        compressor.add_strategy(QuantizationStrategy(), 'first')
        compressor.add_strategy(second)
        with pytest.raises(SlimError, match=message):
            compressor.run()


class Worse(Trainer):
    """Finds every epoch worse than the one before."""

    def eval_metrics(self) -> dict[str, float]:
        return {'acc': 1.0 / (1 + self.context.epoch_id)}


@pytest.mark.parametrize(
    ('strategy', 'best'),
    [
        # Five batches make an epoch; the ratio rises with the batches 0, 11 and 22.
        (GMPStrategy(ratio=0.8, pruning_iterations=22, pruning_steps=2), [0, 2, 4]),
        # Computed in float for seven batches.
        (QuantizationStrategy(quant_delay=7), [0, 1]),
    ],
    ids=['gmp', 'quant_delay'],
)
def test_the_best_is_looked_for_anew_where_the_network_is_another_one(strategy: Any, best: list[int]) -> None:
    compressor = JobNet().compressor(epoch=5, trainer=Worse, options=TrainerOptions(monitor='acc'))
    compressor.add_strategy(strategy)
    assert [record.epoch for record in compressor.run().records if record.best] == best
