"""Checkpoints of a job: a file per rank and step, and the newest step that all ranks have."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.distributed.context import current_ranks
from paddleslim_ng.distributed.ranks import Ranks
from paddleslim_ng.distributed.training_state import Generator, Stateful, TrainingState
from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.runtime.snapshot import Snapshot, read_snapshot, write_snapshot

__all__ = ['Checkpoints', 'Restored']

_logger = logging.getLogger(__name__)
_FILE: Final = re.compile(r'step-(\d{10})\.rank-(\d+)-of-(\d+)\.npz')
_FORMAT: Final = 1
_OFFERS: Final = 8
# What a rank has written: nothing, the first checkpoint of a job, or a later one.
_NOTHING, _FIRST, _MORE = 0, 1, 2


class Restored(NamedTuple):
    """Where a job goes on.

    Attributes:
        step: number of finished steps.
        position: what was given as the position in the data.
        ranks: number of ranks that wrote the checkpoint.
    """

    step: int
    position: dict[str, Any]
    ranks: int


class _File(NamedTuple):
    step: int
    rank: int
    size: int

    @property
    def name(self) -> str:
        return f'step-{self.step:010d}.rank-{self.rank}-of-{self.size}.npz'


class Checkpoints:
    """Saves and restores everything that a step depends on, on one rank or many.

    Each rank writes a file of its own: parameters, optimizer, masks, learning rate and batch norm's statistics as they
    stand in the scope, the schedules and other objects that are given, the state of random generators, and the
    position in the data. A job that is killed at any moment goes on bit by bit as if it had not been.

    A job may go on with another number of ranks. What all ranks share is the same then; batch norm's statistics come
    from rank ``rank % former number``, and random generators are left as they are.

    Args:
        folder: for the files, made where it does not exist; on several machines a shared one, or one on each, which
            then keeps the number of ranks fixed.
        program: the training program.
        scope: its tensors; Paddle's global scope where None.
        states: objects with ``state_dict()`` and ``load_state_dict()``, by name: pruners, schedules, readers.
        generators: random generators, by name.
        global_generators: save those of Paddle, numpy and Python, too. Paddle 2 cannot tell the state of its own: each
            save seeds it anew.
        keep: number of steps whose files are kept.
        ranks: the job; that of :func:`~paddleslim_ng.distributed.init` where None.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> checkpoints = slim.distributed.Checkpoints('checkpoints', main_program, states={'pruner': pruner})
        >>> restored = checkpoints.restore()
        >>> for step in range(restored.step if restored else 0, steps):
        ...     exe.run(main_program, feed=batch_of(step))
        ...     if (step + 1) % 100 == 0:
        ...         checkpoints.save(step + 1)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        program: Any,
        scope: Any = None,
        *,
        states: Mapping[str, Stateful] | None = None,
        generators: Mapping[str, Generator] | None = None,
        global_generators: bool = True,
        keep: int = 2,
        ranks: Ranks | None = None,
    ) -> None:
        # A rank may be killed when others have saved already, so one step is not enough.
        if not 2 <= keep <= _OFFERS:
            raise ConfigError(f'keep={keep}; between 2 and {_OFFERS} steps can be kept')
        self._folder = Path(folder)
        self._ranks = current_ranks() if ranks is None else ranks
        self._keep = keep
        where = global_scope() if scope is None else scope
        self._training = TrainingState(program, where, states or {}, generators or {}, global_generators)

    def save(self, step: int, position: Mapping[str, Any] | None = None) -> Path:
        """Write this rank's file of a step and remove its older ones; every rank saves the same steps.

        Args:
            step: number of finished steps.
            position: where the data stand: epoch, batch, or what you need, as plain values.

        Returns:
            The file.

        Raises:
            OSError: the file cannot be written; older ones remain.
            ConfigError: a state or the position holds more than plain values and arrays.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors, state = self._training.collect()
        own = _File(step, self._ranks.rank, self._ranks.size)
        first = not any(file.rank == own.rank and file.step < step for file in self._files())
        about = {'format': _FORMAT, 'step': step, 'rank': own.rank, 'size': own.size, 'position': dict(position or {})}
        target = self._folder / own.name
        write_snapshot(target, tensors, {**about, 'first': first, **state})
        self._discard(own)
        return target

    def _discard(self, newest: _File) -> None:
        """Remove this rank's files beyond those to keep; files of later steps belong to a run that went astray."""
        own = sorted(file for file in self._files() if file.rank == newest.rank)
        for file in own:
            if file.step > newest.step:
                (self._folder / file.name).unlink(missing_ok=True)
        for file in [file for file in own if file.step <= newest.step][: -self._keep]:
            (self._folder / file.name).unlink(missing_ok=True)

    def _files(self) -> list[_File]:
        if not self._folder.is_dir():
            return []
        found = [_FILE.fullmatch(path.name) for path in self._folder.iterdir()]
        return [_File(int(match[1]), int(match[2]), int(match[3])) for match in found if match is not None]

    def restore(self) -> Restored | None:
        """Go back to the newest step that all ranks have undamaged; a collective call.

        Damaged and truncated files are passed over, with a warning in the log.

        Returns:
            Where to go on, or None where there is no checkpoint: the scope and all states are then untouched.

        Raises:
            CheckpointError: there are files, but no step that all ranks have; or they belong to another program.
        """
        found = self.read()
        if found is None:
            return None
        former = found.state['size']
        self._training.check(found.tensors, found.state)
        self._training.restore(found.tensors, found.state, generators=former == self._ranks.size)
        return Restored(found.state['step'], found.state['position'], former)

    def read(self) -> Snapshot | None:
        """Return the content that :meth:`restore` would go back to, and change nothing; a collective call.

        For jobs that have to remake the program from it before they restore.

        Returns:
            Tensors, and a state with ``step``, ``position``, ``size`` (ranks that wrote it) and ``states``; None where
            there is no checkpoint.

        Raises:
            CheckpointError: there are files, but no step that all ranks have.
        """
        self._sweep()
        offers = self._usable()
        step = self._agreed(list(offers))
        return read_snapshot(self._folder / offers[step].name) if step is not None else None

    def _sweep(self) -> None:
        """Remove what a killed process of this rank had not finished writing."""
        if self._folder.is_dir():
            for path in self._folder.glob(f'.step-*.rank-{self._ranks.rank}-of-*.tmp'):
                path.unlink(missing_ok=True)

    def _usable(self) -> dict[int, _File]:
        """Return, newest first, which file this rank can go on from, by step."""
        present = self._files()
        found: dict[int, _File] = {}
        for step, size in sorted({(file.step, file.size) for file in present}, reverse=True):
            if len(found) == _OFFERS or step in found:
                continue
            wanted = [self._ranks.rank] if size == self._ranks.size else list(range(size))
            files = [_File(step, rank, size) for rank in wanted]
            if all(file in present and self._is_sound(file) for file in files):
                found[step] = _File(step, self._ranks.rank % size, size)
        return found

    def _is_sound(self, file: _File) -> bool:
        try:
            found: Snapshot = read_snapshot(self._folder / file.name)
        except CheckpointError as error:
            _logger.warning('passing a checkpoint over: %s', error)
            return False
        said = (found.state.get('step'), found.state.get('rank'), found.state.get('size'))
        if found.state.get('format') != _FORMAT or said != tuple(file):
            _logger.warning('passing a checkpoint over: %s holds step, rank and size %s', file.name, said)
            return False
        return True

    def _agreed(self, steps: list[int]) -> int | None:
        """Return the newest step that all ranks offer."""
        table = self._ranks.gather([self._progress(), *steps, *[-1] * (_OFFERS - len(steps))])
        common = set(table[0, 1:].tolist()).intersection(*(row[1:].tolist() for row in table)) - {-1}
        if common:
            return int(max(common))
        if table[:, 0].max() == _FIRST and table[:, 0].min() == _NOTHING:
            _logger.warning('a job has ended in %s before all ranks had written: starting over', self._folder)
            return None
        if table[:, 0].any():
            raise CheckpointError(
                f'{self._folder} has checkpoints, but no undamaged step that all {self._ranks.size} ranks share; '
                f'the ranks have {[[s for s in row[1:].tolist() if s >= 0] for row in table]}. Remove the files to '
                'start over'
            )
        return None

    def _progress(self) -> int:
        """Tell how far this rank has come: nothing written, a first checkpoint that is sound, or more."""
        files = self._files()
        own = [file for file in files if (file.rank, file.size) == (self._ranks.rank, self._ranks.size)]
        if any(file.size != self._ranks.size for file in files) or len(own) > 1:
            return _MORE
        if not own:
            return _NOTHING
        try:
            first = read_snapshot(self._folder / own[0].name).state.get('first')
        except CheckpointError:
            return _MORE
        return _FIRST if first else _MORE
