"""Channel pruning step by step, where it costs least, down to a floor of the metric."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.metric_floor import MetricFloor
from paddleslim_ng.compress.rollback import take_back, take_snapshot
from paddleslim_ng.compress.strategies.channel_pruning import ChannelPruning, check_share
from paddleslim_ng.compress.strategies.measuring import distinct_parameters, metric_function
from paddleslim_ng.compress.strategies.uniform_ratio import find_uniform_ratio
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.costs import get_cost
from paddleslim_ng.prune.sensitive.function_evaluation import FunctionEvaluation
from paddleslim_ng.prune.session import PruningSession

__all__ = ['Candidate', 'GreedyPruneStrategy', 'choose']

_LOG = logging.getLogger('paddleslim_ng')
# A layer that saves this share of a step alone is the whole step.
_ENOUGH = 0.8
_NEAR = 0.005


class Candidate(NamedTuple):
    """A layer, pruned alone.

    Attributes:
        name: parameter.
        ratio: share of its channels.
        removed: share of the network's cost that leaves.
        loss: what the metric loses, before any training.
    """

    name: str
    ratio: float
    removed: float
    loss: float


class GreedyPruneStrategy(ChannelPruning):
    """Prunes in steps, each where the metric suffers least, until a floor is reached.

    After NetAdapt (Yang et al., 2018): each layer is pruned alone so far that ``step_ratio`` of the present cost is
    saved, the metric is measured without training, and the layer that loses least is cut. Where no layer alone can save
    a step, those that lose least for what they save are cut together. The network then trains for ``retrain_epochs``;
    if the metric is below the floor at their end, the step is taken back, with everything that was trained since, and
    it was the last one. Steps begin as long as they can end before the last epoch of the job, which trains what stays.

    Args:
        start_epoch: the epoch before which the first step is taken.
        end_epoch: the epoch up to which steps have ended; the end of the job where 0.
        pruner: see :class:`ChannelPruning`.
        target: what the shares count: ``'flops'`` or ``'params'``.
        pruned_params: regular expression of the parameters to prune.
        excluded_params: regular expression of parameters to leave alone.
        max_ratio: largest share of its channels that a layer loses, over all steps.
        round_to: counts of channels that stay are multiples of this.
        target_ratio: share of the cost at which to stop; the floor alone decides where None.
        metric_name: readable name of the metric; the larger the better.
        accuracy_floor: the metric does not end below this.
        max_loss: instead: share of the metric before the first step that may be lost.
        step_ratio: share of the present cost that a step removes.
        retrain_epochs: epochs of training after each step.
        eval_rate: share of the evaluation batches on which layers are compared; all where None.

    Attributes:
        steps: how many steps were taken and kept.
        removed: share of the cost that has left.
        finished: whether there will be no more steps.
        floor: the floor; its ``value`` is known from the first step on.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> compressor.add_strategy(GreedyPruneStrategy(metric_name='top1', max_loss=0.01, retrain_epochs=2))
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
        target_ratio: float | None = None,
        metric_name: str = 'top1_acc',
        accuracy_floor: float | None = None,
        max_loss: float | None = None,
        step_ratio: float = 0.1,
        retrain_epochs: int = 1,
        eval_rate: float | None = None,
    ) -> None:
        super().__init__(start_epoch, end_epoch, pruner, target, pruned_params, excluded_params, max_ratio, round_to)
        self.floor = MetricFloor(metric_name, accuracy_floor, max_loss)
        if not self.floor:
            raise ConfigError('give accuracy_floor, a value of the metric, or max_loss, a share of it')
        if isinstance(retrain_epochs, bool) or not isinstance(retrain_epochs, int) or retrain_epochs < 1:
            raise ConfigError(f'retrain_epochs is a whole number from 1, not {retrain_epochs!r}')
        self.target_ratio = check_share('target_ratio', target_ratio) if target_ratio is not None else None
        self.step_ratio = check_share('step_ratio', step_ratio)
        self.metric_name, self.eval_rate = metric_name, eval_rate
        self.retrain_epochs = retrain_epochs
        self.steps, self.removed, self.finished = 0, 0.0, False
        self._before = 0
        self._channels: dict[str, int] = {}
        self._evaluations = 0
        # While a step is on trial: its first epoch, what it comes to, and the way back.
        self._trial: dict[str, Any] | None = None

    def on_compression_begin(self, context: Context) -> None:
        """Take all steps here, without training, where the job has no epochs."""
        super().on_compression_begin(context)
        context.require_metric(self.metric_name)
        while context.epoch == 0 and not self.finished:
            self._step(context)
            if self._trial is not None:
                self._judge(context, self.floor.measure(context))

    def on_epoch_begin(self, context: Context) -> None:
        """Take a step where the one before has been kept."""
        self._evaluations = self.floor.count(context)
        if self.finished or self._trial is not None or not self.is_active(context.epoch_id):
            return
        over = context.epoch_id + self.retrain_epochs
        if over > (self.end_epoch or context.epoch) or over >= context.epoch:
            if self.steps == 0:
                _LOG.warning('%s: no epochs are left for a step and the training after it', self.name)
            self.finished = True
            return
        self._step(context)

    def on_epoch_end(self, context: Context) -> None:
        """Keep the step or take it back, after its last epoch."""
        trial = self._trial
        if trial is not None and context.epoch_id + 1 - trial['epoch'] >= self.retrain_epochs:
            self._judge(context, self.floor.newest(context, self._evaluations))

    def on_compression_end(self, context: Context) -> None:
        """Judge a step in the midst of which training has ended early."""
        if self._trial is not None:
            self._judge(context, self.floor.measure(context))

    def _step(self, context: Context) -> None:
        session = self.session(context)
        names = distinct_parameters(session, self.parameters(session))
        cost = get_cost(self.target)(session.analysis)
        present = cost(session.decide(names, [0.0] * len(names)).cut)
        channels = {name: session.channels_of(name) for name in names}
        if not self._before:
            self.floor.settle(context, self.name)
            self._before, self._channels = present, channels
        share = self.step_ratio
        if self.target_ratio is not None:
            share = min(share, 1 - self._before * (1 - self.target_ratio) / present)
        most = {name: 1 - (1 - self.max_ratio) * self._channels[name] / channels[name] for name in names}
        chosen = choose(self._candidates(context, session, share, most), share) if share > _NEAR else []
        if not chosen:
            self._finish(share)
            return
        ratios = {one.name: one.ratio for one in chosen}
        left = cost(session.decide(list(ratios), list(ratios.values())).cut)
        snapshot = take_snapshot(context, self)
        self.cut(context, ratios)
        self._trial = {'epoch': context.epoch_id, 'removed': 1 - left / self._before, 'snapshot': snapshot}

    def _finish(self, share: float) -> None:
        self.finished = True
        if share > _NEAR:
            _LOG.warning(
                '%s: no layer can lose about %.1f%% of the %s in multiples of round_to=%d and within max_ratio=%g; '
                'there are no more steps', self.name, 100 * share, self.target, self.round_to, self.max_ratio,
            )  # fmt: skip

    def _candidates(
        self, context: Context, session: PruningSession, share: float, most: Mapping[str, float]
    ) -> list[Candidate]:
        """Measure what each layer loses alone."""
        measured = metric_function(context, self.metric_name, self.eval_rate)
        evaluation = FunctionEvaluation(context.eval_program, context.scope, context.place, measured)
        baseline = evaluation.baseline()
        found = []
        for name, limit in most.items():
            if limit <= 0:
                continue
            alone = find_uniform_ratio(session, [name], self.target, share, limit)
            if alone.removed > 0:
                metric = evaluation.masked(name, session.footprint(name, alone.ratio))
                found.append(Candidate(name, alone.ratio, alone.removed, baseline - metric))
        return found

    def _judge(self, context: Context, metric: float) -> None:
        trial, self._trial = self._trial, None
        if trial is None:
            return
        said = (
            f'{self.name}: {self.metric_name!r} is {metric:g} with {trial["removed"]:.1%} of the {self.target} removed'
        )
        if self.floor.holds(metric):
            self.steps, self.removed = self.steps + 1, trial['removed']
            _LOG.info('%s', said)
            return
        self.finished = True
        if not take_back(context, self, trial['snapshot'], 'step', f'{said}, below the floor {self.floor.value:g}'):
            self.removed = trial['removed']

    def state_dict(self) -> Mapping[str, Any]:
        """Return the steps so far, the floor, and the way back from a step on trial: all tensors before it."""
        return {
            'steps': self.steps,
            'removed': self.removed,
            'finished': self.finished,
            'floor': self.floor.value,
            'before': self._before,
            'channels': dict(self._channels),
            'evaluations': self._evaluations,
            'trial': dict(self._trial) if self._trial is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.steps, self.removed, self.finished = int(state['steps']), float(state['removed']), bool(state['finished'])
        self.floor.value, self._before = state['floor'], int(state['before'])
        self._channels = {name: int(count) for name, count in state['channels'].items()}
        self._evaluations, self._trial = int(state['evaluations']), state['trial']


def choose(candidates: Sequence[Candidate], share: float) -> list[Candidate]:
    """Return what to cut in one step.

    Args:
        candidates: layers, each pruned alone.
        share: share of the cost that the step is to remove.

    Returns:
        The one that loses least of those that are about the whole step; where there is none, those that lose least for
        what they save, until the step is made up.
    """
    whole = [one for one in candidates if one.removed >= _ENOUGH * share]
    if whole:
        return [min(whole, key=lambda one: one.loss)]
    chosen: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: one.loss / one.removed):
        chosen.append(one)
        if sum(other.removed for other in chosen) >= _ENOUGH * share:
            break
    return chosen
