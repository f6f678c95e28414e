"""What strategies that remove channels have in common: both programs are cut, and cut again when a job resumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.rebuilding import is_quantized
from paddleslim_ng.compress.strategies.parameter_names import NamePattern
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.core.paddle_compat import new_scope
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.prune.session import PruningSession

__all__ = ['ChannelPruning']

_LOG = logging.getLogger('paddleslim_ng')


class ChannelPruning(Strategy):
    """Base of strategies that remove channels.

    Args:
        start_epoch: see :class:`~paddleslim_ng.compress.Strategy`.
        end_epoch: see there.
        pruner: a :class:`~paddleslim_ng.prune.Pruner`, or an object with ``make(round_to)`` that returns one; one that
            removes the channels of least L1 norm where None.
        target: what ratios of costs count: ``'flops'`` or ``'params'``.
        pruned_params: regular expression that the whole name of a parameter to prune matches.
        excluded_params: the same for parameters to leave alone.
        max_ratio: largest share of the channels that a layer loses.
        round_to: counts of channels that stay are multiples of this; a ``Pruner`` that is given has its own.

    Attributes:
        pruner: that does the work; its ``report`` tells of the last cut.

    Raises:
        ConfigError: an argument is unusable.
    """

    def __init__(
        self,
        start_epoch: int = 0,
        end_epoch: int = 0,
        pruner: Any = None,
        target: str = 'flops',
        pruned_params: str = '.*',
        excluded_params: str | None = None,
        max_ratio: float = 0.9,
        round_to: int = 8,
    ) -> None:
        super().__init__(start_epoch, end_epoch)
        if target not in ('flops', 'params'):
            raise ConfigError(f"target is 'flops' or 'params', not {target!r}")
        self.max_ratio = check_share('max_ratio', max_ratio)
        self.target = target
        self.names = NamePattern(pruned_params, excluded_params)
        self.pruner: Pruner = _made(pruner, round_to)
        self.round_to = self.pruner.round_to

    def on_compression_begin(self, context: Context) -> None:
        """Tell at once where no parameter is called as ``pruned_params`` says."""
        self.names.choose([var.name() for var in context.train_graph.all_parameters()], 'parameter')

    def session(self, context: Context) -> PruningSession:
        """Return an analysis of the present training program, on which ratios can be tried without cutting.

        Raises:
            ConfigError: the program is quantized.
        """
        if is_quantized(context.train_program):
            raise ConfigError(f'{self.name} removes channels, and the network is quantized already: let it act before')
        pruner = self.pruner
        return PruningSession(
            context.train_program,
            context.scope,
            pruner.criterion,
            pruner.idx_selector,
            pruner.round_to,
            pruner.heads,
            _outputs(context, context.train_program),
        )

    def parameters(self, session: PruningSession) -> list[str]:
        """Return the parameters that make channels, may lose some, and are called as ``pruned_params`` says.

        Raises:
            ConfigError: there is none.
        """
        able = [var.name() for var in session.analysis.out_axes if session.explain(var.name()).free > 1]
        return self.names.choose(able, 'parameter whose channels can be removed')

    def cut(self, context: Context, ratios: Mapping[str, float]) -> None:
        """Remove channels from both programs and the scope, and write it into the journal.

        Args:
            context: the job.
            ratios: share of the channels to remove, by parameter.

        Raises:
            NotPrunableError: nothing can be removed.
        """
        programs = (context.train_program, context.eval_program)
        before = _shapes(*programs)
        names, shares = list(ratios), list(ratios.values())
        made: list[Any] = []
        for program in programs:
            made.append(self._pruned(context, program, context.scope, names, shares, only_graph=bool(made)))
        shapes = {name: list(shape) for name, shape in _shapes(*made).items() if shape != before[name]}
        records = {
            record: load_array(context.scope, record)
            for name, shape in shapes.items()
            for record in (record_name(name, axis) for axis in range(len(shape)))
            if has_array(context.scope, record)
        }
        note = {'ratios': dict(ratios), 'shapes': shapes, 'records': records}
        context.replace_programs(self, *made, note=note)
        _LOG.info('%s: %s', self.name, self.pruner.report)

    def restore_from_checkpoint(self, context: Context) -> None:
        """Bring both programs to the shapes that they had after the cut, whatever has become of them since."""
        entry = context.replayed
        if entry is None:
            return
        scope = new_scope()
        for name, shape in entry.note['shapes'].items():
            store_array(scope, name, np.zeros(shape, np.float32))
        for name, record in entry.note['records'].items():
            store_array(scope, name, record)
        ratios = entry.note['ratios']
        programs = [
            program
            if _fits(program, entry.note['shapes'])
            else self._pruned(context, program, scope, list(ratios), list(ratios.values()), only_graph=True)
            for program in (context.train_program, context.eval_program)
        ]
        context.replace_programs(self, *programs)

    def _pruned(
        self,
        context: Context,
        program: Any,
        scope: Any,
        names: Sequence[str],
        shares: Sequence[float],
        *,
        only_graph: bool,
    ) -> Any:
        graph = GraphWrapper(program)
        known = {name: share for name, share in zip(names, shares) if graph.has_var(name)}
        return self.pruner.prune(
            program,
            scope,
            list(known),
            list(known.values()),
            context.place,
            only_graph=only_graph,
            outputs=_outputs(context, program),
        )[0]


def check_share(name: str, value: Any) -> float:
    """Return a share, which lies in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f'{name} is a share between 0 and 1, not {value!r}')
    return float(value)


def _shapes(*programs: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what programs keep in the scope."""
    return {
        var.name(): var.shape() for program in programs for var in GraphWrapper(program).vars() if var.persistable()
    }


def _fits(program: Any, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Tell whether a program has these shapes."""
    return all(list(shape) == list(shapes.get(name, shape)) for name, shape in _shapes(program).items())


def _made(pruner: Any, round_to: int) -> Pruner:
    if pruner is None:
        return Pruner(round_to=round_to)
    made = pruner.make(round_to) if hasattr(pruner, 'make') else pruner
    if not isinstance(made, Pruner):
        raise ConfigError(f'pruner is a slim.prune.Pruner, or makes one, not {pruner!r}')
    return made


def _outputs(context: Context, program: Any) -> list[str]:
    """Return what is fetched for evaluation and is in a program: it keeps its shape in both."""
    graph = GraphWrapper(program)
    return [name for _, name in context.eval_fetch_list if graph.has_var(name)]
