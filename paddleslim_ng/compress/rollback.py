"""Going back to an earlier state of a job, where a change has cost too much."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.job_tensors import beside, record_names, store_tensors, tensor_names
from paddleslim_ng.compress.metric_history import append_metrics
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import clone_program, load_array
from paddleslim_ng.errors import ConfigError

__all__ = ['go_back', 'remember_origin', 'take_back', 'take_snapshot']

_LOG = logging.getLogger('paddleslim_ng')
_KEY = 'origin'


@dataclass(frozen=True)
class _Origin:
    """The programs before the first strategy changed them, and all strategies by name."""

    train_program: Any
    eval_program: Any
    train_fetch_list: Any
    strategies: Mapping[str, Strategy]


def remember_origin(context: Context, strategies: Mapping[str, Strategy]) -> None:
    """Keep copies of the programs as they are before any strategy acts; for the compressor.

    Args:
        context: the job.
        strategies: all of them, by name.
    """
    programs = (clone_program(context.train_program), clone_program(context.eval_program))
    context.put(_KEY, _Origin(*programs, list(context.train_fetch_list), strategies), keep=False)


def take_snapshot(context: Context, by: Strategy) -> dict[str, Any]:
    """Return what a job has to have to come back to its present state: plain values and arrays.

    Args:
        context: the job.
        by: the strategy that may go back; its own state is not part of it.
    """
    tensors = {name: load_array(context.scope, name) for name in tensor_names(context.train_program, context.scope)}
    return {
        'journal': len(context.journal),
        'tensors': {**tensors, **beside(context)},
        'states': {name: dict(one.state_dict()) for name, one in _origin(context).strategies.items() if one is not by},
    }


def take_back(context: Context, by: Strategy, snapshot: Mapping[str, Any], what: str, why: str) -> bool:
    """Take a change back that has cost too much, and evaluate the network that is there again.

    Args:
        context: the job.
        by: the strategy that made the change.
        snapshot: of :func:`take_snapshot`, from before it.
        what: what the change is called.
        why: what it has led to.

    Returns:
        Whether it was taken back; it stays where other strategies have changed the programs since.
    """
    others = go_back(context, by, snapshot)
    if others:
        _LOG.warning('%s, and the %s stays, because %s have changed the programs since', why, what, others)
        return False
    _LOG.info('%s: the %s is taken back', why, what)
    append_metrics(context.eval_results, context.run_eval_graph().as_dict())
    return True


def go_back(context: Context, by: Strategy, snapshot: Mapping[str, Any]) -> list[str]:
    """Bring programs, tensors and the other strategies back to a snapshot; the epoch and its schedule stay.

    The programs are made again from the first ones, as a job does that goes on from a checkpoint.

    Args:
        context: the job.
        by: the strategy that took the snapshot.
        snapshot: of :func:`take_snapshot`.

    Returns:
        The names of other strategies that have changed the programs since, and whose changes would be lost: nothing is
        done then.
    """
    origin = _origin(context)
    known = int(snapshot['journal'])
    others = sorted({entry.strategy for entry in context.journal[known:]} - {by.name})
    if others:
        return others
    schedule = getattr(context.train_program, 'lr_scheduler', None)
    position = dict(schedule.state_dict()) if schedule is not None else None
    epoch_id, tensors, states = context.epoch_id, snapshot['tensors'], snapshot['states']
    _forget(context, origin, tensors)
    store_tensors(context, tensors)
    context.train_program, context.eval_program = (
        clone_program(origin.train_program),
        clone_program(origin.eval_program),
    )
    context.train_fetch_list = list(origin.train_fetch_list)
    rest = {name: one for name, one in origin.strategies.items() if one is not by}
    for name, one in rest.items():
        one.load_state_dict(states[name])
    context.replay(context.journal[:known], origin.strategies)
    context.epoch_id = epoch_id
    store_tensors(context, tensors)
    for one in rest.values():
        one.on_restored(context)
    present = getattr(context.train_program, 'lr_scheduler', None)
    if present is not None and position is not None:
        present.set_state_dict(position)
    context.generation += 1
    return []


def _origin(context: Context) -> _Origin:
    found = context.get(_KEY)
    if not isinstance(found, _Origin):
        raise ConfigError('only strategies of a Compressor can go back: nothing remembers the first programs')
    return found


def _forget(context: Context, origin: _Origin, tensors: Mapping[str, Any]) -> None:
    """Remove what the snapshot does not have: records of later cuts, and optimizer state of other shapes."""
    programs = (context.train_program, origin.train_program)
    names = {name for program in programs for name in tensor_names(program, context.scope)}
    names.update(record_names(context))
    context.scope.erase([name for name in names.difference(tensors) if context.scope.find_var(name) is not None])
