"""A value below which a metric must not end."""

from __future__ import annotations

from paddleslim_ng.analysis.metric_value import as_metric, usable_baseline
from paddleslim_ng.compress.context import Context
from paddleslim_ng.errors import ConfigError

__all__ = ['MetricFloor']


class MetricFloor:
    """A floor, given as a value or as the share of what there was before that may be lost.

    Args:
        metric_name: readable name of the metric; the larger the better.
        accuracy_floor: the value.
        max_loss: the share, instead.

    Attributes:
        value: the floor; None until it is known.

    Raises:
        ConfigError: both are given, or ``max_loss`` is no share.
    """

    def __init__(self, metric_name: str, accuracy_floor: float | None, max_loss: float | None) -> None:
        if accuracy_floor is not None and max_loss is not None:
            raise ConfigError('give accuracy_floor, a value of the metric, or max_loss, a share of it; not both')
        if max_loss is not None and not 0 <= max_loss <= 1:
            raise ConfigError(f'max_loss is a share from 0 to 1, not {max_loss!r}')
        self.metric_name, self._loss = metric_name, max_loss
        self.value = accuracy_floor
        self._given = accuracy_floor is not None or max_loss is not None

    def __bool__(self) -> bool:
        """Tell whether there is a floor."""
        return self._given

    def measure(self, context: Context) -> float:
        """Measure the metric of the network as it is."""
        return as_metric(context.run_eval_graph().metric(self.metric_name), f'the evaluation of {self.metric_name!r}')

    def settle(self, context: Context, who: str) -> None:
        """Fix the floor by the network as it is, before anything is removed.

        Args:
            context: the job.
            who: name of the strategy, for messages.

        Raises:
            ConfigError: the network is below the floor as it is.
            DataError: the metric is not finite, or 0.
        """
        present = usable_baseline(self.measure(context), f'the evaluation of {self.metric_name!r}')
        if self._loss is not None:
            self.value = present - self._loss * abs(present)
        if self.value is not None and present < self.value:
            raise ConfigError(
                f'{who}: {self.metric_name!r} is {present:g} before anything is removed, below the floor '
                f'{self.value:g}: start in a later epoch, or lower the floor'
            )

    def holds(self, metric: float) -> bool:
        """Tell whether a value of the metric is not below the floor."""
        return self.value is None or metric >= self.value

    def newest(self, context: Context, evaluations: int) -> float:
        """Return the metric of the network as it is, of the epoch's evaluation where there was one.

        Args:
            context: the job, at the end of an epoch.
            evaluations: how many values there were when the epoch began.
        """
        found = self.count(context) > evaluations
        return context.metric(self.metric_name) if found else self.measure(context)

    def count(self, context: Context) -> int:
        """Return how many values of the metric the evaluations have found."""
        return len(context.eval_results.get(self.metric_name, []))
