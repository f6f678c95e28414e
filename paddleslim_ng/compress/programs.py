"""The programs of a compression job: what trains and evaluates now, and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paddleslim_ng.compress.journal import JournalEntry
from paddleslim_ng.compress.optimizers import (
    OptimizerLike,
    OptimizerSource,
    attach_optimizer,
    is_trained,
    optimizer_source,
)
from paddleslim_ng.compress.readers import named_variables
from paddleslim_ng.core import Executor, GraphWrapper, clone_program
from paddleslim_ng.core.cloning import forward_program
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.distributed import Ranks, current_ranks
from paddleslim_ng.errors import ConfigError, nearest_names

if TYPE_CHECKING:
    from paddleslim_ng.compress.strategy import Strategy

__all__ = ['JobPrograms', 'persistable_names', 'raw_program']


class JobPrograms:
    """The two programs of a job with what is fed and fetched, their optimizers, and the journal of their changes.

    Every change goes through :meth:`replace_programs`, which writes it down, or is made again while ``replayed`` is
    set. The arguments and attributes are those of :class:`~paddleslim_ng.compress.Context`.

    Raises:
        ConfigError: an argument is unusable.
        GraphError: a program lacks a variable that is fed or fetched.
    """

    def __init__(
        self,
        place: Any,
        scope: Any,
        train_program: Any,
        train_feed_list: Sequence[Any] | None,
        train_fetch_list: Sequence[Any] | None,
        eval_program: Any,
        eval_feed_list: Sequence[Any] | None,
        eval_fetch_list: Sequence[Any] | None,
        *,
        train_optimizer: OptimizerLike | None,
        distiller_optimizer: OptimizerLike | None,
        loss: str,
        clip: Any,
        amp: Mapping[str, Any] | None,
        ranks: Ranks | None,
    ) -> None:
        self.executor = Executor(place)
        self.place = self.executor.place
        self.scope = global_scope() if scope is None else scope
        self.ranks = current_ranks() if ranks is None else ranks
        self.loss = loss
        self.train_program = raw_program(train_program, 'train_program')
        self.train_feed_list = named_variables(train_feed_list or (), self.train_program, 'train_feed_list')
        self.train_fetch_list = named_variables(train_fetch_list or (), self.train_program, 'train_fetch_list')
        evaluated = self.train_program if eval_program is None else raw_program(eval_program, 'eval_program')
        # One that trains, or is in training mode, would learn from what it is evaluated with.
        self.eval_program: Any = clone_program(evaluated, for_test=True)
        feeds = self.train_feed_list if eval_feed_list is None else eval_feed_list
        fetches = self.train_fetch_list if eval_fetch_list is None else eval_fetch_list
        self.eval_feed_list = named_variables(feeds, self.eval_program, 'eval_feed_list')
        self.eval_fetch_list = named_variables(fetches, self.eval_program, 'eval_fetch_list')
        self.clip, self.amp = clip, amp
        self.train_optimizer = optimizer_source(train_optimizer, 'train_optimizer', clip, amp)
        self._distiller_optimizer = optimizer_source(distiller_optimizer, 'distiller_optimizer', clip, amp)
        self.epoch_id = 0
        self.journal: list[JournalEntry] = []
        self.generation = 0
        self.left_behind: set[str] = set()  # names of tensors of programs that others have replaced
        self.replayed: JournalEntry | None = None
        self._replays = 0

    @property
    def train_graph(self) -> GraphWrapper:
        """The training program as a graph; made anew each time."""
        return GraphWrapper(self.train_program)

    @property
    def eval_graph(self) -> GraphWrapper:
        """The evaluation program as a graph; made anew each time."""
        return GraphWrapper(self.eval_program)

    @property
    def distiller_optimizer(self) -> OptimizerSource | None:
        """What minimizes the losses of distillation strategies; ``train_optimizer`` where nothing else was given."""
        return self._distiller_optimizer if self._distiller_optimizer is not None else self.train_optimizer

    @distiller_optimizer.setter
    def distiller_optimizer(self, source: OptimizerSource | None) -> None:
        self._distiller_optimizer = source

    def has_distiller_optimizer(self) -> bool:
        """Tell whether distillation has an optimizer of its own."""
        return self._distiller_optimizer is not None

    def is_trained(self) -> bool:
        """Tell whether the training program has an optimizer."""
        return is_trained(self.train_program)

    def learning_rate(self) -> float | None:
        """Return the rate of the training program's schedule, or None where the rate is constant."""
        schedule = getattr(self.train_program, 'lr_scheduler', None)
        return float(schedule()) if schedule is not None else None

    def loss_name(self) -> str:
        """Return the variable that ``train_optimizer`` minimizes.

        Raises:
            ConfigError: nothing in ``train_fetch_list`` is called as :attr:`loss` says.
        """
        table = dict(self.train_fetch_list)
        if self.loss not in table:
            raise ConfigError(
                f'train_fetch_list has no {self.loss!r}, which the optimizer is to minimize; it has {list(table)}'
                f'{nearest_names(self.loss, table)}'
            )
        return table[self.loss]

    def forward_program(self) -> Any:
        """Return a copy of the training program without backward pass and optimizer, to build another one upon."""
        return forward_program(self.train_program)

    def minimize(
        self, program: Any, optimizer: OptimizerSource | OptimizerLike | None = None, loss: Any = None
    ) -> None:
        """Let a program without optimizer train; edits it in place and initializes the optimizer's state alone.

        Args:
            program: such as :meth:`forward_program` returns.
            optimizer: :attr:`train_optimizer` where None.
            loss: variable to minimize; the fetch called ``loss`` where None.

        Raises:
            ConfigError: there is no optimizer, or nothing is called ``loss``.
            GraphError: the program trains already.
            UnsupportedOpError: Paddle cannot build the optimizer on this IR.
        """
        given = optimizer if optimizer is not None else self.train_optimizer
        if given is None:
            raise ConfigError('a program is to be trained, and there is no train_optimizer')
        source = given if isinstance(given, OptimizerSource) else OptimizerSource(given, 'optimizer')
        name = self.loss_name() if loss is None else GraphWrapper(program).var(loss).name()
        # The same in every run of a job: strategies write one entry for each program that they rebuild.
        done = self._replays if self.replayed is not None else len(self.journal)
        attach_optimizer(program, name, source, self.executor, self.scope, f'compress{done}_', self.ranks)

    def replace_programs(
        self,
        by: Strategy,
        train_program: Any = None,
        eval_program: Any = None,
        *,
        train_fetch_list: Sequence[Any] | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """Put changed programs in the place of the present ones, and write it into the journal.

        A program that was edited in place is given as it is. Every change to a program goes through here, also in
        ``restore_from_checkpoint``.

        Args:
            by: the strategy that makes the change.
            train_program: a program with an optimizer; the present one stays where None.
            eval_program: the present one stays where None.
            train_fetch_list: what is watched in training from now on; as before where None.
            note: what the strategy will want to know to make the change again.

        Raises:
            GraphError: a program lacks what is fed or fetched; nothing is changed then.
        """
        train = self.train_program if train_program is None else raw_program(train_program, 'train_program')
        evaluated = self.eval_program if eval_program is None else raw_program(eval_program, 'eval_program')
        fetches = self.train_fetch_list if train_fetch_list is None else train_fetch_list
        watched = named_variables(fetches, train, 'train_fetch_list')
        named_variables(self.train_feed_list, train, 'train_feed_list')
        named_variables([*self.eval_feed_list, *self.eval_fetch_list], evaluated, 'the evaluation lists')
        self.left_behind.update(persistable_names(self.train_program, self.eval_program))
        self.train_program, self.eval_program, self.train_fetch_list = train, evaluated, watched
        if self.replayed is None:
            self.journal.append(JournalEntry(by.name, self.epoch_id, dict(note or {})))
            self.generation += 1


def persistable_names(*programs: Any) -> set[str]:
    """Return the names of everything in programs that outlasts a step."""
    graphs = [GraphWrapper(program) for program in programs]
    return {var.name() for graph in graphs for var in graph.vars() if var.is_parameter() or var.persistable()}


def raw_program(given: Any, role: str) -> Any:
    """Return a program that may be wrapped.

    Raises:
        ConfigError: there is none.
        GraphError: it is no program.
    """
    if given is None:
        raise ConfigError(f'{role} is missing')
    program = given.program if isinstance(given, GraphWrapper) else given
    GraphWrapper(program)
    return program
