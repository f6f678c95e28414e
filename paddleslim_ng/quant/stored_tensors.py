"""Tensors of a program over all calibration batches, each computed once, from the nearest ones that are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper, cut_program
from paddleslim_ng.errors import DataError, GraphError
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['StoredTensors', 'kept_feeds']

Array = npt.NDArray[Any]


def kept_feeds(feeds: Iterable[Feed], inputs: Sequence[str]) -> list[Feed]:
    """Read all batches into memory.

    Args:
        feeds: the batches.
        inputs: what each of them has to hold.

    Raises:
        DataError: there is no batch.
        GraphError: a batch lacks an input.
    """
    found = [dict(feed) for feed in feeds]
    if not found:
        raise DataError('there is no batch to calibrate with: the source of data is empty')
    for batch, feed in enumerate(found, start=1):
        missing = [name for name in inputs if name not in feed]
        if missing:
            raise GraphError(f'batch {batch} feeds {sorted(feed)}, but the program needs {missing}, too')
    return found


class StoredTensors:
    """Computes tensors for all batches and keeps them, so that what comes later in the program starts from them.

    Layer after layer is looked at without running the layers before it again, also where parameters in the scope change
    on the way: a tensor is computed with the parameters that are there when it is first asked for.

    Args:
        model: the program; its scope is read.
        feeds: the batches.
        place: device; the CPU where None.
    """

    def __init__(self, model: InferenceModel, feeds: Sequence[Feed], place: Any = None) -> None:
        self._model = model
        self._graph = GraphWrapper(model.program)
        self._runner = Executor(place)
        self._values: dict[str, list[Array]] = {name: [feed[name] for feed in feeds] for name in model.feeds}
        self._batches = len(feeds)

    def compute(self, names: Sequence[str]) -> dict[str, list[Array]]:
        """Return tensors, one array for each batch.

        Raises:
            GraphError: the program has no such tensor.
            DataError: the program cannot run on a batch, or a tensor is not finite; both are named.
        """
        absent = [name for name in dict.fromkeys(names) if name not in self._values]
        if absent:
            inputs = self._sources(absent)
            part = cut_program(self._model.program, inputs, absent)
            rows = [self._run(part, inputs, absent, batch) for batch in range(self._batches)]
            self._values.update({name: [row[place] for row in rows] for place, name in enumerate(absent)})
        return {name: self._values[name] for name in names}

    def keep_for(self, names: Iterable[str]) -> None:
        """Forget what these tensors, which will be asked for, are not computed from."""
        needed = set(self._sources(list(names)))
        self._values = {name: arrays for name, arrays in self._values.items() if name in needed}

    def _sources(self, names: Sequence[str]) -> list[str]:
        """Return the stored tensors from which others follow, without passing through one that is stored."""
        pending, seen, found = [self._graph.var(name) for name in names], set[str](), dict[str, None]()
        while pending:
            var = pending.pop()
            if var.name() in seen:
                continue
            seen.add(var.name())
            if var.name() in self._values:
                found[var.name()] = None
            else:
                pending.extend(source for op in var.inputs() if op.type() != 'feed' for source in op.all_inputs())
        return list(found)

    def _run(self, part: Any, inputs: Sequence[str], names: Sequence[str], batch: int) -> list[Array]:
        given = {name: self._values[name][batch] for name in inputs}
        try:
            found = self._runner.run(part, given, list(names), scope=self._model.scope)
        except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
            shapes = {name: list(array.shape) for name, array in given.items()}
            raise DataError(f'the program cannot run on batch {batch + 1}, of shapes {shapes}: {error}') from error
        arrays = [np.asarray(array) for array in found]
        for name, array in zip(names, arrays):
            if not np.isfinite(array).all():
                raise DataError(f'{name!r} is not finite on batch {batch + 1}: it holds NaN or infinity')
        return arrays
