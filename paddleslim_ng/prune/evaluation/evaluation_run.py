"""Measuring variants of one network, in this process or in several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import paddle

from paddleslim_ng.analysis.metric_value import as_metric
from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.prune.evaluation.engines import Arrays, Engine, ExecutorEngine, PredictorEngine
from paddleslim_ng.prune.evaluation.prefix_cache import NetworkRun, Outputs
from paddleslim_ng.prune.evaluation.subprogram import Part, extract
from paddleslim_ng.prune.evaluation.workers import WorkerPool
from paddleslim_ng.prune.sensitive.function_evaluation import PruneInPlace
from paddleslim_ng.prune.sensitive.masking import Footprint

if TYPE_CHECKING:
    from paddleslim_ng.prune.evaluation.evaluator import Evaluator

__all__ = ['EvaluationRun', 'batch_size', 'copy_scope']

_PLUMBING = frozenset({'feed', 'fetch'})


class _Backend(Protocol):
    """Runs variants of a network on all batches: in this process, or in several."""

    def probe(self) -> Outputs: ...

    def plain(self) -> Iterator[Outputs]: ...

    def masked(self, footprint: Footprint) -> Iterator[Outputs]: ...


class EvaluationRun:
    """Measures variants of one network; made by :meth:`Evaluator.start`.

    Attributes:
        source: for messages.
    """

    source = 'the evaluator'

    def __init__(
        self, evaluator: Evaluator, program: Any, part: Part, scope: Any, origin: Any, place: Any, engine: str
    ) -> None:
        self._evaluator = evaluator
        self._program = program
        self._origin = origin
        self._place = place
        self._pool: WorkerPool | None = None
        self._engine: Engine = PredictorEngine(evaluator.threads) if engine == 'predictor' else ExecutorEngine(place)
        self._backend: _Backend
        feeds, room = evaluator.feeds, evaluator.cache_bytes
        if engine == 'onednn' or evaluator.processes > 1:
            self._pool = WorkerPool(part, scope, engine, feeds, evaluator.processes, evaluator.threads, room)
            self._backend = self._pool
        else:
            self._backend = NetworkRun(part, scope, self._engine, feeds, room)

    def probe(self) -> Outputs:
        """Return the outputs for the first batch."""
        return self._backend.probe()

    def baseline(self) -> float:
        """Measure the network as it is."""
        return self._measure(self._backend.plain())

    def masked(self, parameter: str, footprint: Footprint) -> float:
        """Measure it with the positions of ``footprint`` zeroed."""
        return self._measure(self._backend.masked(footprint))

    def cut(self, footprint: Footprint, prune: PruneInPlace) -> float:
        """Measure the program that ``prune(scope)`` makes, on a copy of the parameters."""
        scope = copy_scope(self._program, self._origin, self._place)
        program = prune(scope)
        graph = GraphWrapper(program)
        part = extract(
            graph, [name for name in self._evaluator.feeds[0] if graph.has_var(name)], self._evaluator.fetches
        )
        if self._pool is not None:
            return self._measure(self._pool.other(part, scope))
        return self._measure(NetworkRun(part, scope, self._engine, self._evaluator.feeds, 0).plain())

    def close(self) -> None:
        """End the processes and remove temporary files."""
        if self._pool is not None:
            self._pool.close()

    def _measure(self, batches: Iterator[Outputs]) -> float:
        feeds = self._evaluator.feeds
        sizes = [batch_size(feed) for feed in feeds]
        values = [
            as_metric(self._evaluator.metric(outputs, feed), 'the metric') for feed, outputs in zip(feeds, batches)
        ]
        return math.fsum(value * size for value, size in zip(values, sizes)) / sum(sizes)


def copy_scope(program: Any, scope: Any, place: Any) -> Any:
    """Return a new scope with copies of the persistable tensors that ``program`` reads.

    Raises:
        GraphError: ``scope`` lacks one of them.
    """
    copy = paddle.static.Scope()
    for var in GraphWrapper(program).vars():
        if var.persistable() and any(op.type() not in _PLUMBING for op in var.outputs()):
            store_array(copy, var.name(), load_array(scope, var.name()), place)
    return copy


def batch_size(feed: Arrays) -> int:
    """Return the number of samples in a batch: the length of its first input."""
    array = next(iter(feed.values()))
    return len(array) if array.ndim else 1
