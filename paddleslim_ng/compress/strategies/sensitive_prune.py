"""Channel pruning by sensitivity: every layer loses as much as it can bear."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.strategies.channel_pruning import ChannelPruning, check_share
from paddleslim_ng.compress.strategies.loss_curves import FoundRatios, LossCurve, find_ratios
from paddleslim_ng.compress.strategies.measuring import distinct_parameters, measure_sensitivities
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.costs import get_cost
from paddleslim_ng.prune.sensitive.sensitivity_file import Sensitivities

__all__ = ['SensitivePruneStrategy']

_LOG = logging.getLogger('paddleslim_ng')
_NEAR = 0.02


class SensitivePruneStrategy(ChannelPruning):
    """Measures how the metric suffers when each layer is pruned alone, and prunes all of them to one and the same loss.

    The loss is found by bisection on the exact cost, so that the network comes within 2 % of ``target_ratio``, or as
    near as whole channels and ``round_to`` allow, which a warning then tells. With ``num_steps``, each step removes
    ``1 - (1 - target_ratio) ** (1 / num_steps)`` of what is there, and measures anew; the next one is taken when the
    metric has converged, or when there would be no epoch left for it.

    Args:
        start_epoch: the epoch before which channels leave first.
        end_epoch: the epoch before which the last step is taken at the latest; the end of the job where 0.
        pruner: see :class:`ChannelPruning`.
        target: what ``target_ratio`` counts: ``'flops'`` or ``'params'``.
        pruned_params: regular expression of the parameters to prune.
        excluded_params: regular expression of parameters to leave alone.
        max_ratio: largest share of its channels that a layer loses, over all steps.
        round_to: counts of channels that stay are multiples of this.
        target_ratio: share of the FLOPs or parameters to remove.
        metric_name: readable name of the metric; the larger the better.
        delta_rate: step of the ratios that are measured.
        sensitivities_file: JSON file that keeps what was measured and is read again, so that an interrupted measurement
            goes on; later steps append ``-2`` and so on to its stem, and later rounds of an alternation ``-round-2``.
        num_steps: number of steps.
        convergence: relative change of the metric between two evaluations below which it has converged.
        eval_rate: share of the evaluation batches on which sensitivities are measured; all where None.

    Attributes:
        sensitivities: ``{parameter: {ratio: relative loss}}`` of the last step.
        steps: how many steps are done.
        removed: share of the cost that has left, or None.
        round_id: round of an alternation in which the strategy acts, from 0.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> compressor.add_strategy(SensitivePruneStrategy(target_ratio=0.5, metric_name='top1', num_steps=2))
    """

    def __init__(
        self,
        start_epoch: int = 0,
        end_epoch: int = 0,
        pruner: Any = None,
        target: str = 'flops',
        pruned_params: str = '.*',
        excluded_params: str | None = None,
        max_ratio: float = 0.9,
        round_to: int = 8,
        target_ratio: float = 0.5,
        metric_name: str = 'top1_acc',
        delta_rate: float = 0.2,
        sensitivities_file: str | Path | None = None,
        num_steps: int = 1,
        convergence: float = 0.001,
        eval_rate: float | None = None,
    ) -> None:
        super().__init__(start_epoch, end_epoch, pruner, target, pruned_params, excluded_params, max_ratio, round_to)
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ConfigError(f'num_steps is a whole number from 1, not {num_steps!r}')
        if not convergence > 0:
            raise ConfigError(f'convergence is a relative change above 0, not {convergence!r}')
        self.target_ratio = check_share('target_ratio', target_ratio)
        self.delta_rate = check_share('delta_rate', delta_rate)
        self.metric_name, self.eval_rate = metric_name, eval_rate
        self.sensitivities_file = Path(sensitivities_file) if sensitivities_file is not None else None
        self.num_steps, self.convergence = num_steps, convergence
        self.sensitivities: Sensitivities = {}
        self.steps, self.round_id = 0, 0
        self.removed: float | None = None
        self._before = 0
        self._channels: dict[str, int] = {}
        self._evaluations = 0

    def on_compression_begin(self, context: Context) -> None:
        """Prune here, in one step, where the job has no epochs."""
        super().on_compression_begin(context)
        context.require_metric(self.metric_name)
        if context.epoch == 0:
            self._prune(context, self.num_steps)

    def on_epoch_begin(self, context: Context) -> None:
        """Take a step where one is due."""
        due = self._due(context)
        if due:
            self._prune(context, due)

    def _due(self, context: Context) -> int:
        """Return how many steps to take at once."""
        left = self.num_steps - self.steps
        if not left or not self.is_active(context.epoch_id):
            return 0
        epochs = (self.end_epoch or context.epoch) - context.epoch_id
        late = left - (epochs - 1)
        if self.steps == 0:
            return max(1, late)
        # Two evaluations of the present network.
        converged = self._count(context) - self._evaluations >= 2 and context.eval_converged(
            self.metric_name, self.convergence
        )
        if late > 0 and not converged:
            _LOG.warning('%s: %r has not converged, and no later epoch is left for a step', self.name, self.metric_name)
        return max(int(converged), late)

    def _count(self, context: Context) -> int:
        return len(context.eval_results.get(self.metric_name, []))

    def _prune(self, context: Context, steps: int) -> None:
        session = self.session(context)
        names = distinct_parameters(session, self.parameters(session))
        cost = get_cost(self.target)(session.analysis)
        present = cost(session.decide(names, [0.0] * len(names)).cut)
        channels = {name: session.channels_of(name) for name in names}
        if self.steps == 0:
            self._before, self._channels = present, channels
        done = self.steps + steps
        share = 1 - (1 - self.target_ratio) ** (done / self.num_steps)
        self.sensitivities = self._measure(context, names)
        curves = {name: LossCurve(curve) for name, curve in self.sensitivities.items()}
        most = {name: max(0.0, 1 - (1 - self.max_ratio) * self._channels[name] / channels[name]) for name in curves}
        found = find_ratios(session, curves, most, cost, self._before * (1 - share))
        self._tell(found, done, share)
        if found.left < present:
            self.cut(context, found.ratios)
        elif self.removed == 0:
            raise ConfigError(
                f'{self.name}: target_ratio={self.target_ratio} cannot be approached: whole channels in multiples of '
                f'round_to={self.round_to} remove nothing or more than twice as much; take a smaller round_to'
            )
        self.steps, self._evaluations = done, self._count(context)

    def _measure(self, context: Context, names: list[str]) -> Sensitivities:
        count = max(1, round(1 / self.delta_rate) - 1)
        ratios = [round(self.delta_rate * number, 6) for number in range(1, count + 1)]
        file = self.sensitivities_file
        if file is not None:
            parts = [f'-round-{self.round_id + 1}' if self.round_id else '', f'-{self.steps + 1}' if self.steps else '']
            file = file.with_name(f'{file.stem}{"".join(parts)}{file.suffix}')
        criterion = self.pruner.criterion
        return measure_sensitivities(context, names, ratios, self.metric_name, self.eval_rate, criterion, file)

    def _tell(self, found: FoundRatios, done: int, share: float) -> None:
        self.removed = 1 - found.left / self._before
        said = f'{self.name}: {self.removed:.1%} of {self._before:,} {self.target} removed'
        if abs(self.removed - share) > _NEAR:
            _LOG.warning('%s, the nearest to %.1f%% that can be reached', said, 100 * share)
        else:
            _LOG.info('%s after step %d of %d', said, done, self.num_steps)

    def state_dict(self) -> Mapping[str, Any]:
        """Return how many steps are done, what was measured for the last one, and what there was before the first."""
        return {
            'steps': self.steps,
            'removed': self.removed,
            'before': self._before,
            'channels': dict(self._channels),
            'evaluations': self._evaluations,
            'sensitivities': {name: [list(point) for point in c.items()] for name, c in self.sensitivities.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.steps, self.removed = int(state['steps']), state['removed']
        self._before, self._evaluations = int(state['before']), int(state['evaluations'])
        self._channels = {name: int(count) for name, count in state['channels'].items()}
        self.sensitivities = {
            name: {float(ratio): float(loss) for ratio, loss in points}
            for name, points in state['sensitivities'].items()
        }
