"""The settings of a configuration as the objects that the Compressor takes: optimizers, schedules, options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import paddle

from paddleslim_ng.compress.budget import Budget
from paddleslim_ng.compress.trainer_options import TrainerOptions
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration.configuration import CompressionConfig

__all__ = ['job_arguments', 'optimizer_factory']

_TRAINER: Final = (
    'eval_epoch',
    'schedule_by',
    'monitor',
    'mode',
    'min_delta',
    'patience',
    'least_learning_rate',
    'best_path',
    'metrics_file',
    'visualdl',
)
_JOB: Final = ('init_model', 'checkpoint_path', 'checkpoint_every', 'keep_checkpoints', 'cache_path', 'seed')
# Arguments that stand for the whole run where the file does not give them.
_LENGTHS: Final = {'CosineAnnealingDecay': 'T_max', 'PolynomialDecay': 'decay_steps'}
_LISTS: Final = ('custom_white_list', 'custom_black_list', 'custom_black_varnames')


def job_arguments(config: CompressionConfig, batches_per_epoch: int | None = None) -> dict[str, Any]:
    """Return the keyword arguments of :class:`~paddleslim_ng.compress.Compressor` that a configuration sets.

    Args:
        config: the configuration.
        batches_per_epoch: batches of the reader, for schedules that count batches and last as long as the job.

    Raises:
        ConfigError: a schedule needs ``batches_per_epoch``.

    Example:
        >>> config = slim.compress.load_config('compress.yaml')
        >>> compressor = slim.compress.Compressor(
        ...     place, scope, program, reader, feeds, fetches, **job_arguments(config)
        ... )
        >>> for strategy in config.create_strategies():
        ...     compressor.add_strategy(strategy)
    """
    settings = config.compressor
    found = {name: getattr(settings, name) for name in _JOB}
    found['epoch'] = config.epochs
    found['options'] = TrainerOptions(**{name: getattr(settings, name) for name in _TRAINER})
    if settings.budget is not None:
        found['budget'] = Budget(**settings.budget.model_dump())
    if settings.amp is not None:
        found['amp'] = _amp(settings.amp.model_dump(exclude_none=True))
    steps: int | None = config.epochs
    if settings.schedule_by == 'batch':
        steps = config.epochs * batches_per_epoch if batches_per_epoch is not None else None
    for given, argument in (('optimizer', 'train_optimizer'), ('distiller_optimizer', 'distiller_optimizer')):
        optimizer = getattr(settings, given)
        if optimizer is not None:
            found[argument] = optimizer_factory(optimizer, steps)
    return found


def optimizer_factory(settings: Any, steps: int | None = None) -> Callable[[], Any]:
    """Return a function that makes a new optimizer at every call.

    Args:
        settings: a section ``optimizer``.
        steps: of the schedule in the whole run, where the section leaves them open; unknown where None.

    Raises:
        ConfigError: the schedule lasts as long as the run, and ``steps`` is None.
    """
    _check_length(settings.learning_rate, steps)

    def make() -> Any:
        own = settings.model_dump(exclude={'type', 'learning_rate', 'weight_decay', 'gradient_clip'})
        decay = 'lamb_weight_decay' if settings.type == 'Lamb' else 'weight_decay'
        return getattr(paddle.optimizer, settings.type)(
            learning_rate=_schedule(settings.learning_rate, steps),
            grad_clip=_typed(paddle.nn, settings.gradient_clip),
            **{decay: _typed(paddle.regularizer, settings.weight_decay)},
            **own,
        )

    return make


def _typed(module: Any, settings: Any) -> Any:
    """Return an object by its type and arguments; numbers and None as they are."""
    if settings is None or isinstance(settings, (int, float)):
        return settings
    return getattr(module, settings.type)(**settings.model_dump(exclude={'type'}))


def _schedule(settings: Any, steps: int | None) -> Any:
    if isinstance(settings, (int, float)):
        return float(settings)
    arguments = settings.model_dump(exclude={'type', 'learning_rate'})
    name = _LENGTHS.get(settings.type)
    if name is not None and arguments[name] is None:
        arguments[name] = steps
    if 'learning_rate' in type(settings).model_fields:
        arguments['learning_rate'] = _schedule(settings.learning_rate, steps)
    return getattr(paddle.optimizer.lr, settings.type)(**arguments)


def _check_length(settings: Any, steps: int | None) -> None:
    if isinstance(settings, (int, float)):
        return
    name = _LENGTHS.get(settings.type)
    if name is not None and getattr(settings, name) is None and not steps:
        raise ConfigError(
            f'{settings.type} lasts as long as the job, whose number of batches is not known: give {name}, '
            'schedule_by: epoch, or batches_per_epoch'
        )
    _check_length(getattr(settings, 'learning_rate', 0.0), steps)


def _amp(options: dict[str, Any]) -> dict[str, Any]:
    lists = {name: options.pop(name) for name in _LISTS if name in options}
    if lists:
        options['amp_lists'] = paddle.static.amp.CustomOpLists(**{name: set(value) for name, value in lists.items()})
    return options
