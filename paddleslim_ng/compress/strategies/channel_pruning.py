"""What strategies that remove channels have in common: both programs are cut, and cut again when a job resumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.strategies.parameter_names import NamePattern
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import GraphWrapper, has_array, shape_of
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune import Pruner
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

    def session(self, context: Context) -> PruningSession:
        """Return an analysis of the present training program, on which ratios can be tried without cutting."""
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
        self._cut(context, ratios, follow=False)
        _LOG.info('%s: %s', self.name, self.pruner.report)

    def restore_from_checkpoint(self, context: Context) -> None:
        """Bring both programs to the shapes that the scope has."""
        entry = context.replayed
        if entry is not None:
            self._cut(context, entry.note['ratios'], follow=True)

    def _cut(self, context: Context, ratios: Mapping[str, float], *, follow: bool) -> None:
        names, shares = list(ratios), list(ratios.values())
        programs: list[Any] = []
        for program in (context.train_program, context.eval_program):
            if follow and _fits(program, context.scope):
                programs.append(program)
                continue
            known = [name for name in names if GraphWrapper(program).has_var(name)]
            pruned, _, _ = self.pruner.prune(
                program,
                context.scope,
                known,
                [shares[names.index(name)] for name in known],
                context.place,
                only_graph=follow or bool(programs),
                outputs=_outputs(context, program),
            )
            programs.append(pruned)
        context.replace_programs(self, *programs, note={'ratios': dict(ratios)})


def check_share(name: str, value: Any) -> float:
    """Return a share, which lies in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f'{name} is a share between 0 and 1, not {value!r}')
    return float(value)


def _fits(program: Any, scope: Any) -> bool:
    """Tell whether the parameters of a program have the shapes that they have in the scope."""
    return all(
        var.shape() == shape_of(scope, var.name())
        for var in GraphWrapper(program).all_parameters()
        if has_array(scope, var.name())
    )


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
