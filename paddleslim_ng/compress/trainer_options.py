"""What a trainer does beside training: evaluation, stopping early, keeping the best, writing things down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from paddleslim_ng.errors import ConfigError

__all__ = ['TOTAL_LOSS', 'EpochRecord', 'TrainerOptions']

TOTAL_LOSS: Final = 'total_loss'
"""Name of the loss that is minimized, among the losses of a batch and the means of an epoch."""

_MODES: Final = ('max', 'min')
_STEPS: Final = ('epoch', 'batch')


@dataclass(frozen=True)
class TrainerOptions:
    """Options of :class:`~paddleslim_ng.compress.Trainer`; None leaves a comfort out.

    Attributes:
        eval_epoch: epochs between two evaluations; the last epoch is always evaluated. 0 evaluates never.
        schedule_by: whether learning rate schedules count an ``'epoch'`` or a ``'batch'`` as a step.
        monitor: metric that decides what is best, and the loss of training where None.
        mode: whether ``'max'`` or ``'min'`` of it is best; always the least where the loss of training is monitored.
        min_delta: what counts as better.
        patience: stop after so many evaluations in a row that were not better.
        least_learning_rate: stop when the learning rate falls below; a schedule that ends exactly there goes on.
        best_path: folder for the best model, as :func:`paddleslim_ng.prune.save_model` writes it.
        metrics_file: file with a line of JSON for each epoch.
        visualdl: folder for VisualDL, which is an extra.
        progress: show bars; on terminals alone where None.

    Raises:
        ConfigError: a value is unusable.
    """

    eval_epoch: int = 1
    schedule_by: str = 'epoch'
    monitor: str | None = None
    mode: str = 'max'
    min_delta: float = 0.0
    patience: int | None = None
    least_learning_rate: float | None = None
    best_path: str | Path | None = None
    metrics_file: str | Path | None = None
    visualdl: str | Path | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ConfigError(f'mode is one of {_MODES}, not {self.mode!r}')
        if self.schedule_by not in _STEPS:
            raise ConfigError(f'schedule_by is one of {_STEPS}, not {self.schedule_by!r}')
        for name, least in (('eval_epoch', 0), ('patience', 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f'{name} is a whole number from {least}, not {value!r}')
        for name in ('min_delta', 'least_learning_rate'):
            number = getattr(self, name)
            if number is None and name == 'least_learning_rate':
                continue
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= 0:
                raise ConfigError(f'{name} is a number from 0, not {number!r}')


@dataclass
class EpochRecord:
    """What an epoch came to.

    Attributes:
        epoch: its number, from 0.
        train: means of what was watched in training, with ``total_loss``.
        metrics: what the evaluation found; empty where there was none.
        learning_rate: at the end of its training; None where it is constant.
        samples: how many were trained with.
        seconds: time of training and evaluation.
        best: whether no epoch since the last change to the network was better.
    """

    epoch: int
    train: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    samples: int = 0
    seconds: float = 0.0
    best: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, packed: Mapping[str, Any]) -> EpochRecord:
        """Return the record of plain values."""
        return cls(**{item.name: packed[item.name] for item in fields(cls)})
