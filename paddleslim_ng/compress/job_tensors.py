"""Which tensors of the scope belong to a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.compress.programs import JobPrograms
from paddleslim_ng.core import GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.distributed.training_state import TrainingState
from paddleslim_ng.prune.records import record_name

__all__ = ['beside', 'record_names', 'store_tensors', 'tensor_names']


def tensor_names(program: Any, scope: Any) -> list[str]:
    """Return the names of the tensors of a program that outlast a step, the state of its optimizer among them."""
    return TrainingState(program, scope, {}, {}, False).names()


def record_names(programs: JobPrograms) -> list[str]:
    """Return the names that records of cuts have in the scope, whether they are there or not."""
    return [
        record_name(var.name(), axis)
        for program in (programs.train_program, programs.eval_program)
        for var in GraphWrapper(program).all_parameters()
        for axis in range(len(var.shape()))
    ]


def beside(programs: JobPrograms) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors that the training program does not have: of the evaluation program, and records of cuts."""
    scope = programs.scope
    trained = set(tensor_names(programs.train_program, scope))
    names = [name for name in tensor_names(programs.eval_program, scope) if name not in trained]
    names += record_names(programs)
    return {name: load_array(scope, name) for name in dict.fromkeys(names) if has_array(scope, name)}


def store_tensors(programs: JobPrograms, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write tensors into the scope of a job."""
    for name, array in tensors.items():
        store_array(programs.scope, name, np.asarray(array), programs.place)
