"""Watching for weights that have been pruned and come back, because another program trains them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddleslim_ng.sparse.masks import has_revived

__all__ = ['RevivalWatch']

_LOG = logging.getLogger('paddleslim_ng')
_WATCHED = 3


class RevivalWatch:
    """Looks at the smallest parameters, and warns once.

    Args:
        scope: parameters and masks.
        shapes: of the pruned parameters.
    """

    def __init__(self, scope: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._scope = scope
        self._names = sorted(shapes, key=lambda name: int(np.prod(shapes[name])))[:_WATCHED]
        self._warned = False

    def found(self) -> bool:
        """Tell whether a weight that should be zero is not."""
        found = any(has_revived(self._scope, name) for name in self._names)
        if found and not self._warned:
            self._warned = True
            _LOG.warning(
                'pruned weights are no longer zero: the program that trains is not the one with the masks. step() '
                'zeroes them from now on, and in between they are not; train the program that the pruner was given'
            )
        return found
