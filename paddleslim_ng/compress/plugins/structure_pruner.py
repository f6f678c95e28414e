"""How channels are scored, and which of them leave, as a configuration says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.criterion import ChannelCriterion, finite_values, get_criterion

__all__ = ['StructurePruner']

_OTHERS = '*'


class StructurePruner:
    """How channels are scored, parameter by parameter, and which of them leave.

    Args:
        pruning_axis: kept from older files; the axis of output channels, 0, for all parameters.
        criterions: ``{regular expression of whole parameter names: criterion}``; ``'*'`` is for all others.
        idx_selector: how channels are chosen by their scores.
        heads: what may leave where channels are split into heads.

    Raises:
        ConfigError: another axis, an unknown criterion or selector, or no entry ``'*'``.

    Example:
        >>> pruner = StructurePruner(criterions={'*': 'l1_norm', 'fc.*': 'geometry_median'}).make(round_to=8)
        >>> pruned, _, _ = pruner.prune(program, scope, names, ratios)
    """

    def __init__(
        self,
        pruning_axis: Mapping[str, int] | None = None,
        criterions: Mapping[str, str] | None = None,
        idx_selector: str = 'default_idx_selector',
        heads: str = 'auto',
    ) -> None:
        wrong = {name: axis for name, axis in (pruning_axis or {}).items() if axis != 0}
        if wrong:
            raise ConfigError(f'pruning_axis is 0, the output channels, which all readers follow; not {wrong}')
        self.criterions = dict(criterions if criterions is not None else {_OTHERS: 'l1_norm'})
        if _OTHERS not in self.criterions:
            raise ConfigError(f'criterions needs an entry {_OTHERS!r} for the parameters that no other entry names')
        for name in self.criterions.values():
            get_criterion(name)
        self.idx_selector, self.heads = idx_selector, heads

    def make(self, round_to: int = 1) -> Pruner:
        """Return a pruner of this kind.

        Args:
            round_to: bring the number of channels that stay to a multiple of this.
        """
        names = list(self.criterions.values())
        criterion = names[0] if len(names) == 1 else _ByParameter(self.criterions)
        return Pruner(criterion, self.idx_selector, round_to=round_to, heads=self.heads)


class _ByParameter:
    """Scores each parameter by the criterion of the first expression that its name matches."""

    def __init__(self, criterions: Mapping[str, str]) -> None:
        self._others = criterions[_OTHERS]
        self._rows = [(re.compile(key), name) for key, name in criterions.items() if key != _OTHERS]

    def __repr__(self) -> str:
        # In files of sensitivities, which belong to one way of scoring.
        return f'criterions({dict([*((row.pattern, name) for row, name in self._rows), (_OTHERS, self._others)])})'

    def score(self, session: Any, requests: Sequence[Any]) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one score per channel of each requested parameter."""
        scores: dict[str, npt.NDArray[np.float64]] = {}
        for request in requests:
            name = next((name for key, name in self._rows if key.fullmatch(request.name)), self._others)
            found = get_criterion(name)
            if isinstance(found, ChannelCriterion):
                scores.update(found.score(session, [request]))
            else:
                scores[request.name] = found(finite_values(session, request.name), request.axis)
        return scores
