"""What strategies may see and do: programs, readers, metrics, random numbers; never the compressor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleslim_ng.compress.budget import Budget
from paddleslim_ng.compress.evaluation import EvalFunction, EvalResult, call_functions, mean_metrics, named_functions
from paddleslim_ng.compress.journal import JournalEntry
from paddleslim_ng.compress.metric_history import CONVERGENCE, has_converged, metric_history
from paddleslim_ng.compress.optimizers import OptimizerLike
from paddleslim_ng.compress.programs import JobPrograms, raw_program
from paddleslim_ng.compress.readers import Reader
from paddleslim_ng.compress.samples import Samples
from paddleslim_ng.compress.shared_network import shared_network
from paddleslim_ng.distributed import Ranks
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names

if TYPE_CHECKING:
    from paddleslim_ng.compress.strategy import Strategy

__all__ = ['Context']


class Context(JobPrograms):
    """The state of a compression job, as strategies see it.

    Args:
        place: device; the CPU where None.
        scope: parameters, which the caller has initialized; Paddle's global scope where None.
        train_program: with an optimizer, or without one where ``train_optimizer`` is given.
        train_reader: training data, see :class:`~paddleslim_ng.compress.readers.Reader`.
        train_feed_list: ``[(readable name, variable name)]`` of the inputs; names, Variables and Values alone do, too.
        train_fetch_list: the same of what is watched in training; the one called ``loss`` is minimized.
        eval_program: evaluated, in test mode; a clone of the training program where None.
        eval_reader: evaluation data; none where functions evaluate.
        eval_feed_list: inputs of the evaluation program; as for training where None.
        eval_fetch_list: metrics of the evaluation program; as for training where None.
        eval_func: ``{name: function(eval_program, scope) -> number or {name: number}}``, or one function.
        teacher_programs: programs of teachers, whose parameters the scope holds.
        train_optimizer: trains the network wherever no strategy has a loss of its own: where ``train_program`` comes
            without optimizer, and after a distillation has ended. An optimizer, or a function that makes one.
        distiller_optimizer: minimizes the losses of distillation strategies; ``train_optimizer`` where None.
        loss: readable name of what ``train_optimizer`` minimizes.
        budget: limits.
        cache_path: folder for the samples of :meth:`run_eval_graph`; in memory where None.
        seed: of :attr:`rng`.
        clip: clip of gradients, for optimizers that have none.
        amp: options of mixed precision, see :class:`~paddleslim_ng.compress.optimizers.OptimizerSource`.
        ranks: the job's processes; those of the launcher where None.

    Attributes:
        train_program: the program that is trained now, with its optimizer.
        eval_program: the program that is evaluated now.
        epoch: number of epochs of the job.
        epoch_id: the running epoch, from 0.
        batch_id: the running batch of it, from 0.
        eval_results: metrics by name, a value for each evaluation.
        train_results: what was watched in training, by name, a mean for each epoch.
        skip_training: set by a strategy to leave out the batches of the running epoch.
        journal: changes to the programs so far.
        generation: counts these changes, and what else makes metrics incomparable with earlier ones: a strategy that
            changes the network without changing programs adds 1, and the best model is looked for anew.
        replayed: in ``restore_from_checkpoint``, the entry to make again.
        rng: random numbers for strategies; its state is in the checkpoints.

    Raises:
        ConfigError: an argument is unusable.
        GraphError: a program lacks a variable that is fed or fetched.
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
        *,
        eval_func: EvalFunction | Mapping[str, EvalFunction] | None = None,
        teacher_programs: Sequence[Any] = (),
        train_optimizer: OptimizerLike | None = None,
        distiller_optimizer: OptimizerLike | None = None,
        loss: str = 'loss',
        budget: Budget | None = None,
        cache_path: str | Path | None = None,
        seed: int = 0,
        clip: Any = None,
        amp: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(
            place,
            scope,
            train_program,
            train_feed_list,
            train_fetch_list,
            eval_program,
            eval_feed_list,
            eval_fetch_list,
            train_optimizer=train_optimizer,
            distiller_optimizer=distiller_optimizer,
            loss=loss,
            clip=clip,
            amp=amp,
            ranks=ranks,
        )
        self.train_reader = (
            Reader(train_reader, self.train_feed_list, 'train_reader') if train_reader is not None else None
        )
        self.eval_reader = Reader(eval_reader, self.eval_feed_list, 'eval_reader') if eval_reader is not None else None
        if self.eval_reader is not None and not self.eval_fetch_list:
            raise ConfigError('eval_fetch_list is empty: there is nothing to evaluate eval_reader by')
        self.eval_func: dict[str, EvalFunction] = named_functions(eval_func)
        self.teacher_programs = [raw_program(item, 'teacher_programs') for item in teacher_programs]
        self.budget = budget if budget is not None else Budget()
        self.rng = np.random.default_rng(seed)
        self.epoch, self.batch_id = 0, 0
        self.skip_training = False
        self.eval_results: dict[str, list[float]] = {}
        self.train_results: dict[str, list[float]] = {}
        self._kept: dict[str, Any] = {}
        self._passing: dict[str, Any] = {}
        self.keep_samples(cache_path)

    def keep_samples(self, folder: str | Path | None) -> None:
        """Keep samples of the evaluation data in a folder, or in memory where None."""
        owner = f'.rank-{self.ranks.rank}-of-{self.ranks.size}' if self.ranks.size > 1 else ''
        self._samples = Samples(Path(folder) if folder is not None else None, owner)

    def put(self, key: str, value: Any, *, keep: bool = True) -> None:
        """Leave a value for other strategies or later epochs.

        Args:
            key: its name.
            value: plain values and arrays where ``keep``, anything else otherwise.
            keep: let checkpoints hold it.
        """
        for table in (self._kept, self._passing):
            table.pop(key, None)
        (self._kept if keep else self._passing)[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return what :meth:`put` left under a key, or ``default``."""
        return self._kept.get(key, self._passing.get(key, default))

    def run_eval_graph(self, sampled_rate: float | None = None, cached_id: int = 0) -> EvalResult:
        """Evaluate the present evaluation program; on several ranks, a collective call.

        Metrics of the reader are means weighted by the sizes of the batches. With functions alone there is nothing to
        sample, and they evaluate as they always do.

        Args:
            sampled_rate: share of the batches of ``eval_reader`` to use; all where None.
            cached_id: calls with the same number use the same sample.

        Returns:
            ``(results, names)``, also of bad networks: a metric may be NaN.

        Raises:
            ConfigError: there is neither a reader nor a function, or an argument is unusable.
            DataError: the reader fails or is empty.
        """
        self._require_evaluation()
        with shared_network(self.eval_program, self.scope, self.ranks):
            found = self._evaluate(sampled_rate, cached_id)
        return EvalResult(list(found.values()), list(found))

    def _require_evaluation(self) -> None:
        if not self.evaluates():
            raise ConfigError('nothing evaluates the network: give eval_reader with eval_fetch_list, or eval_func')

    def require_metric(self, name: str) -> None:
        """Tell before a job trains where an evaluation cannot find a metric that will be wanted later.

        What functions call their metrics is not known before they are called.

        Raises:
            ConfigError: nothing evaluates the network, or nothing is called so.
        """
        self._require_evaluation()
        known = [label for label, _ in self.eval_fetch_list] if self.eval_reader is not None else []
        if name not in known and not self.eval_func:
            raise ConfigError(f'there is no metric {name!r}; there are {known}{nearest_names(name, known)}')

    def _evaluate(self, sampled_rate: float | None, cached_id: int) -> dict[str, float]:
        found: dict[str, float] = {}
        program, reader = self.eval_program, self.eval_reader
        if reader is not None:
            if sampled_rate is None:
                reader.set_epoch(0)
                feeds = reader.feeds(program)
            else:
                feeds = self._samples.feeds(reader, program, sampled_rate, cached_id)
            found = mean_metrics(self.executor, program, self.scope, feeds, self.eval_fetch_list, self.ranks)
        return {**found, **call_functions(self.eval_func, program, self.scope, self.ranks)}

    def metric(self, name: str) -> float:
        """Return the newest value of a metric.

        Raises:
            ConfigError: no evaluation has found a metric of that name.
        """
        return metric_history(self.eval_results, name)[-1]

    def eval_converged(self, metric_name: str, delta: float = CONVERGENCE) -> bool:
        """Tell whether a metric changed by less than ``delta``, relatively, between the last two evaluations.

        Raises:
            ConfigError: there is no metric of that name.
            DataError: the metric is not finite, or was 0, from which no relative change can be told.
        """
        return has_converged(self.eval_results, metric_name, delta)

    def evaluates(self) -> bool:
        """Tell whether there is a reader or a function to evaluate by."""
        return self.eval_reader is not None or bool(self.eval_func)

    def replay(self, entries: Sequence[JournalEntry], strategies: Mapping[str, Strategy]) -> None:
        """Make the changes of a journal again; for the compressor.

        Raises:
            GraphError: an entry belongs to a strategy that the job does not have.
        """
        unknown = sorted({entry.strategy for entry in entries} - set(strategies))
        if unknown:
            raise GraphError(f'the journal names the strategies {unknown}, which this job does not have')
        self.journal = list(entries)
        try:
            for index, entry in enumerate(entries):
                self.replayed, self._replays, self.epoch_id = entry, index, entry.epoch_id
                strategies[entry.strategy].restore_from_checkpoint(self)
        finally:
            self.replayed, self._replays = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what checkpoints keep of the context itself."""
        return {
            'eval_results': {name: list(values) for name, values in self.eval_results.items()},
            'train_results': {name: list(values) for name, values in self.train_results.items()},
            'skip_training': self.skip_training,
            'generation': self.generation,
            'kept': dict(self._kept),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.eval_results = {name: list(values) for name, values in state['eval_results'].items()}
        self.train_results = {name: list(values) for name, values in state['train_results'].items()}
        self.skip_training, self.generation = bool(state['skip_training']), int(state['generation'])
        self._kept = dict(state['kept'])
