"""One training job that several compression strategies share."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.compress.budget import Budget
from paddleslim_ng.compress.checkpointing import JobCheckpoints, Position
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.evaluation import EvalFunction
from paddleslim_ng.compress.job import JobCallbacks
from paddleslim_ng.compress.optimizers import OptimizerLike
from paddleslim_ng.compress.preparation import prepare_programs, require_parameters
from paddleslim_ng.compress.result import CompressionResult
from paddleslim_ng.compress.rollback import remember_origin
from paddleslim_ng.compress.scope_before import ScopeBefore
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.compress.trainer import Trainer
from paddleslim_ng.compress.trainer_options import TrainerOptions
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.distributed import Ranks
from paddleslim_ng.errors import ConfigError

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration import CompressionConfig

__all__ = ['Compressor']

_LOG = logging.getLogger('paddleslim_ng')
TrainerFactory = Callable[[Context, TrainerOptions], Trainer]


class Compressor:
    """Trains a network while strategies prune, sparsify, distil and quantize it.

    The programs that are given stay as they are; the job works on copies. Their parameters in the scope, which the
    caller has initialized, are trained and cut.

    Args:
        place: device; the CPU where None.
        scope: parameters; Paddle's global scope where None.
        train_program: with its optimizer, or without one where ``train_optimizer`` is given.
        train_reader: a function that returns an iterator of batches, a ``paddle.io.DataLoader``, or a list of batches.
            Readers that shuffle by an ``epoch`` attribute or ``set_epoch`` are told the number of the epoch.
        train_feed_list: ``[(readable name, variable name)]`` of the inputs, in the order of a batch's arrays.
        train_fetch_list: the same of what is watched in training; the one called ``loss`` is minimized.
        eval_program: brought into test mode; a clone of ``train_program`` where None.
        eval_reader: evaluation data.
        eval_feed_list: as for training where None.
        eval_fetch_list: metrics; as for training where None.
        eval_func: ``{name: function(eval_program, scope) -> number or {name: number}}``, or one function; instead of
            ``eval_reader``, or beside it.
        teacher_programs: for distillation; the scope holds their parameters.
        checkpoint_path: folder for checkpoints, of which the job goes on after an interruption; none where None.
        train_optimizer: trains the network on its own loss: where ``train_program`` has no optimizer, and again when a
            distillation has ended. An optimizer, which is copied for each use, or a function that makes one.
        distiller_optimizer: minimizes the losses of distillation strategies while they act; ``train_optimizer`` where
            None.
        epoch: number of epochs; strategies with a later ``end_epoch`` make it more.
        init_model: folder of :func:`paddleslim_ng.prune.save_model`, from which the job starts: shapes and values.
        checkpoint_every: batches between two checkpoints within an epoch; epochs alone are saved where None.
        keep_checkpoints: how many are kept.
        options: what the trainer does beside training.
        trainer: a class or function ``(context, options)`` that makes the trainer.
        loss: readable name of what is minimized.
        budget: limits.
        cache_path: folder for samples of the evaluation data.
        seed: of the strategies' random numbers.
        clip: clip of gradients for the optimizers above, which the job puts in, where they have none of their own.
        amp: options of mixed precision for them.
        ranks: the job's processes; those of the launcher where None.

    Attributes:
        context: what strategies see.
        strategies: by name, in the order of their calls.

    Raises:
        ConfigError: an argument is unusable.
        GraphError: a program lacks a variable that is fed or fetched.

    Example:
        >>> compressor = slim.compress.Compressor(
        ...     place,
        ...     scope,
        ...     train_program,
        ...     train_reader,
        ...     [('image', 'image'), ('label', 'label')],
        ...     [('loss', loss)],
        ...     eval_program,
        ...     eval_reader,
        ...     eval_fetch_list=[('top1', accuracy)],
        ...     checkpoint_path='checkpoints',
        ...     epoch=10,
        ... )
        >>> compressor.add_strategy(UniformPruneStrategy(target_ratio=0.5))
        >>> result = compressor.run()
    """

    def __init__(
        self,
        place: Any = None,
        scope: Any = None,
        train_program: Any = None,
        train_reader: Any = None,
        train_feed_list: Sequence[Any] | None = None,
        train_fetch_list: Sequence[Any] | None = None,
        eval_program: Any = None,
        eval_reader: Any = None,
        eval_feed_list: Sequence[Any] | None = None,
        eval_fetch_list: Sequence[Any] | None = None,
        eval_func: EvalFunction | Mapping[str, EvalFunction] | None = None,
        teacher_programs: Sequence[Any] = (),
        checkpoint_path: str | Path | None = None,
        train_optimizer: OptimizerLike | None = None,
        distiller_optimizer: OptimizerLike | None = None,
        *,
        epoch: int = 0,
        init_model: str | Path | None = None,
        checkpoint_every: int | None = None,
        keep_checkpoints: int = 2,
        options: TrainerOptions | None = None,
        trainer: TrainerFactory = Trainer,
        loss: str = 'loss',
        budget: Budget | None = None,
        cache_path: str | Path | None = None,
        seed: int = 0,
        clip: Any = None,
        amp: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        for name, value, least in (('epoch', epoch, 0), ('checkpoint_every', checkpoint_every, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f'{name} is a whole number from {least}, not {value!r}')
        self.context = Context(
            place,
            scope,
            train_program,
            train_reader,
            train_feed_list,
            train_fetch_list,
            eval_program,
            eval_reader,
            eval_feed_list,
            eval_fetch_list,
            eval_func=eval_func,
            teacher_programs=teacher_programs,
            train_optimizer=train_optimizer,
            distiller_optimizer=distiller_optimizer,
            loss=loss,
            budget=budget,
            cache_path=cache_path,
            seed=seed,
            clip=clip,
            amp=amp,
            ranks=ranks,
        )
        if not callable(trainer):
            raise ConfigError(f'trainer is a class or function of (context, options), not {trainer!r}')
        if self.context.eval_reader is not None and self.context.eval_reader.is_exhaustible():
            raise ConfigError('eval_reader is a generator, which gives its batches once: give the function')
        self.strategies: dict[str, Strategy] = {}
        self.epoch, self.init_model = epoch, init_model
        self.checkpoint_path, self.checkpoint_every = checkpoint_path, checkpoint_every
        self.keep_checkpoints = keep_checkpoints
        self.options = options if options is not None else TrainerOptions()
        self._trainer_factory = trainer
        self._settings: dict[str, Any] = {}
        self._ran = False

    def add_strategy(self, strategy: Strategy, name: str | None = None) -> Strategy:
        """Add a strategy, which is called after those before it.

        Args:
            strategy: belongs to this job from now on.
            name: unique; made of its class where None and it has none.

        Returns:
            The strategy.

        Raises:
            ConfigError: the name is taken, it is no strategy, or the job has run.
        """
        if not isinstance(strategy, Strategy):
            raise ConfigError(f'a strategy is an instance of slim.compress.Strategy, not {strategy!r}')
        if self._ran:
            raise ConfigError('this job has run: make a new Compressor for further strategies')
        chosen = name or strategy.name or _unused(type(strategy).__name__, self.strategies)
        if chosen in self.strategies:
            raise ConfigError(f'there is a strategy {chosen!r} already')
        strategy.name = chosen
        self.strategies[chosen] = strategy
        return strategy

    def config(self, source: CompressionConfig | Mapping[str, Any] | str | Path) -> Compressor:
        """Add the strategies of a configuration, and take over its settings.

        What the section ``compressor`` says goes before the arguments of the constructor, but an optimizer that was
        given stays.

        Args:
            source: a YAML file, a mapping like one, or what :func:`~paddleslim_ng.compress.configuration.load_config`
                returned.

        Returns:
            The compressor.

        Raises:
            ConfigurationError: with file and line of each problem; nothing is changed then.
            ConfigError: a strategy's name is taken, or the file counts batches and the reader's length is not known.
        """
        from paddleslim_ng.compress.configuration import CompressionConfig, load_config
        from paddleslim_ng.compress.configured import apply_settings, batches_of_epoch
        from paddleslim_ng.compress.job_folder import job_record

        config = source if isinstance(source, CompressionConfig) else load_config(source, epochs=self.epoch)
        if config.saved_model is not None and config.saved_model.batches is not None:
            config = config.with_epochs(batches_of_epoch(self.context))
        strategies = config.create_strategies()
        taken = [strategy.name for strategy in strategies if strategy.name in self.strategies]
        if taken:
            raise ConfigError(f'there is a strategy {taken[0]!r} already')
        apply_settings(config.compressor, self)
        record = job_record(config)
        self._settings = {**record, 'plugins': {**self._settings.get('plugins', {}), **record['plugins']}}
        for strategy in strategies:
            self.add_strategy(strategy)
        return self

    def epochs(self) -> int:
        """Return the number of epochs: ``epoch``, or the last ``end_epoch`` of a strategy."""
        return max([self.epoch, *(strategy.end_epoch for strategy in self.strategies.values())])

    def run(self) -> CompressionResult:
        """Run the job, or go on with it where ``checkpoint_path`` holds a checkpoint of it.

        Everything that a strategy, reader or hook raises comes through; checkpoints stay. What fails before a batch has
        been read leaves the scope as it was. Paddle is in static mode meanwhile, and in that of the programs' IR.

        Raises:
            ConfigError: something is missing, or a job without checkpoints is run a second time.
            CheckpointError: the checkpoints belong to another job, or all are damaged.
            DataError: a reader fails or is empty, or a loss or metric is not finite.
            DistributedError: ranks differ.
        """
        self._require_new()
        with matching_ir(self.context.train_program):
            return self._run()

    def _require_new(self) -> None:
        """Raise where the job, or one of its strategies, has run, or has nothing to do."""
        if self._ran and self.checkpoint_path is None:
            raise ConfigError('this job has run, and without checkpoint_path there is nothing to go on from')
        if self._ran:
            raise ConfigError('this job has run: make a new Compressor to go on from its checkpoints')
        used = [strategy for strategy in self.strategies.values() if strategy.has_run]
        if used:
            raise ConfigError(f'{used[0]!r} has run in another job, and remembers what it did there: make a new one')
        if not self.epochs() and not self.strategies and self.init_model is None:
            raise ConfigError('there is nothing to do: give a number of epochs, or add strategies')

    def _run(self) -> CompressionResult:
        context, epochs = self.context, self.epochs()
        if epochs and not context.is_trained():
            context.loss_name()
        self._ran = True
        for strategy in self.strategies.values():
            strategy.has_run = True
        before = ScopeBefore(context)
        try:
            return self._run_from(before)
        except BaseException:
            before.put_back()
            raise

    def _run_from(self, before: ScopeBefore) -> CompressionResult:
        context, epochs = self.context, self.epochs()
        prepare_programs(context, epochs, self.init_model)
        context.epoch = epochs
        remember_origin(context, self.strategies)
        trainer = self._trainer_factory(context, self.options)
        if not isinstance(trainer, Trainer):
            raise ConfigError(f'trainer(context, options) returned {trainer!r}, which is no slim.compress.Trainer')
        checkpoints = self._checkpoints(trainer)
        position = checkpoints.restore() if checkpoints is not None else None
        job = JobCallbacks(
            context, list(self.strategies.values()), checkpoints, self.checkpoint_every, started=before.forget
        )
        self._train(trainer, job, position)
        return self._result(trainer)

    def _checkpoints(self, trainer: Trainer) -> JobCheckpoints | None:
        if self.checkpoint_path is None:
            return None
        return JobCheckpoints(
            self.checkpoint_path, self.context, self.strategies, trainer, self.keep_checkpoints, self._settings
        )

    def _train(self, trainer: Trainer, job: JobCallbacks, position: Position | None) -> None:
        """Train from where a checkpoint has been restored, or from the beginning."""
        context, epochs = self.context, self.epochs()
        start = position if position is not None else Position(0, 0)
        context.epoch, context.epoch_id, context.batch_id = epochs, start.epoch, start.batch
        if position is None:
            require_parameters(context)
            job.compression_begin()
        for strategy in self.strategies.values():
            if epochs and strategy.start_epoch >= epochs:
                _LOG.warning('%r never acts: the job has %d epochs', strategy, epochs)
        least = max([0, *(strategy.end_epoch for strategy in self.strategies.values())])
        trainer.fit(epochs, job, epoch=start.epoch, batch=start.batch, least=least)
        job.compression_end()

    def _result(self, trainer: Trainer) -> CompressionResult:
        context = self.context
        exceeded = context.budget.exceeded(context.eval_program, trainer.seconds)
        for said in exceeded:
            _LOG.warning('beyond the budget: %s', said)
        return CompressionResult(
            context.eval_program,
            context.train_program,
            context.scope,
            list(trainer.records),
            {name: values[-1] for name, values in context.eval_results.items()},
            next((record for record in reversed(trainer.records) if record.best), None),
            list(context.journal),
            trainer.stopped,
            exceeded,
        )


def _unused(stem: str, taken: Collection[str]) -> str:
    candidates = itertools.chain([stem], (f'{stem}_{number}' for number in itertools.count(2)))
    return next(name for name in candidates if name not in taken)
