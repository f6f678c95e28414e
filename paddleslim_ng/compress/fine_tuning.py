"""How a model is trained on where a configuration leaves that open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import paddle

from paddleslim_ng.compress.compressor import Compressor
from paddleslim_ng.compress.optimizers import OptimizerSource

__all__ = ['LEARNING_RATE', 'fine_tune_by_default']

LEARNING_RATE: Final = 1e-3


def fine_tune_by_default(compressor: Compressor, *, schedule_is_given: bool) -> None:
    """Give a job without optimizer one: Adam, whose rate falls from 0.001 to 0 along half a cosine over the whole job.

    The rate falls with every batch where the training data tells how many there are, and else with every epoch.

    Args:
        compressor: a job with its strategies; one that has an optimizer stays as it is.
        schedule_is_given: the configuration says what a schedule counts.
    """
    context, epochs = compressor.context, compressor.epochs()
    if context.train_optimizer is not None or not epochs:
        return
    batches = context.train_reader.length() if context.train_reader is not None else None
    if not schedule_is_given:
        compressor.options = replace(compressor.options, schedule_by='epoch' if batches is None else 'batch')
    of_epoch = batches if compressor.options.schedule_by == 'batch' else 1
    steps = None if of_epoch is None else epochs * of_epoch
    context.train_optimizer = OptimizerSource(lambda: _adam(steps), 'the default optimizer')


def _adam(steps: int | None) -> Any:
    """Return the optimizer; its rate stays where nobody knows how many steps there will be."""
    schedule = paddle.optimizer.lr.CosineAnnealingDecay
    return paddle.optimizer.Adam(schedule(LEARNING_RATE, steps) if steps is not None else LEARNING_RATE)
