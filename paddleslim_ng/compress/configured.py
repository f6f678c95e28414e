"""From the settings of a configuration to a job: options, optimizers, schedules, clips, mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import paddle
from pydantic import BaseModel

from paddleslim_ng.compress.budget import Budget
from paddleslim_ng.compress.configuration import CompressorSettings
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.optimizers import OptimizerSource
from paddleslim_ng.compress.trainer_options import TrainerOptions
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from paddleslim_ng.compress.compressor import Compressor

__all__ = [
    'Progress',
    'apply_settings',
    'apply_to_context',
    'batches_of_epoch',
    'configured_options',
    'make_optimizer',
    'mixed_precision',
]

_TYPE: Final = 'type'
_JOB: Final = ('epoch', 'checkpoint_path', 'checkpoint_every', 'keep_checkpoints', 'init_model')
_WHOLE_RUN: Final = {'PolynomialDecay': 'decay_steps', 'CosineAnnealingDecay': 'T_max'}
_SCHEDULE: Final = paddle.optimizer.lr.LRScheduler
_LISTS: Final = ('custom_white_list', 'custom_black_list', 'custom_black_varnames')


class Progress(NamedTuple):
    """What schedules of learning rates go by.

    Attributes:
        steps: tells how many steps a schedule makes in the whole job.
        done: tells how many of them lie behind when an optimizer is made.
    """

    steps: Callable[[], int]
    done: Callable[[], int] = lambda: 0


def apply_settings(settings: CompressorSettings, compressor: Compressor) -> None:
    """Let a compressor take over what a configuration's section ``compressor`` says.

    Args:
        settings: of that section; what it leaves out stays as it is.
        compressor: changed in place.
    """
    for name in _JOB:
        if name in settings.model_fields_set:
            setattr(compressor, name, getattr(settings, name))
    compressor.options = configured_options(settings, compressor.options)

    apply_to_context(settings, compressor.context, lambda: _progress(compressor))


def _progress(compressor: Compressor) -> Progress:
    """Return how far the job is, or the round of an alternation."""
    context, by_batch = compressor.context, compressor.options.schedule_by == 'batch'

    def steps(epochs: int) -> int:
        return epochs * (batches_of_epoch(context) if by_batch else 1)

    def done() -> int:
        counted = not by_batch or (context.train_reader is not None and context.train_reader.length() is not None)
        return steps(context.epoch_id) if counted else 0

    return Progress(lambda: steps(context.epoch or compressor.epochs()), done)


def batches_of_epoch(context: Context) -> int:
    """Return the number of batches of an epoch of training.

    Raises:
        ConfigError: the reader does not tell it.
    """
    length = context.train_reader.length() if context.train_reader is not None else None
    if length is None:
        raise ConfigError(
            'the length of an epoch is needed and train_reader does not tell it: give a reader with a length, or '
            'write the number of steps or epochs into the configuration'
        )
    return length


def configured_options(settings: CompressorSettings, options: TrainerOptions) -> TrainerOptions:
    """Return a trainer's options with what the settings say about them."""
    names = [item.name for item in fields(TrainerOptions) if item.name in settings.model_fields_set]
    return replace(options, **{name: getattr(settings, name) for name in names})


def apply_to_context(settings: CompressorSettings, context: Context, progress: Callable[[], Progress]) -> None:
    """Give a context its random numbers, limits and optimizers; optimizers that it has stay.

    Args:
        settings: of the section ``compressor``.
        context: changed in place.
        progress: tells how far the job is.
    """
    if 'seed' in settings.model_fields_set:
        context.rng = np.random.default_rng(settings.seed)
    if 'cache_path' in settings.model_fields_set:
        context.keep_samples(settings.cache_path)
    if settings.budget is not None:
        context.budget = Budget(**settings.budget.model_dump())
    if context.train_optimizer is None and settings.optimizer is not None:
        train = settings.optimizer
        context.train_optimizer = OptimizerSource(
            lambda: make_optimizer(train, progress()), 'optimizer', clip=context.clip, amp=context.amp
        )
    if not context.has_distiller_optimizer() and settings.distiller_optimizer is not None:
        distiller = settings.distiller_optimizer
        context.distiller_optimizer = OptimizerSource(
            lambda: make_optimizer(distiller, progress()), 'distiller_optimizer', clip=context.clip, amp=context.amp
        )
    if settings.amp is not None:
        context.amp = mixed_precision(settings.amp)
        for source in (context.train_optimizer, context.distiller_optimizer):
            if source is not None:
                source.amp = context.amp


def make_optimizer(settings: BaseModel, progress: Progress) -> Any:
    """Return the optimizer that settings describe, new at every call.

    Its schedule is where it would be if it had been there from the beginning of the job, so that the rate does not jump
    up where a strategy builds the training program anew.

    Args:
        settings: of the configuration's ``optimizer``.
        progress: says how long schedules are that leave their length open, and where they begin.

    Raises:
        ConfigError: Paddle's version lacks the class, or the length of the run is not known.
    """
    given = _arguments(settings)
    kind = str(given.pop(_TYPE))
    clip, decay = given.pop('gradient_clip', None), given.pop('weight_decay', None)
    given['learning_rate'] = rate = _rate(getattr(settings, 'learning_rate', None), progress.steps)
    if isinstance(rate, _SCHEDULE) and not isinstance(rate, paddle.optimizer.lr.ReduceOnPlateau):
        for _ in range(progress.done()):
            rate.step()
    if decay is not None:
        given['lamb_weight_decay' if kind == 'Lamb' else 'weight_decay'] = _decay(decay)
    if clip is not None:
        given['grad_clip'] = _clip(_arguments(clip))
    return _class(paddle.optimizer, kind)(**given)


def _arguments(settings: BaseModel) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in type(settings).model_fields}


def _class(module: Any, name: str) -> Any:
    found = getattr(module, name, None)
    if found is None:
        raise ConfigError(f'paddle {paddle.__version__} has no {module.__name__}.{name}')
    return found


def _rate(given: Any, steps: Callable[[], int]) -> Any:
    if not isinstance(given, BaseModel):
        return given
    arguments = _arguments(given)
    kind = str(arguments.pop(_TYPE))
    if 'learning_rate' in arguments:
        arguments['learning_rate'] = _rate(arguments['learning_rate'], steps)
    length = _WHOLE_RUN.get(kind)
    if length is not None and arguments[length] is None:
        arguments[length] = steps()
    return _class(paddle.optimizer.lr, kind)(**arguments)


def _decay(given: Any) -> Any:
    if not isinstance(given, BaseModel):
        return given
    arguments = _arguments(given)
    return _class(paddle.regularizer, str(arguments.pop(_TYPE)))(**arguments)


def _clip(arguments: Mapping[str, Any]) -> Any:
    rest = {name: value for name, value in arguments.items() if name != _TYPE}
    return _class(paddle.nn, str(arguments[_TYPE]))(**rest)


def mixed_precision(settings: BaseModel) -> dict[str, Any]:
    """Return the arguments of ``paddle.static.amp.decorate`` that settings describe."""
    given = {name: value for name, value in _arguments(settings).items() if value is not None}
    lists = {name: given.pop(name) for name in _LISTS if name in given}
    if lists:
        given['amp_lists'] = paddle.static.amp.CustomOpLists(**lists)
    return given
