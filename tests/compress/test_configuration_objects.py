"""Settings become the optimizers and schedules that they name."""

from __future__ import annotations

import math
from typing import Any

import paddle
import pytest

from paddleslim_ng.compress.configuration import load_config
from paddleslim_ng.compress.configured import Progress, make_optimizer


def made(steps: int = 4, **settings: Any) -> Any:
    """Return the optimizer of a job with so many steps."""
    config = load_config({'version': 1.0, 'compressor': {'epoch': 4, 'optimizer': settings}})
    assert config.compressor.optimizer is not None
    return make_optimizer(config.compressor.optimizer, Progress(lambda: steps))


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
def test_every_optimizer(settings: dict[str, Any], attributes: dict[str, Any]) -> None:
    paddle.enable_static()
    found = made(**{'learning_rate': 0.25, **settings})
    assert type(found) is getattr(paddle.optimizer, settings['type'])
    assert found.get_lr() == 0.25
    for name, value in attributes.items():
        assert getattr(found, name) == value


def test_clip_and_decay() -> None:
    clip = {'type': 'ClipGradByGlobalNorm', 'clip_norm': 2.0}
    decay = {'type': 'L1Decay', 'coeff': 0.5}
    found = made(type='SGD', gradient_clip=clip, weight_decay=decay)
    assert found._grad_clip.clip_norm == 2.0
    assert type(found.regularization).__name__ == 'L1Decay'


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
    """What a file leaves open lasts as long as the job, four steps."""
    assert rates(made(type='SGD', learning_rate=settings)._learning_rate, 4) == pytest.approx(wanted)


def test_plateau() -> None:
    schedule = {'type': 'ReduceOnPlateau', 'learning_rate': 0.4, 'patience': 1, 'factor': 0.5}
    found = made(type='SGD', learning_rate=schedule)._learning_rate
    assert (found.factor, found.patience, found()) == (0.5, 1, 0.4)


def test_a_schedule_after_the_warm_up() -> None:
    warm = {
        'type': 'LinearWarmup',
        'warmup_steps': 2,
        'start_lr': 0.0,
        'end_lr': 1.0,
        'learning_rate': {'type': 'CosineAnnealingDecay', 'learning_rate': 1.0},
    }
    found = made(40, type='SGD', learning_rate=warm)._learning_rate
    assert rates(found, 4) == pytest.approx([0.0, 0.5, 1.0, (1 + math.cos(math.pi / 40)) / 2])


def test_every_name_is_covered() -> None:
    """The tables above have all optimizers and all schedules."""
    from typing import get_args

    from paddleslim_ng.compress.configuration.learning_rates import _Schedule
    from paddleslim_ng.compress.configuration.optimizer_settings import OptimizerSettings

    def names(union: Any) -> set[str]:
        return {model.__name__ for model in get_args(get_args(union)[0])}

    assert {row[0]['type'] for row in OPTIMIZERS} == names(OptimizerSettings)
    assert {row[0]['type'] for row in SCHEDULES} | {'ReduceOnPlateau'} == names(_Schedule)
