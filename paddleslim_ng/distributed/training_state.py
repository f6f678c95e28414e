"""Everything that a step of training depends on, taken out of a process and put back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any, Protocol, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, is_pir_program, load_array, shape_of, store_array, view_array
from paddleslim_ng.core.paddle_compat import generator_state, legacy_state, pir_state, set_generator_state
from paddleslim_ng.core.teachers import teacher_variables
from paddleslim_ng.errors import CheckpointError, ConfigError

__all__ = ['Generator', 'Stateful', 'TrainingState']

Generator = Union[np.random.Generator, np.random.RandomState, random.Random]
Tensors = dict[str, npt.NDArray[Any]]


class Stateful(Protocol):
    """An object with a state of its own: a pruner, a schedule, a reader."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state as plain values and arrays."""

    def load_state_dict(self, state: Any) -> Any:
        """Take a state over."""


class TrainingState:
    """A training program, its scope, and whatever else a step depends on.

    A merged teacher does not change, and merging puts it into the scope before a job can go on: of its tensors, digests
    are kept alone.

    Args:
        program: whose persistable tensors are the state: parameters, statistics, optimizer, masks, learning rate.
        scope: holds them.
        states: objects with ``state_dict`` and ``load_state_dict`` (or ``set_state_dict``), by names of your choice.
        generators: numpy's or Python's random generators, by names of your choice.
        global_generators: those of Paddle (CPU), numpy and Python, too.

    Raises:
        ConfigError: an object has no ``state_dict``, or a generator is of an unknown kind.
    """

    def __init__(
        self,
        program: Any,
        scope: Any,
        states: Mapping[str, Any],
        generators: Mapping[str, Generator],
        global_generators: bool = True,
    ) -> None:
        for name, item in states.items():
            if not hasattr(item, 'state_dict') or _loader(item) is None:
                raise ConfigError(f'states[{name!r}], a {type(item).__name__}, lacks state_dict() or load_state_dict()')
        for name, generator in generators.items():
            if not isinstance(generator, (np.random.Generator, np.random.RandomState, random.Random)):
                raise ConfigError(f'generators[{name!r}] is a {type(generator).__name__}, no random generator')
        self._program, self._scope = program, scope
        self._states, self._generators = dict(states), dict(generators)
        self._global = global_generators
        self._scheduler = getattr(program, 'lr_scheduler', None)
        self._teachers: dict[str, str] | None = None

    def names(self) -> list[str]:
        """Return the names of the persistable tensors, without those of merged teachers."""
        program = self._program
        found = pir_state(program) if is_pir_program(program) else legacy_state(program)
        teachers = {name for names in _teacher_names(program).values() for name in names}
        return [name for name in dict.fromkeys(found) if name not in teachers]

    def collect(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the tensors, and everything else as plain values and arrays.

        Raises:
            GraphError: a tensor is not initialized.
        """
        tensors = {name: load_array(self._scope, name) for name in self.names()}
        if self._teachers is None:
            self._teachers = self._digests()
        return tensors, {
            'teachers': dict(self._teachers),
            'states': {name: dict(item.state_dict()) for name, item in self._states.items()},
            'scheduler': dict(self._scheduler.state_dict()) if self._scheduler is not None else None,
            'generators': {name: _read(generator) for name, generator in self._generators.items()},
            'global_generators': _read_globals() if self._global else None,
        }

    def _digests(self) -> dict[str, str]:
        """Return a digest of each merged teacher's tensors, by its prefix."""
        found = {}
        for prefix, names in _teacher_names(self._program).items():
            made = hashlib.blake2b(digest_size=16)
            for name in names:
                array = view_array(self._scope, name)
                made.update(f'{name} {array.dtype} {array.shape} '.encode())
                made.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            found[prefix] = made.hexdigest()
        return found

    def check(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Make sure that a saved state fits, before anything is changed.

        Raises:
            CheckpointError: it belongs to another program, to other objects, or to another teacher.
        """
        names = self.names()
        missing = [name for name in names if name not in tensors]
        extra = [name for name in tensors if name not in set(names)]
        if missing or extra:
            raise CheckpointError(
                f'the checkpoint belongs to another program: it lacks {missing[:3]} and has {extra[:3]} besides'
            )
        for name in names:
            present = shape_of(self._scope, name)
            if present != tensors[name].shape:
                raise CheckpointError(
                    f'{name!r} is {list(tensors[name].shape)} in the checkpoint, {list(present)} here'
                )
        self._check_teachers(state.get('teachers', {}))
        for kind, own in (('states', self._states), ('generators', self._generators)):
            if set(state[kind]) != set(own):
                raise CheckpointError(f'the checkpoint has the {kind} {sorted(state[kind])}, this job {sorted(own)}')
        if (state['scheduler'] is None) != (self._scheduler is None):
            raise CheckpointError('the checkpoint and this job do not both have a learning rate scheduler')

    def _check_teachers(self, saved: Mapping[str, str]) -> None:
        present = self._digests()
        if set(saved) != set(present):
            raise CheckpointError(
                f'the checkpoint was trained with the merged teachers {sorted(saved)}, this job has {sorted(present)}'
            )
        other = [prefix for prefix, digest in saved.items() if digest != present[prefix]]
        if other:
            raise CheckpointError(
                f'the merged teacher {other[0]!r} has other parameters than the one that the checkpoint was trained '
                'with: load that one and merge it before restoring'
            )

    def restore(self, tensors: Tensors, state: Mapping[str, Any], *, generators: bool = True) -> None:
        """Put a saved state back, after :meth:`check`.

        Args:
            tensors: as collected.
            state: as collected.
            generators: restore random generators, too; they belong to one rank.
        """
        for name in self.names():
            store_array(self._scope, name, tensors[name])
        for name, item in self._states.items():
            loader = _loader(item)
            if loader is not None:
                loader(state['states'][name])
        if self._scheduler is not None:
            self._scheduler.set_state_dict(state['scheduler'])
        if generators:
            for name, generator in self._generators.items():
                _write(generator, state['generators'][name])
            if self._global and state['global_generators'] is not None:
                _write_globals(state['global_generators'])


def _teacher_names(program: Any) -> dict[str, list[str]]:
    """Return the names of the tensors of merged teachers, by prefix."""
    found = teacher_variables(GraphWrapper(program))
    return {prefix: sorted(var.name() for var in variables) for prefix, variables in found.items()}


def _loader(item: Any) -> Any:
    return getattr(item, 'load_state_dict', None) or getattr(item, 'set_state_dict', None)


def _read(generator: Generator) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def _write(generator: Generator, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        version, numbers, gauss = state
        generator.setstate((version, tuple(numbers), gauss))


def _read_globals() -> dict[str, Any]:
    return {
        'paddle': generator_state(),
        'numpy': np.random.get_state(legacy=False),  # noqa: NPY002  # the user's, to be restored as it was
        'python': random.getstate(),
    }


def _write_globals(state: Mapping[str, Any]) -> None:
    try:
        set_generator_state(state['paddle'])
    except ValueError as error:
        raise CheckpointError(f'{error}; pass global_generators=False to go without') from error
    np.random.set_state(state['numpy'])  # noqa: NPY002
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
