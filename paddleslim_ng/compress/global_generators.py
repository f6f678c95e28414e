"""Numpy's and Python's global generators as they were when an epoch began, for readers that shuffle with them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ['GlobalGenerators']


class GlobalGenerators:
    """A state of both generators. Nothing is seeded: what the user's process drew is drawn again, no more."""

    def __init__(self) -> None:
        self._numpy: Any = None
        self._python: Any = None
        self.remember()

    def remember(self) -> None:
        """Take the present state."""
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # the user's, to be restored as it was
        self._python = random.getstate()

    def put_back(self) -> None:
        """Bring the generators to the remembered state."""
        np.random.set_state(self._numpy)  # noqa: NPY002
        version, numbers, gauss = self._python
        random.setstate((version, tuple(numbers), gauss))

    def go_back(self) -> GlobalGenerators:
        """Bring the generators to the remembered state, and return the one that they leave."""
        present = GlobalGenerators()
        self.put_back()
        return present

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and arrays."""
        return {'numpy': self._numpy, 'python': list(self._python)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._numpy, self._python = state['numpy'], tuple(state['python'])
