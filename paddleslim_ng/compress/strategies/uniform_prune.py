"""Channel pruning with one ratio for all layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Union

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.strategies.channel_pruning import ChannelPruning, check_share
from paddleslim_ng.compress.strategies.uniform_ratio import find_uniform_ratio
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune.costs import get_cost
from paddleslim_ng.prune.session import PruningSession

__all__ = ['UniformPruneStrategy']

_LOG = logging.getLogger('paddleslim_ng')
_NEAR = 0.01
ChannelRatios = Union[float, Mapping[str, float], None]


class UniformPruneStrategy(ChannelPruning):
    """Removes the same share of the channels of every layer, once, when ``start_epoch`` begins.

    The share is found by bisection on the exact cost, so that the network comes within 1 % of ``target_ratio``, or as
    near as whole channels and ``round_to`` allow, which a warning then tells.

    Args:
        start_epoch: the epoch before which channels leave.
        end_epoch: see :class:`~paddleslim_ng.compress.Strategy`.
        pruner: see :class:`ChannelPruning`.
        target: what ``target_ratio`` counts: ``'flops'`` or ``'params'``.
        pruned_params: regular expression of the parameters to prune.
        excluded_params: regular expression of parameters to leave alone.
        max_ratio: largest share of the channels that a layer loses.
        round_to: counts of channels that stay are multiples of this.
        target_ratio: share of the FLOPs or parameters to remove.
        channel_ratios: instead of it: the share of its channels that every layer loses, or ``{parameter: share}``.

    Attributes:
        ratio: the share that was found, or None.
        removed: share of the cost that left, or None.

    Raises:
        ConfigError: an argument is unusable.

    Example:
        >>> compressor.add_strategy(UniformPruneStrategy(target_ratio=0.5, pruned_params='conv.*'))
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
        target_ratio: float = 0.5,
        channel_ratios: ChannelRatios = None,
    ) -> None:
        super().__init__(start_epoch, end_epoch, pruner, target, pruned_params, excluded_params, max_ratio, round_to)
        self.target_ratio = check_share('target_ratio', target_ratio)
        self.channel_ratios = channel_ratios
        shares = channel_ratios.values() if isinstance(channel_ratios, Mapping) else [channel_ratios]
        for share in shares:
            if share is not None:
                check_share('channel_ratios', share)
        self.ratio: float | None = None
        self.removed: float | None = None
        self._done = False

    def on_compression_begin(self, context: Context) -> None:
        """Prune here where the job has no epochs."""
        if not isinstance(self.channel_ratios, Mapping):
            super().on_compression_begin(context)
        if context.epoch == 0:
            self._prune(context)

    def on_epoch_begin(self, context: Context) -> None:
        """Prune in the first epoch of this strategy."""
        if self.is_active(context.epoch_id) and not self._done:
            self._prune(context)

    def _prune(self, context: Context) -> None:
        self._done = True
        session = self.session(context)
        given = self.channel_ratios
        if isinstance(given, Mapping):
            unknown = [name for name in given if not session.graph.has_var(name)]
            if unknown:
                raise ConfigError(f'channel_ratios names {unknown}, which the network does not have')
            self._cut_given(context, session, {name: float(share) for name, share in given.items()})
            return
        names = self.parameters(session)
        if given is not None:
            self._cut_given(context, session, dict.fromkeys(names, float(given)))
            return
        found = find_uniform_ratio(session, names, self.target, self.target_ratio, self.max_ratio)
        if found.ratio == 0:
            raise ConfigError(
                f'{self.name}: target_ratio={self.target_ratio} cannot be approached: whole channels in multiples of '
                f'round_to={self.round_to} remove nothing or more than twice as much; take a smaller round_to'
            )
        self.ratio, self.removed = found.ratio, found.removed
        share = f'{found.removed:.1%} of {found.before:,} {self.target}'
        said = f'{self.name}: {share} removed with the ratio {found.ratio:.4f}'
        if abs(found.removed - self.target_ratio) > _NEAR:
            _LOG.warning('%s, the nearest to %.1f%% that can be reached', said, 100 * self.target_ratio)
        else:
            _LOG.info('%s', said)
        self.cut(context, dict.fromkeys(names, found.ratio))

    def _cut_given(self, context: Context, session: PruningSession, ratios: Mapping[str, float]) -> None:
        cost, names = get_cost(self.target)(session.analysis), list(ratios)
        before, left = (cost(session.decide(names, shares).cut) for shares in ([0.0] * len(names), [*ratios.values()]))
        if left == before:
            raise ConfigError(
                f'{self.name}: channel_ratios={self.channel_ratios!r} remove nothing: whole channels, in multiples of '
                f'round_to={self.round_to}, all stay; take larger ratios or a smaller round_to'
            )
        self.removed = 1 - left / before
        _LOG.info('%s: %.1f%% of %d %s removed', self.name, 100 * self.removed, before, self.target)
        self.cut(context, ratios)

    def state_dict(self) -> Mapping[str, Any]:
        """Return whether channels have left, and how many."""
        return {'done': self._done, 'ratio': self.ratio, 'removed': self.removed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._done, self.ratio, self.removed = bool(state['done']), state['ratio'], state['removed']
