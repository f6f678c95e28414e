"""Settings become the optimizers, schedules and options that they name."""

from __future__ import annotations

import math
from typing import Any

import paddle
import pytest

from paddleslim_ng.compress.configuration import load_config
from paddleslim_ng.compress.configured import job_arguments
from paddleslim_ng.errors import ConfigError


def arguments(batches_per_epoch: int | None = None, **settings: Any) -> dict[str, Any]:
    config = load_config({'version': 1.0, 'compressor': {'epoch': 4, **settings}})
    return job_arguments(config, batches_per_epoch)


def rates(schedule: Any, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(float(schedule()))
        schedule.step()
    return found


OPTIMIZERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({'type': 'SGD'}, {}),
    ({'type': 'Momentum', 'momentum': 0.7, 'use_nesterov': True}, {'_momentum': 0.7, '_use_nesterov': True}),
    ({'type': 'Adam', 'beta1': 0.8}, {'_beta1': 0.8, '_beta2': 0.999}),
    ({'type': 'AdamW', 'weight_decay': 0.03}, {'_weight_decay': 0.03}),
    ({'type': 'Adamax'}, {}),
    ({'type': 'Adagrad', 'epsilon': 1e-5}, {'_epsilon': 1e-5}),
    ({'type': 'Adadelta', 'rho': 0.8}, {'_rho': 0.8}),
    ({'type': 'RMSProp', 'centered': True}, {'_centered': True}),
    ({'type': 'Lamb', 'weight_decay': 0.02}, {'_lamb_weight_decay': 0.02}),
]


@pytest.mark.parametrize(('settings', 'attributes'), OPTIMIZERS, ids=[str(row[0]['type']) for row in OPTIMIZERS])
def test_every_optimizer_is_made_anew(settings: dict[str, Any], attributes: dict[str, Any]) -> None:
    paddle.enable_static()
    factory = arguments(optimizer={'learning_rate': 0.25, **settings})['train_optimizer']
    first, second = factory(), factory()
    assert first is not second
    assert type(first) is getattr(paddle.optimizer, settings['type'])
    assert first.get_lr() == 0.25
    for name, value in attributes.items():
        assert getattr(first, name) == value


def test_clip_and_decay() -> None:
    clip = {'type': 'ClipGradByGlobalNorm', 'clip_norm': 2.0}
    decay = {'type': 'L1Decay', 'coeff': 0.5}
    made = arguments(optimizer={'type': 'SGD', 'gradient_clip': clip, 'weight_decay': decay})['train_optimizer']()
    assert made._grad_clip.clip_norm == 2.0
    assert type(made.regularization).__name__ == 'L1Decay'


SCHEDULES: list[tuple[dict[str, Any], list[float]]] = [
    ({'type': 'PiecewiseDecay', 'boundaries': [1, 3], 'values': [0.3, 0.2, 0.1]}, [0.3, 0.2, 0.2, 0.1]),
    ({'type': 'ExponentialDecay', 'learning_rate': 0.8, 'gamma': 0.5}, [0.8, 0.4, 0.2, 0.1]),
    ({'type': 'StepDecay', 'learning_rate': 0.8, 'step_size': 2}, [0.8, 0.8, 0.08, 0.08]),
    ({'type': 'MultiStepDecay', 'learning_rate': 0.8, 'milestones': [1, 2], 'gamma': 0.5}, [0.8, 0.4, 0.2, 0.2]),
    ({'type': 'InverseTimeDecay', 'learning_rate': 0.6, 'gamma': 0.5}, [0.6, 0.4, 0.3, 0.24]),
    ({'type': 'NaturalExpDecay', 'learning_rate': 0.6, 'gamma': 1.0}, [0.6 * math.exp(-step) for step in range(4)]),
    ({'type': 'PolynomialDecay', 'learning_rate': 0.8, 'end_lr': 0.0}, [0.8, 0.6, 0.4, 0.2]),
    ({'type': 'NoamDecay', 'd_model': 4, 'warmup_steps': 4}, [0.0, 0.0625, 0.125, 0.1875]),
    (
        {'type': 'CosineAnnealingDecay', 'learning_rate': 1.0},
        [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)],
    ),
    (
        {'type': 'LinearWarmup', 'learning_rate': 0.5, 'warmup_steps': 2, 'start_lr': 0.0, 'end_lr': 0.5},
        [0.0, 0.25, 0.5, 0.5],
    ),
]


@pytest.mark.parametrize(('settings', 'wanted'), SCHEDULES, ids=[str(row[0]['type']) for row in SCHEDULES])
def test_every_schedule(settings: dict[str, Any], wanted: list[float]) -> None:
    """What a file leaves open lasts as long as the job, four epochs."""
    made = arguments(optimizer={'type': 'SGD', 'learning_rate': settings})['train_optimizer']()
    assert rates(made._learning_rate, 4) == pytest.approx(wanted)


def test_plateau() -> None:
    schedule = {'type': 'ReduceOnPlateau', 'learning_rate': 0.4, 'patience': 1, 'factor': 0.5}
    made = arguments(optimizer={'type': 'SGD', 'learning_rate': schedule})['train_optimizer']()._learning_rate
    assert (made.factor, made.patience, made()) == (0.5, 1, 0.4)


def test_batches_are_counted_where_schedules_count_them() -> None:
    cosine = {'type': 'SGD', 'learning_rate': {'type': 'CosineAnnealingDecay', 'learning_rate': 1.0}}
    made = arguments(10, optimizer=cosine, schedule_by='batch')['train_optimizer']()
    assert made._learning_rate.T_max == 40
    with pytest.raises(ConfigError, match='CosineAnnealingDecay lasts as long as the job'):
        arguments(optimizer=cosine, schedule_by='batch')
    warm: dict[str, Any] = {'type': 'LinearWarmup', 'warmup_steps': 2, 'start_lr': 0.0, 'end_lr': 0.5}
    warm['learning_rate'] = cosine['learning_rate']
    with pytest.raises(ConfigError, match='CosineAnnealingDecay lasts as long as the job'):
        arguments(optimizer={'type': 'SGD', 'learning_rate': warm}, schedule_by='batch')


def test_the_rest_is_passed_on() -> None:
    found = arguments(
        checkpoint_path='here',
        checkpoint_every=5,
        keep_checkpoints=3,
        seed=7,
        eval_epoch=2,
        monitor='top1',
        patience=4,
        budget={'params': 1000},
        distiller_optimizer={'type': 'Adam', 'learning_rate': 0.1},
        amp={'custom_black_list': ['softmax'], 'init_loss_scaling': 8.0},
    )
    assert (found['epoch'], found['checkpoint_path'], found['checkpoint_every']) == (4, 'here', 5)
    assert (found['keep_checkpoints'], found['seed'], found['budget'].params) == (3, 7, 1000)
    assert (found['options'].eval_epoch, found['options'].monitor, found['options'].patience) == (2, 'top1', 4)
    assert 'train_optimizer' not in found
    assert found['distiller_optimizer']().get_lr() == 0.1
    assert found['amp']['init_loss_scaling'] == 8.0
    assert 'softmax' in found['amp']['amp_lists'].black_list
