"""When the schedule of a learning rate moves on, and by which figure where it watches one."""

from __future__ import annotations

from typing import Any

import paddle

from paddleslim_ng.compress.best_so_far import monitored_value
from paddleslim_ng.compress.trainer_options import TOTAL_LOSS, EpochRecord, TrainerOptions

__all__ = ['step_after_batch', 'step_after_epoch']


def step_after_batch(schedule: Any, options: TrainerOptions) -> None:
    """Move a schedule on that counts batches.

    Args:
        schedule: of the program that is trained; None where the rate is constant.
        options: say what schedules count.
    """
    if schedule is not None and not _watches(schedule) and options.schedule_by == 'batch':
        schedule.step()


def step_after_epoch(schedule: Any, options: TrainerOptions, record: EpochRecord, *, trained: bool) -> None:
    """Move a schedule on that counts epochs, or that waits for a plateau.

    Args:
        schedule: of the program that is trained; None where the rate is constant.
        options: say what schedules count and what is monitored.
        record: of the epoch.
        trained: whether the epoch trained at all; one that did not is not counted.

    Raises:
        ConfigError: the evaluation has not found the metric that is monitored.
    """
    if schedule is None:
        return
    if _watches(schedule):
        value = _plateau_value(record, options, str(schedule.mode))
        if value is not None:
            schedule.step(value)
    elif options.schedule_by == 'epoch' and trained:
        schedule.step()


def _watches(schedule: Any) -> bool:
    return isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau)


def _plateau_value(record: EpochRecord, options: TrainerOptions, mode: str) -> float | None:
    """Return the monitored metric where it is looked at the same way as the schedule does, else the loss."""
    if options.monitor is None or options.mode != mode:
        return record.train.get(TOTAL_LOSS)
    return monitored_value(record, options) if record.metrics else None
