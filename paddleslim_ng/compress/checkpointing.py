"""Checkpoints of a compression job: all that its next batch depends on, whatever became of its programs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy.typing as npt

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.job_folder import changes_between, plain_record
from paddleslim_ng.compress.job_tensors import beside, store_tensors
from paddleslim_ng.compress.journal import pack_journal, unpack_journal
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.compress.trainer import Trainer
from paddleslim_ng.core import has_array, load_array, store_array
from paddleslim_ng.distributed import Checkpoints
from paddleslim_ng.errors import CheckpointError
from paddleslim_ng.runtime.snapshot import Snapshot

__all__ = ['JobCheckpoints', 'Position']

_LOG = logging.getLogger('paddleslim_ng')
_JOB = 'job'


class Position(NamedTuple):
    """Where a job goes on.

    Attributes:
        epoch: the running epoch.
        batch: how many of its batches are done.
    """

    epoch: int
    batch: int


class _JobState:
    """What a job has beside the training program's tensors, its schedule and random generators."""

    def __init__(
        self, context: Context, strategies: Mapping[str, Strategy], trainer: Trainer, settings: Mapping[str, Any]
    ) -> None:
        self._context, self._strategies, self._trainer = context, strategies, trainer
        self.settings = plain_record(settings)
        # What strategies cut has the shapes of the checkpoint, from whatever network it came.
        self.first_shapes = {var.name(): list(var.shape()) for var in context.train_graph.all_parameters()}

    def state_dict(self) -> dict[str, Any]:
        return {
            'strategies': {name: _packed(strategy) for name, strategy in self._strategies.items()},
            'journal': pack_journal(self._context.journal),
            'first_shapes': self.first_shapes,
            'settings': self.settings,
            'context': self._context.state_dict(),
            'trainer': self._trainer.state_dict(),
            'beside': beside(self._context),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what belongs to the context and the trainer; strategies get theirs earlier."""
        self._context.load_state_dict(state['context'])
        self._trainer.load_state_dict(state['trainer'])


def _packed(strategy: Strategy) -> dict[str, Any]:
    return {'class': type(strategy).__qualname__, 'state': dict(strategy.state_dict())}


class JobCheckpoints:
    """Saves a job, and brings another process to where it was.

    Args:
        folder: for the files, see :class:`~paddleslim_ng.distributed.Checkpoints`.
        context: the job.
        strategies: by name.
        trainer: its loop.
        keep: number of checkpoints kept.
        settings: of configurations, see :func:`~paddleslim_ng.compress.job_record`; the log tells where a checkpoint
            was written with others.
    """

    def __init__(
        self,
        folder: str | Path,
        context: Context,
        strategies: Mapping[str, Strategy],
        trainer: Trainer,
        keep: int = 2,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._folder, self._context, self._strategies = Path(folder), context, strategies
        self._job = _JobState(context, strategies, trainer, settings)
        self._keep = keep
        self._serial = 0
        self._built: tuple[Any, int] | None = None
        self._checkpoints = self._build()

    def _build(self) -> Checkpoints:
        context = self._context
        self._built = (context.train_program, len(context.journal))
        return Checkpoints(
            self._folder,
            context.train_program,
            context.scope,
            states={_JOB: self._job},
            generators={'context': context.rng},
            keep=self._keep,
            ranks=context.ranks,
        )

    def save(self, position: Position) -> Path:
        """Write a checkpoint, atomically.

        Raises:
            ConfigError: a strategy's state or a kept value is no plain value.
            CheckpointError: the file cannot be written; older ones remain.
        """
        present = (self._context.train_program, len(self._context.journal))
        if self._built is None or self._built[0] is not present[0] or self._built[1] != present[1]:
            self._checkpoints = self._build()
        self._serial += 1
        try:
            return self._checkpoints.save(self._serial, position._asdict())
        except OSError as error:
            raise CheckpointError(
                f'the checkpoint after {position.batch} batches of epoch {position.epoch} cannot be written to '
                f'{self._folder}: {error}; the earlier ones are kept'
            ) from error

    def restore(self) -> Position | None:
        """Bring programs, scope, strategies, trainer and generators to the newest undamaged checkpoint.

        Returns:
            Where to go on, or None where there is none.

        Raises:
            CheckpointError: the checkpoint belongs to another job. Scope and programs are then as they were.
        """
        found = self._checkpoints.read()
        if found is None:
            return None
        self._check(found)
        self._tell_changes(found)
        context = self._context
        programs = (context.train_program, context.eval_program, context.train_fetch_list)
        former = self._former({**found.tensors, **found.state['states'][_JOB]['beside']})
        try:
            return self._restore(found)
        except BaseException:
            context.train_program, context.eval_program, context.train_fetch_list = programs
            for name, array in former.items():
                if array is not None:
                    store_array(context.scope, name, array, context.place)
                elif context.scope.find_var(name) is not None:
                    context.scope.erase([name])
            raise

    def _former(self, names: Mapping[str, Any]) -> dict[str, npt.NDArray[Any] | None]:
        scope = self._context.scope
        return {name: load_array(scope, name) if has_array(scope, name) else None for name in names}

    def _restore(self, found: Snapshot) -> Position:
        context, job = self._context, found.state['states'][_JOB]
        store_tensors(context, {**found.tensors, **job['beside']})
        for name, strategy in self._strategies.items():
            strategy.load_state_dict(job['strategies'][name]['state'])
        context.replay(unpack_journal(job['journal']), self._strategies)
        # A change that is made again may have left tensors in the shapes of its time.
        store_tensors(context, {**found.tensors, **job['beside']})
        self._checkpoints = self._build()
        restored = self._checkpoints.restore()
        if restored is None:
            raise CheckpointError(f'the checkpoint in {self._folder} vanished while it was read')
        store_tensors(context, job['beside'])
        self._serial = restored.step
        position = Position(int(restored.position['epoch']), int(restored.position['batch']))
        context.epoch_id, context.batch_id = position
        for strategy in self._strategies.values():
            strategy.on_restored(context)
        _LOG.info('going on from %s, epoch %d after %d batches', self._folder, position.epoch, position.batch)
        return position

    def _tell_changes(self, found: Snapshot) -> None:
        former, form = found.state['states'][_JOB]['settings'], '{key} was {former!r} and is {present!r}'
        changes = changes_between(former, self._job.settings, form)
        if changes:
            _LOG.warning(
                'the configuration has changed since the checkpoint in %s: %s. What was done before stays as it is',
                self._folder,
                changes,
            )

    def _check(self, found: Snapshot) -> None:
        """Raise where the checkpoint was written by a job with other strategies, or of another network."""
        job = found.state['states'].get(_JOB)
        if job is None:
            raise CheckpointError(f'{self._folder} holds checkpoints of something else than a compression job')
        saved = {name: packed['class'] for name, packed in job['strategies'].items()}
        present = {name: type(strategy).__qualname__ for name, strategy in self._strategies.items()}
        if saved != present:
            raise CheckpointError(
                f'the checkpoint in {self._folder} belongs to a job with the strategies {saved}, and this one has '
                f'{present}: give them all, or another checkpoint_path'
            )
        former, shapes = job['first_shapes'], self._job.first_shapes
        for name in {**former, **shapes}:
            if former.get(name) != shapes.get(name):
                raise CheckpointError(
                    f'the checkpoint in {self._folder} belongs to another network: parameter {name!r} had the shape '
                    f'{former.get(name)} before the job, and has {shapes.get(name)} now; give another checkpoint_path'
                )
