"""Training by what teachers compute, for a time, with an optimizer of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import paddle

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.plugins import Distiller
from paddleslim_ng.compress.readers import Names
from paddleslim_ng.compress.rebuilding import float_forward
from paddleslim_ng.compress.shared_network import shared_network
from paddleslim_ng.compress.strategies.teachers import (
    load_teacher,
    merge_teacher,
    plain_network,
    programs_of,
    state_names,
    unused_prefix,
)
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.dist import MergedTeacher, combine, strip
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime import InferenceModel

__all__ = ['DistillationStrategy']

_LOG = logging.getLogger('paddleslim_ng')
_KEEP, _MERGE, _STRIP = 'keep', 'merge', 'strip'
_BUSY = 'distillation'


class DistillationStrategy(Strategy):
    """Lets teachers train the network from ``start_epoch`` on, and the network's own loss alone from ``end_epoch`` on.

    Before its first epoch the training program is built anew: its forward part with the teachers merged into it, the
    losses of the distillers, the network's own loss, and ``distiller_optimizer`` (``train_optimizer`` where the job has
    none). Before ``end_epoch`` the teachers leave, and ``train_optimizer`` trains. Teachers stay as they are, bit for
    bit, and what they know leaves the scope with them. Masks and quantizers of other strategies are put in again by
    those.

    While it acts, the sum is what is watched as ``loss``, and beside it ``task_loss`` and the loss of each distiller,
    ``distillation_1``, ...

    Args:
        distillers: losses between teachers and the network, added up by their weights.
        start_epoch: see :class:`~paddleslim_ng.compress.Strategy`.
        end_epoch: see there.
        teacher: ``'programs'``, the ``teacher_programs`` of the Compressor; ``'original'``, a copy of the network as
            it was before compression; or saved inference models, one or a list: paths without suffix, loaded models,
            or what has ``model_dir``, ``model_filename`` and ``params_filename``.
        task_weight: weight of the network's own loss; 0 leaves it out.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> strategy = DistillationStrategy([SoftLabelDistiller()], 1, 9, teacher='original')
        >>> compressor.add_strategy(strategy)
    """

    def __init__(
        self,
        distillers: Sequence[Distiller],
        start_epoch: int = 0,
        end_epoch: int = 0,
        teacher: Any = 'programs',
        task_weight: float = 1.0,
    ) -> None:
        super().__init__(start_epoch, end_epoch)
        self.distillers = list(distillers)
        if not self.distillers:
            raise ConfigError('distillers is empty: there is nothing to learn from a teacher')
        for one in self.distillers:
            if not isinstance(one, Distiller):
                raise ConfigError(f'a distiller is an instance of slim.compress.Distiller, not {one!r}')
        if isinstance(task_weight, bool) or not isinstance(task_weight, (int, float)) or not task_weight >= 0:
            raise ConfigError(f'task_weight is a number of at least 0, not {task_weight!r}')
        if isinstance(teacher, (list, tuple)) and not isinstance(teacher, InferenceModel) and not teacher:
            raise ConfigError('teacher names no model')
        self.teacher, self.task_weight = teacher, float(task_weight)
        self._original: InferenceModel | None = None
        self._prefixes: list[str] = []
        self._own: Names = []
        self._merged = self._done = False

    def on_compression_begin(self, context: Context) -> None:
        """Keep the network as it is where it is to be the teacher, and check what will be needed."""
        if not context.epoch:
            _LOG.warning('%s does nothing: the job has no epochs', self.name)
            return
        if context.distiller_optimizer is None:
            raise ConfigError(f'{self.name} needs distiller_optimizer or train_optimizer')
        if 0 < self.end_epoch < context.epoch and context.train_optimizer is None:
            raise ConfigError(
                f'{self.name} ends before epoch {self.end_epoch} of {context.epoch}: give train_optimizer, which '
                'trains from there on'
            )
        if 0 < self.end_epoch < context.epoch:
            context.loss_name()
        if isinstance(self.teacher, str) and self.teacher == 'original':
            self._keep(context)
        self._teachers(context)

    def _keep(self, context: Context) -> None:
        program, scope = plain_network(context.train_program), paddle.static.Scope()
        if context.replayed is None:
            with shared_network(program, context.scope, context.ranks):
                for name in state_names(program):
                    if has_array(context.scope, name):
                        store_array(scope, name, load_array(context.scope, name), context.place)
        elif self._original is not None:
            scope = self._original.scope
        self._original = InferenceModel(program, [], [], scope)
        context.replace_programs(self, note={'what': _KEEP})

    def on_epoch_begin(self, context: Context) -> None:
        """Let the teachers come before the first epoch of this strategy, and go before the first one after it."""
        active = self.is_active(context.epoch_id)
        if self._merged and not active:
            self._end(context, train=True)
        elif active and not self._merged and not self._done:
            self._begin(context)

    def _teachers(self, context: Context) -> list[InferenceModel]:
        """Return the teachers, as many as the distillers compare with."""
        found = self._found_teachers(context)
        for one in self.distillers:
            if not 0 <= one.teacher < len(found):
                raise ConfigError(f'a distiller compares with teacher {one.teacher}, and there are {len(found)}')
        return found

    def _found_teachers(self, context: Context) -> list[InferenceModel]:
        if isinstance(self.teacher, str) and self.teacher == 'programs':
            return programs_of(context)
        if isinstance(self.teacher, str) and self.teacher == 'original':
            if self._original is None:
                raise ConfigError(f'{self.name} has no copy of the original network: it joined the job too late')
            return [self._original]
        several = isinstance(self.teacher, (list, tuple)) and not isinstance(self.teacher, InferenceModel)
        return [load_teacher(one, context.place) for one in (self.teacher if several else [self.teacher])]

    def _begin(self, context: Context) -> None:
        again = context.replayed is not None
        other = context.get(_BUSY) if not again else None
        if other:
            raise ConfigError(f'{self.name} begins while {other} trains by teachers: let one end before the other')
        teachers = self._teachers(context)
        program = float_forward(context.train_program)
        merged: list[MergedTeacher] = []
        for number, teacher in enumerate(teachers):
            stem = 'teacher' if len(teachers) == 1 else f'teacher{number}'
            prefix = unused_prefix(program, stem)
            merged.append(merge_teacher(teacher, program, prefix, context, again=again))
        self._own = list(context.train_fetch_list)
        self._prefixes = [one.prefix for one in merged]
        fetches, total = self._losses(context, program, merged)
        context.minimize(program, context.distiller_optimizer, total)
        self._merged = True
        if not again:
            context.put(_BUSY, self.name)
        context.replace_programs(self, program, train_fetch_list=fetches, note={'what': _MERGE})
        _LOG.info('%s: the network learns from its teachers (%d)', self.name, len(merged))

    def _losses(self, context: Context, program: Any, merged: Sequence[MergedTeacher]) -> tuple[Names, str]:
        """Build the sum of losses; return what is watched, and the name of the sum."""
        name_of, watched = GraphWrapper.name_of, dict(context.train_fetch_list)
        startup = paddle.static.Program()
        terms: list[tuple[Any, float]] = []
        rest = {label: name for label, name in watched.items() if label != context.loss}
        if watched and self.task_weight:
            task = context.loss_name()
            rest['task_loss'] = task
            terms.append((task, self.task_weight))
        with matching_ir(program), paddle.static.program_guard(program, startup):
            for number, one in enumerate(self.distillers, 1):
                loss = name_of(one.loss(program, merged[one.teacher], startup))
                rest[f'distillation_{number}'] = loss
                terms.append((loss, one.weight))
            total = name_of(combine(terms, program, startup)[0])
        context.executor.run(startup, scope=context.scope)
        return [(context.loss, total), *rest.items()], total

    def on_compression_end(self, context: Context) -> None:
        """Let the teachers go where they are still there."""
        if self._merged:
            self._end(context, train=False)

    def _end(self, context: Context, *, train: bool) -> None:
        merged = context.train_program
        program = merged
        for prefix in self._prefixes:
            program = strip(program, prefix)
        program = float_forward(program)
        if train:
            context.minimize(program, loss=dict(self._own).get(context.loss))
        note = {'what': _STRIP, 'train': train}
        context.replace_programs(self, program, train_fetch_list=self._own, note=note)
        _forget(context, merged, self._prefixes)
        self._merged, self._done = False, True
        self._original = None
        if context.replayed is None:
            context.put(_BUSY, '')
        _LOG.info('%s: the teachers have gone', self.name)

    def state_dict(self) -> Mapping[str, Any]:
        """Return whether teachers are there, and the original network, since checkpoints leave teachers out."""
        kept = self._original
        arrays = {}
        if kept is not None:
            names = [name for name in state_names(kept.program) if has_array(kept.scope, name)]
            arrays = {name: load_array(kept.scope, name) for name in names}
        return {'merged': self._merged, 'done': self._done, 'original': arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the replay tells of the rest."""
        self._merged, self._done = bool(state['merged']), bool(state['done'])
        scope = paddle.static.Scope()
        for name, array in state['original'].items():
            store_array(scope, name, array)
        self._original = InferenceModel(None, [], [], scope)

    def restore_from_checkpoint(self, context: Context) -> None:
        """Let teachers come, or go, again."""
        if context.replayed is None:
            return
        merged, done = self._merged, self._done
        what = context.replayed.note['what']
        if what == _KEEP:
            self._keep(context)
        elif what == _MERGE:
            self._begin(context)
        else:
            self._end(context, train=bool(context.replayed.note['train']))
        self._merged, self._done = merged, done


def _forget(context: Context, merged: Any, prefixes: Sequence[str]) -> None:
    """Erase what teachers, and adapters of losses, have in the scope."""
    stay = set(state_names(context.train_program)) | set(state_names(context.eval_program))
    parameters = {var.name() for var in GraphWrapper(merged).all_parameters()}
    gone = [
        name
        for name in state_names(merged)
        if name not in stay and (name in parameters or name.startswith(tuple(prefixes)))
    ]
    context.scope.erase([name for name in gone if context.scope.find_var(name) is not None])
