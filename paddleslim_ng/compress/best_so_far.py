"""Which epoch was the best, and how long ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddleslim_ng.compress.trainer_options import TOTAL_LOSS, EpochRecord, TrainerOptions
from paddleslim_ng.errors import ConfigError

__all__ = ['BestSoFar', 'monitored_value']


def monitored_value(record: EpochRecord, options: TrainerOptions) -> float | None:
    """Return the figure of an epoch that decides what is best, or None where it has no loss.

    Raises:
        ConfigError: the evaluation has not found the metric.
    """
    name = options.monitor
    if name is None:
        return record.train.get(TOTAL_LOSS)
    if name not in record.metrics:
        raise ConfigError(f'{name!r} is to be monitored, and the evaluation found {list(record.metrics)}')
    return record.metrics[name]


class BestSoFar:
    """The best value of what is monitored, since the network last changed.

    Args:
        options: say what is better.

    Attributes:
        waited: evaluations since the best one.
    """

    def __init__(self, options: TrainerOptions) -> None:
        self._least = options.min_delta
        self._sign = 1.0 if options.mode == 'max' and options.monitor is not None else -1.0
        self._value: float | None = None
        self._generation = 0
        self.waited = 0

    def judge(self, value: float, generation: int) -> bool:
        """Count a value, and tell whether it is the best.

        Args:
            value: what was monitored.
            generation: of the network; values of another one do not compare.
        """
        if generation != self._generation:
            self._value, self.waited, self._generation = None, 0, generation
        best = self._value is None or self._sign * (value - self._value) > self._least
        self.waited = 0 if best else self.waited + 1
        if best:
            self._value = value
        return best

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {'value': self._value, 'generation': self._generation, 'waited': self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._value, self.waited = state['value'], int(state['waited'])
        self._generation = int(state['generation'])
