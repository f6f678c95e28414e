"""Single weights that become zero, and stay it while the network trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.strategies.kept_values import follow_cuts
from paddleslim_ng.compress.strategies.parameter_names import NamePattern
from paddleslim_ng.compress.strategy import Strategy
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse import UnstructuredPruner
from paddleslim_ng.sparse.masks import masked_already
from paddleslim_ng.sparse.options import LayerRatios
from paddleslim_ng.sparse.prunable import conv1x1_skip_params, get_skip_params

__all__ = ['UnstructuredPruneStrategy']

_LOG = logging.getLogger('paddleslim_ng')
_MODES = ('ratio', 'threshold', 'static')
_PARAMS_TYPES = (None, 'conv1x1_only')


class UnstructuredPruneStrategy(Strategy):
    """Zeroes weights from ``start_epoch`` on; after ``end_epoch``, no more leave and those that have stay zero.

    Masks are in the training program, so that zeros are exact after every step. Where another strategy replaces that
    program, the masks follow it.

    Args:
        start_epoch: the epoch before which masks come into the program; weights leave after its first batch.
        end_epoch: see :class:`~paddleslim_ng.compress.Strategy`.
        ratio: share of the prunable weights.
        prune_params_type: ``'conv1x1_only'``, or None.
        pruned_params: regular expression that the whole name of a parameter to prune matches.
        excluded_params: the same for parameters to leave alone.
        local_sparsity: every parameter reaches the ratio by itself.
        sparse_block: rows and columns of blocks that stay or leave whole.
        layer_ratios: ``'uniform'``, ``'heuristic'``, or ``{parameter: ratio}``.
        regrowth: let weights that have left come back.
        mode: ``'ratio'``; ``'threshold'``; or ``'static'``, which only keeps at zero what is zero already.
        threshold: magnitude below which weights leave, for ``mode='threshold'``.
        pattern: ``'N:M'``, such as ``'2:4'``: along the input channels, N of every M weights stay.

    Attributes:
        pruner: the :class:`~paddleslim_ng.sparse.UnstructuredPruner` at work, or None before ``start_epoch``.

    Raises:
        ConfigError: an argument is unusable.
    """

    def __init__(
        self,
        start_epoch: int = 0,
        end_epoch: int = 0,
        ratio: float = 0.55,
        prune_params_type: str | None = None,
        pruned_params: str = '.*',
        excluded_params: str | None = None,
        local_sparsity: bool = False,
        sparse_block: Sequence[int] = (1, 1),
        layer_ratios: LayerRatios = None,
        regrowth: bool = False,
        mode: str = 'ratio',
        threshold: float = 0.01,
        pattern: str | None = None,
    ) -> None:
        super().__init__(start_epoch, end_epoch)
        if mode not in _MODES:
            raise ConfigError(f'mode is one of {_MODES}, not {mode!r}')
        if prune_params_type not in _PARAMS_TYPES:
            raise ConfigError(f'prune_params_type is one of {_PARAMS_TYPES}, not {prune_params_type!r}')
        self.mode, self.ratio, self.threshold = mode, ratio, threshold
        self.names = NamePattern(pruned_params, excluded_params)
        self._skipping = conv1x1_skip_params if prune_params_type else get_skip_params
        self._options: dict[str, Any] = {
            'local_sparsity': local_sparsity,
            'sparse_block': tuple(sparse_block),
            'layer_ratios': layer_ratios,
            'regrowth': regrowth,
            'pattern': pattern,
        }
        self.pruner: UnstructuredPruner | None = None
        self._saved: Mapping[str, Any] | None = None

    def make_pruner(self, context: Context) -> UnstructuredPruner:
        """Put masks into the present training program; override for other pruners."""
        return UnstructuredPruner(
            context.train_program,
            'threshold' if self.mode == 'threshold' else 'ratio',
            self.ratio,
            self.threshold,
            context.scope,
            context.place,
            skip_params_func=self.skipped,
            **self._options,
        )

    def skipped(self, program: Any) -> set[str]:
        """Return the names of the parameters that are not pruned."""
        skipped = set(self._skipping(program))
        names = [var.name() for var in GraphWrapper(program).all_parameters()]
        chosen = self.names.choose([name for name in names if name not in skipped], 'parameter that can be pruned')
        return set(names) - set(chosen)

    def on_compression_begin(self, context: Context) -> None:
        """Tell at once where no parameter is called as ``pruned_params`` says."""
        self.skipped(context.train_program)
        if not context.epoch:
            _LOG.warning('%s does nothing: the job has no epochs', self.name)

    def on_epoch_begin(self, context: Context) -> None:
        """Put the masks in, in the first epoch of this strategy."""
        if self.pruner is None and self._saved is None and self.is_active(context.epoch_id):
            self._attach(context)
            if self.mode == 'static' and self.pruner is not None:
                self.pruner.set_static_masks()

    def _attach(self, context: Context) -> None:
        self.pruner = self.make_pruner(context)
        context.replace_programs(self, context.train_program)

    def on_batch_begin(self, context: Context) -> None:
        """Follow the training program where it has been replaced."""
        if self.pruner is None or self.pruner.program is not context.train_program:
            self._follow(context)

    def _follow(self, context: Context) -> None:
        """Give the present training program a pruner that goes on where the former one was."""
        state = self._pruner_state()
        if state is None:
            return
        if _has_masks(context.train_program):
            self.pruner = self.make_pruner(context)
        else:
            self._attach(context)
        if self.pruner is not None:
            self.pruner.load_state_dict(follow_cuts(state, context.scope))
        self._saved = None

    def on_batch_end(self, context: Context) -> None:
        """Let weights leave where they should."""
        if self.pruner is None or not self.is_active(context.epoch_id) or self.mode == 'static':
            return
        before = self.pruner.ratio
        self.pruner.step()
        if self.pruner.ratio != before:
            context.generation += 1  # more zeros: no better than the network with fewer, and not to compare with it

    def _pruner_state(self) -> Mapping[str, Any] | None:
        return self.pruner.state_dict() if self.pruner is not None else self._saved

    def state_dict(self) -> Mapping[str, Any]:
        """Return the pruner's state."""
        return {'pruner': self._pruner_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep a pruner's state until its program is there."""
        self._saved = state['pruner']

    def restore_from_checkpoint(self, context: Context) -> None:
        """Put the masks in again."""
        self._attach(context)

    def on_restored(self, context: Context) -> None:
        """Let the pruner go on where it was; where its masks are in no program now, the next batch puts them in."""
        self.pruner = None
        if _has_masks(context.train_program):
            self._follow(context)


def _has_masks(program: Any) -> bool:
    graph = GraphWrapper(program)
    return any(masked_already(graph, var) for var in graph.all_parameters())
