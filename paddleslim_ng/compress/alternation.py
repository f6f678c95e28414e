"""Compression and training in turns: what one round leaves is where the next one begins."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Union

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.journal import JournalEntry
from paddleslim_ng.compress.metric_floor import MetricFloor
from paddleslim_ng.compress.rollback import take_back, take_snapshot
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.errors import ConfigError

__all__ = ['AlternationStrategy', 'StrategySource']

_LOG = logging.getLogger('paddleslim_ng')
StrategySource = Union[Strategy, Callable[[], Strategy]]


class AlternationStrategy(Strategy):
    """Runs strategies in rounds, each of which takes the retrained network of the round before as its origin.

    After AMC's alternate iteration. A round is a job of its own for the strategies in it: they are made anew, are
    called from ``on_compression_begin`` to ``on_compression_end``, and count epochs from the beginning of the round. So
    a target ratio is a share of what the round begins with, sensitivities are measured anew, and a network that is
    distilled from its original is distilled from what the round began with. Where a floor is given and the metric is
    below it at the end of a round, that round is taken back, with all its training, and it was the last one.

    Args:
        strategies: what acts in each round, in the order of the calls. A strategy is copied for each round, and must
            not have run; a function that makes one is called for each round.
        rounds: number of rounds.
        round_epochs: epochs of a round.
        start_epoch: the epoch in which the first round begins.
        end_epoch: follows from the others; 0, or exactly that.
        metric_name: readable name of the metric that is compared with the floor; the larger the better.
        accuracy_floor: the metric does not end a round below this; there is no floor where this and ``max_loss`` are
            None.
        max_loss: instead: share of the metric before the first round that may be lost.

    Attributes:
        round: the round that runs, or ran last, from 0; -1 before the first.
        finished: whether there will be no more rounds.
        floor: the floor; its ``value`` is known from the first round on.

    Raises:
        ConfigError: an argument is unusable, or a strategy acts beyond a round.

    Example:
        >>> inner = [UniformPruneStrategy(target_ratio=0.2)]
        >>> compressor.add_strategy(AlternationStrategy(inner, rounds=5, round_epochs=4, max_loss=0.01))
    """

    def __init__(
        self,
        strategies: Sequence[StrategySource],
        rounds: int = 2,
        round_epochs: int = 1,
        start_epoch: int = 0,
        end_epoch: int = 0,
        metric_name: str = 'top1_acc',
        accuracy_floor: float | None = None,
        max_loss: float | None = None,
    ) -> None:
        for name, value in (('rounds', rounds), ('round_epochs', round_epochs)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f'{name} is a whole number from 1, not {value!r}')
        super().__init__(start_epoch, end_epoch)
        end = start_epoch + rounds * round_epochs
        if end_epoch not in (0, end):
            raise ConfigError(
                f'end_epoch={end_epoch} is not where {rounds} rounds of {round_epochs} epochs end, which is {end}: '
                'leave it out'
            )
        self.rounds, self.round_epochs, self.end_epoch = rounds, round_epochs, end
        self.floor = MetricFloor(metric_name, accuracy_floor, max_loss)
        self.round, self.finished = -1, False
        self._sources = list(strategies)
        self._made: list[dict[str, Strategy]] = []
        self._running = False
        self._evaluations = 0
        self._snapshot: dict[str, Any] | None = None
        self._check()

    def _check(self) -> None:
        made = self._make(0)
        if not made:
            raise ConfigError('strategies is empty: there is nothing to do in a round')
        for one in made.values():
            if one.start_epoch >= self.round_epochs or one.end_epoch > self.round_epochs:
                raise ConfigError(
                    f'{one!r} acts beyond a round of {self.round_epochs} epochs; in a round, epochs count from its '
                    'beginning'
                )

    def _make(self, number: int) -> dict[str, Strategy]:
        """Return new strategies for a round."""
        made: dict[str, Strategy] = {}
        for source in self._sources:
            one = copy.deepcopy(source) if isinstance(source, Strategy) else source()
            if not isinstance(one, Strategy):
                raise ConfigError(f'a strategy is an instance of slim.compress.Strategy, not {one!r}')
            stem, count = one.name or type(one).__name__, 1
            while (name := stem if count == 1 else f'{stem}_{count}') in made:
                count += 1
            one.name, made[name] = name, one
            if hasattr(one, 'round_id'):
                one.round_id = number
        return made

    @contextmanager
    def _inside(self, context: Context, number: int) -> Iterator[list[Strategy]]:
        """Let the context count epochs as a round does, and what happens in it go into the journal as done by this."""
        epoch, epochs, known = context.epoch_id, context.epoch, len(context.journal)
        context.epoch_id, context.epoch = self._epoch_of_round(epoch, number), self.round_epochs if epochs else 0
        try:
            yield list(self._made[number].values())
        finally:
            context.epoch_id, context.epoch = epoch, epochs
            for index in range(known, len(context.journal)):
                entry = context.journal[index]
                note = {'round': number, 'strategy': entry.strategy, 'epoch': entry.epoch_id, 'note': dict(entry.note)}
                context.journal[index] = JournalEntry(self.name, epoch, note)

    def _epoch_of_round(self, epoch_id: int, number: int) -> int:
        return epoch_id - self.start_epoch - number * self.round_epochs

    def on_compression_begin(self, context: Context) -> None:
        """Run all rounds here, without training, where the job has no epochs."""
        if self.floor:
            context.require_metric(self.floor.metric_name)
        while not context.epoch and not self.finished and self.round + 1 < self.rounds:
            self._begin(context)
            self._end(context)

    def on_epoch_begin(self, context: Context) -> None:
        """Begin a round where it is time."""
        self._evaluations = self.floor.count(context)
        if self.finished or not self.is_active(context.epoch_id):
            return
        if not self._running:
            self._begin(context)
        self._call('on_epoch_begin', context)

    def on_batch_begin(self, context: Context) -> None:
        """Hand on to the strategies of the round."""
        self._call('on_batch_begin', context)

    def on_batch_end(self, context: Context) -> None:
        """Hand on to the strategies of the round."""
        self._call('on_batch_end', context)

    def on_epoch_end(self, context: Context) -> None:
        """Hand on to the strategies of the round, and end it after its last epoch."""
        if not self._running:
            return
        self._call('on_epoch_end', context)
        if self._epoch_of_round(context.epoch_id, self.round) + 1 == self.round_epochs:
            self._end(context)

    def on_compression_end(self, context: Context) -> None:
        """End a round in the midst of which training has ended early."""
        if self._running:
            self._evaluations = self.floor.count(context)
            self._end(context)

    def _call(self, callback: str, context: Context) -> None:
        if self._running:
            with self._inside(context, self.round) as strategies:
                for one in strategies:
                    getattr(one, callback)(context)

    def _begin(self, context: Context) -> None:
        if self.floor and self.round < 0:
            self.floor.settle(context, self.name)
        if self.floor:
            self._snapshot = take_snapshot(context, self)
        self.round, self._running = self.round + 1, True
        self._made.append(self._make(self.round))
        _LOG.info('%s: round %d of %d begins', self.name, self.round + 1, self.rounds)
        self._call('on_compression_begin', context)

    def _end(self, context: Context) -> None:
        changes = len(context.journal)
        self._call('on_compression_end', context)
        self._running = False
        if context.epoch and not context.is_trained():
            self._train_again(context)
        snapshot, self._snapshot = self._snapshot, None
        if self.round + 1 == self.rounds:
            self.finished = True
        if snapshot is None:
            return
        # What the round's end has changed is not what the epoch's evaluation has seen.
        seen = self._evaluations if len(context.journal) == changes else self.floor.count(context)
        metric = self.floor.newest(context, seen)
        said = f'{self.name}: {self.floor.metric_name!r} is {metric:g} after round {self.round + 1}'
        if self.floor.holds(metric):
            _LOG.info('%s', said)
            return
        self.finished = True
        if take_back(context, self, snapshot, 'round', f'{said}, below the floor {self.floor.value:g}'):
            self._made.pop()
            self.round -= 1

    def _train_again(self, context: Context) -> None:
        """Let the network train on its own loss where a strategy has ended as at the end of a job."""
        program = context.forward_program()
        context.minimize(program)
        context.replace_programs(self, program, note={'round': self.round, 'strategy': ''})

    def state_dict(self) -> Mapping[str, Any]:
        """Return the round, the states of all rounds' strategies, and the way back to the beginning of this round."""
        return {
            'round': self.round,
            'finished': self.finished,
            'running': self._running,
            'evaluations': self._evaluations,
            'floor': self.floor.value,
            'snapshot': self._snapshot,
            'strategies': [{name: dict(one.state_dict()) for name, one in made.items()} for made in self._made],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the strategies of all rounds, and hand their states on."""
        self.round, self.finished, self._running = int(state['round']), bool(state['finished']), bool(state['running'])
        self._evaluations, self.floor.value, self._snapshot = state['evaluations'], state['floor'], state['snapshot']
        self._made = [self._make(number) for number in range(len(state['strategies']))]
        for made, states in zip(self._made, state['strategies']):
            for name, one in made.items():
                one.load_state_dict(states[name])

    def restore_from_checkpoint(self, context: Context) -> None:
        """Let the strategy of the round that made a change make it again."""
        entry = context.replayed
        if entry is None:
            return
        number, note = int(entry.note['round']), entry.note
        if not note['strategy']:
            self._train_again(context)
            return
        with self._inside(context, number):
            context.replayed = JournalEntry(str(note['strategy']), int(note['epoch']), note['note'])
            try:
                self._made[number][str(note['strategy'])].restore_from_checkpoint(context)
            finally:
                context.replayed = entry

    def on_restored(self, context: Context) -> None:
        """Hand on to the strategies of the round."""
        self._call('on_restored', context)
