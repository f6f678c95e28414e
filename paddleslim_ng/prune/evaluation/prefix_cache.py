"""Many variants of one network on the same batches, computing once what the variants share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.prune.evaluation.engines import Arrays, Engine, Runner
from paddleslim_ng.prune.evaluation.subprogram import Part, boundary, extract
from paddleslim_ng.prune.sensitive.masking import Footprint, zeroed

__all__ = ['NetworkRun', 'Outputs']

Outputs = list[npt.NDArray[Any]]


class NetworkRun:
    """Runs a network on fixed batches, as it is or with channels zeroed.

    For the variants that zero positions of the same parameters the network is cut in two: what comes before the first
    reader of such a parameter runs once per batch, its results are kept, and each variant runs the rest only.

    Args:
        part: the network.
        scope: its parameters, for this object alone.
        engine: what runs it.
        feeds: the batches.
        cache_bytes: memory for kept results; batches beyond it are computed from the start each time.
    """

    def __init__(self, part: Part, scope: Any, engine: Engine, feeds: Sequence[Arrays], cache_bytes: int) -> None:
        self._part = part
        self._scope = scope
        self._engine = engine
        self._feeds = feeds
        self._cache_bytes = cache_bytes
        self._graph = GraphWrapper(part.program)
        self._whole: Runner | None = None
        self._split: _Split | None = None

    def probe(self) -> Outputs:
        """Return the outputs for the first batch."""
        return self._whole_runner().run(self._feeds[0])

    def plain(self) -> Iterator[Outputs]:
        """Yield the outputs of the unchanged network, batch by batch."""
        runner = self._whole_runner()
        for feed in self._feeds:
            yield runner.run(feed)
        self._whole = None

    def masked(self, footprint: Footprint) -> Iterator[Outputs]:
        """Yield the outputs with the positions of ``footprint`` zeroed, batch by batch."""
        split = self._split_at(frozenset(footprint))
        with zeroed(self._scope, footprint):
            runner = self._engine.runner(split.suffix, self._scope)
            for index, feed in enumerate(self._feeds):
                yield runner.run(split.inputs(index, feed))

    def _whole_runner(self) -> Runner:
        if self._whole is None:
            self._whole = self._engine.runner(self._part, self._scope)
        return self._whole

    def _split_at(self, changing: frozenset[str]) -> _Split:
        if self._split is None or self._split.changing != changing:
            self._split = None
            self._split = self._make_split(changing)
        return self._split

    def _make_split(self, changing: frozenset[str]) -> _Split:
        read = [name for name in changing if self._graph.has_var(name)]
        cut = boundary(self._graph, read, self._part.fetches)
        inner = [name for name in cut or () if name not in self._part.feeds]
        if cut is None or not inner:
            return _Split(changing, self._part, None, 0)
        prefix = extract(self._graph, self._part.feeds, inner)
        suffix = extract(self._graph, cut, self._part.fetches)
        return _Split(changing, suffix, _Prefix(prefix, self._engine.runner(prefix, self._scope)), self._cache_bytes)


class _Prefix:
    """The part before the cut."""

    def __init__(self, part: Part, runner: Runner) -> None:
        self._part = part
        self._runner = runner

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(self._part.fetches, self._runner.run(feed)))


class _Split:
    """A network cut in two, with the results of the first part.

    Attributes:
        changing: names of the parameters that vary.
        suffix: what has to run for every variant.
    """

    def __init__(self, changing: Collection[str], suffix: Part, prefix: _Prefix | None, cache_bytes: int) -> None:
        self.changing = changing
        self.suffix = suffix
        self._prefix = prefix
        self._room = cache_bytes
        self._kept: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def inputs(self, index: int, feed: Arrays) -> Arrays:
        """Return what the suffix needs for batch ``index``."""
        if self._prefix is None:
            return feed
        inner = self._kept.get(index)
        if inner is None:
            inner = self._prefix.run(feed)
            size = sum(np.asarray(array).nbytes for array in inner.values())
            if size <= self._room:
                self._room -= size
                self._kept[index] = inner
        return {**feed, **inner}
