"""The training loop, with hooks to override; the compressor runs on it, and it runs alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddleslim_ng.compress.best_so_far import BestSoFar, monitored_value
from paddleslim_ng.compress.common_batches import common_batches
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.evaluation import as_numbers
from paddleslim_ng.compress.global_generators import GlobalGenerators
from paddleslim_ng.compress.metric_history import append_metrics
from paddleslim_ng.compress.observer import Observer
from paddleslim_ng.compress.progress import progress_bar
from paddleslim_ng.compress.readers import Feed, batch_size_of
from paddleslim_ng.compress.schedule_steps import step_after_batch, step_after_epoch
from paddleslim_ng.compress.shared_network import shared_network
from paddleslim_ng.compress.trainer_options import TOTAL_LOSS, EpochRecord, TrainerOptions
from paddleslim_ng.compress.training_log import TrainingLog, format_table
from paddleslim_ng.compress.weighted_means import WeightedMeans, check_finite
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.prune_io import save_model

__all__ = ['Trainer']


class Trainer:
    """Trains the program of a context, epoch by epoch.

    Override :meth:`train_values`, :meth:`train_losses`, :meth:`eval_metrics` and :meth:`should_stop` for networks whose
    step, losses, metrics or end are not the usual ones (after the hooks of AMC's trainer).

    Args:
        context: programs, readers, scope.
        options: what to do beside training.

    Attributes:
        records: one for each finished epoch.
        stopped: why training ended before its last epoch, or None.

    Raises:
        ConfigError: the context lacks what training needs, or VisualDL is not installed.

    Example:
        >>> context = slim.compress.Context(
        ...     train_program=main,
        ...     train_reader=reader,
        ...     train_feed_list=['image', 'label'],
        ...     train_fetch_list=[('loss', loss)],
        ... )
        >>> slim.compress.Trainer(context).fit(10)
    """

    def __init__(self, context: Context, options: TrainerOptions | None = None) -> None:
        self.context = context
        self.options = options if options is not None else TrainerOptions()
        self.records: list[EpochRecord] = []
        self.stopped: str | None = None
        self.seconds = 0.0
        self._best = BestSoFar(self.options)
        self._means = WeightedMeans()
        self._generators = GlobalGenerators()
        self._log = TrainingLog(self.options) if context.ranks.rank == 0 else None

    def train_values(self, feed: Feed) -> dict[str, Any]:
        """Train with one batch and return what is watched, by readable name."""
        context = self.context
        targets = [name for _, name in context.train_fetch_list]
        values = context.executor.run(context.train_program, feed=feed, fetch_list=targets, scope=context.scope)
        return {label: value for (label, _), value in zip(context.train_fetch_list, values)}

    def train_losses(self, values: Mapping[str, Any], feed: Feed) -> dict[str, Any]:
        """Return the losses of a batch, ``total_loss`` among them, and other figures whose means are of interest."""
        total = {TOTAL_LOSS: values[self.context.loss]} if self.context.loss in values else {}
        return {**total, **values}

    def eval_metrics(self) -> dict[str, float]:
        """Evaluate the network and return its metrics by readable name."""
        return self.context.run_eval_graph().as_dict()

    def should_stop(self, record: EpochRecord) -> str | bool | None:
        """Tell after an epoch why training ends here, or None to go on; True and False do, too."""
        options = self.options
        rate, least = self.context.learning_rate(), options.least_learning_rate
        if least is not None and rate is not None and rate < least and not math.isclose(rate, least):
            return f'the learning rate {rate:g} is below {least:g}'
        if options.patience is not None and self._best.waited >= options.patience:
            return f'{options.monitor or "the loss"} has not become better for {self._best.waited} evaluations'
        limit = self.context.budget.seconds
        if limit is not None and self.seconds >= limit:
            return f'{self.seconds:.0f} of {limit:g} seconds are used'
        return None

    def fit(
        self, epochs: int, observer: Observer | None = None, *, epoch: int = 0, batch: int = 0, least: int = 0
    ) -> list[EpochRecord]:
        """Train up to an epoch.

        Args:
            epochs: number of epochs in all.
            observer: is told what happens.
            epoch: where to begin, in the midst of a job that goes on.
            batch: batches of that epoch that are done.
            least: do not stop early before so many epochs.

        Returns:
            :attr:`records`.

        Raises:
            ConfigError: there is nothing to train with.
            DataError: the reader fails or is empty, or a loss or metric is not finite.
        """
        self.context.epoch = epochs
        self._require(epochs)
        told = observer if observer is not None else Observer()
        try:
            for number in range(epoch, epochs):
                if self.stopped is not None:
                    break
                self._epoch(number, batch if number == epoch else 0, told, last=number + 1 == epochs, least=least)
        finally:
            if self._log is not None:
                self._log.close()
        return self.records

    def _require(self, epochs: int) -> None:
        context = self.context
        if not epochs:
            return
        if context.train_reader is None:
            raise ConfigError(f'{epochs} epochs are to be trained, and there is no train_reader')
        if epochs > 1 and context.train_reader.is_exhaustible():
            raise ConfigError('train_reader is a generator, which gives one epoch: give the function that makes it')
        if not context.is_trained():
            raise ConfigError('train_program has no optimizer: minimize its loss, or give train_optimizer')
        monitor, evaluated = self.options.monitor, self._evaluates() and self.options.eval_epoch
        if monitor is not None and not evaluated:
            raise ConfigError(f'{monitor!r} is to be monitored, and nothing evaluates the network')
        if monitor is not None and type(self).eval_metrics is Trainer.eval_metrics:
            context.require_metric(monitor)
        if monitor in (context.loss, TOTAL_LOSS) and self.options.mode == 'max':
            raise ConfigError(f"{monitor!r} is monitored, of which the least is best: give mode='min'")

    def _evaluates(self) -> bool:
        """Tell whether there is anything to evaluate by: of the context, or a hook of a subclass."""
        return self.context.evaluates() or type(self).eval_metrics is not Trainer.eval_metrics

    def _epoch(self, number: int, done: int, observer: Observer, *, last: bool, least: int) -> None:
        context = self.context
        context.epoch_id, context.batch_id = number, done
        started = time.monotonic()
        if not done:
            self._begin(observer)
        if not context.skip_training:
            self._train(done, observer)
        record = self._record(number)
        self._evaluate(record, last)
        record.learning_rate = context.learning_rate()
        step_after_epoch(self._schedule(), self.options, record, trained=not context.skip_training)
        record.seconds = time.monotonic() - started
        self.seconds += record.seconds
        self.records.append(record)
        known = {name: len(values) for name, values in context.eval_results.items()}
        observer.epoch_end()
        self._follow_evaluations(record, known)
        if not last and number + 1 >= least:
            said = self.should_stop(record)
            self.stopped = (said if isinstance(said, str) else 'should_stop() says so') if said else None
        if self._log is not None:
            self._log.write(self.records)
        observer.epoch_done()

    def _begin(self, observer: Observer) -> None:
        self.context.skip_training = False
        observer.epoch_begin()
        self._means = WeightedMeans()
        self._generators.remember()

    def _record(self, number: int) -> EpochRecord:
        """Return what training came to in the epoch that is done, and keep its means."""
        record = EpochRecord(number, self._means.means(self.context.ranks), samples=self._means.samples)
        check_finite(record.train, f'training of epoch {number}')
        append_metrics(self.context.train_results, record.train)
        return record

    def _train(self, done: int, observer: Observer) -> None:
        context = self.context
        reader = context.train_reader
        if reader is None:
            raise ConfigError('there is no train_reader')
        if type(self).train_values is Trainer.train_values and type(self).train_losses is Trainer.train_losses:
            context.loss_name()  # a missing loss is told before a step, where no hook gives another one
        reader.set_epoch(context.epoch_id)
        present = self._generators.go_back() if done else None
        own = reader.feeds(context.train_program, done, None if present is None else present.put_back)
        feeds = common_batches(own, context.ranks, reader.role, done)
        with progress_bar(context, reader.length(), done, self.options.progress) as bar:
            for index, feed in enumerate(feeds, done):
                context.batch_id = index
                loss = self._step(feed, observer)
                bar.update()
                if not bar.disable:
                    bar.set_postfix(loss=loss)

    def _step(self, feed: Feed, observer: Observer) -> float:
        """Train with one batch, and return its loss."""
        observer.batch_begin()
        losses = self.train_losses(self.train_values(feed), feed)
        loss = self._count(losses, feed)
        if not self.context.skip_training:
            step_after_batch(self._schedule(), self.options)
        observer.batch_end()
        observer.batch_done()
        return loss

    def _count(self, losses: Mapping[str, Any], feed: Feed) -> float:
        if TOTAL_LOSS not in losses:
            raise ConfigError(
                f'the losses of a batch are {list(losses)}: let train_fetch_list have {self.context.loss!r}, or '
                f'train_losses() return {TOTAL_LOSS!r}'
            )
        self._means.add(losses, batch_size_of(feed))
        loss = float(np.mean(losses[TOTAL_LOSS]))
        check_finite({TOTAL_LOSS: loss}, f'batch {self.context.batch_id + 1} of epoch {self.context.epoch_id}')
        return loss

    def _evaluate(self, record: EpochRecord, last: bool) -> None:
        """Evaluate where it is due, keep the metrics, and keep the model where it is the best."""
        context, every = self.context, self.options.eval_epoch
        due = every and (last or (record.epoch + 1) % every == 0)
        if due and self._evaluates():
            record.metrics = as_numbers(self.eval_metrics(), 'eval_metrics()')
            check_finite(record.metrics, f'evaluation of epoch {record.epoch}')
            append_metrics(context.eval_results, record.metrics)
            self._judge(record)
        elif self.options.monitor is None:
            self._judge(record)

    def _follow_evaluations(self, record: EpochRecord, known: Mapping[str, int]) -> None:
        """Let the record have what a strategy has found of the network that it leaves at the epoch's end."""
        found = {
            name: values[-1] for name, values in self.context.eval_results.items() if len(values) > known.get(name, 0)
        }
        if found:
            record.metrics = {**record.metrics, **found}
            self._judge(record)

    def _judge(self, record: EpochRecord) -> None:
        context, value = self.context, monitored_value(record, self.options)
        if value is None:
            return
        record.best = self._best.judge(value, context.generation)
        if record.best and self.options.best_path is not None:
            with shared_network(context.eval_program, context.scope, context.ranks):
                if context.ranks.rank == 0:
                    save_model(None, context.eval_program, self.options.best_path, scope=context.scope)

    def _schedule(self) -> Any:
        return getattr(self.context.train_program, 'lr_scheduler', None)

    def table(self) -> str:
        """Return all epochs as a table."""
        return format_table(self.records)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {
            'records': [record.as_dict() for record in self.records],
            'stopped': self.stopped,
            'seconds': self.seconds,
            'best': self._best.state_dict(),
            'means': self._means.state_dict(),
            'generators': self._generators.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.records = [EpochRecord.of(packed) for packed in state['records']]
        self.stopped, self.seconds = state['stopped'], float(state['seconds'])
        self._best.load_state_dict(state['best'])
        self._means = WeightedMeans()
        self._means.load_state_dict(state['means'])
        self._generators.load_state_dict(state['generators'])
