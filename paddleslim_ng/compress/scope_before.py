"""A job's tensors as they were before it, for calls that fail before anything has been trained."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from paddleslim_ng.compress.job_tensors import record_names, store_tensors
from paddleslim_ng.compress.programs import JobPrograms, persistable_names
from paddleslim_ng.core import has_array, load_array

__all__ = ['ScopeBefore']


class ScopeBefore:
    """Remembers the tensors of a job's programs until training begins.

    Args:
        programs: of the job, as they were given.
    """

    def __init__(self, programs: JobPrograms) -> None:
        self._programs = programs
        scope = programs.scope
        self._arrays: dict[str, npt.NDArray[Any]] | None = {
            name: load_array(scope, name) for name in self._names() if has_array(scope, name)
        }

    def forget(self) -> None:
        """Let the copies go: from here on, the job's own state counts."""
        self._arrays = None

    def put_back(self) -> None:
        """Bring the tensors back, and erase those that have come since; without effect after :meth:`forget`."""
        if self._arrays is None:
            return
        scope = self._programs.scope
        new = [name for name in self._names() if name not in self._arrays]
        scope.erase([name for name in new if scope.find_var(name) is not None])
        store_tensors(self._programs, self._arrays)

    def _names(self) -> list[str]:
        programs = self._programs
        present = persistable_names(programs.train_program, programs.eval_program)
        return sorted(present | programs.left_behind | set(record_names(programs)))
