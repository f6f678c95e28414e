"""The process in which an :class:`Evaluator` runs its share of the batches."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.prune.evaluation.engines import Arrays, Engine, ExecutorEngine, PredictorEngine
from paddleslim_ng.prune.evaluation.prefix_cache import NetworkRun, Outputs
from paddleslim_ng.prune.evaluation.subprogram import Part, extract
from paddleslim_ng.runtime.inference_model import load_inference_model

__all__ = ['Setup', 'main']


@dataclass(frozen=True)
class Setup:
    """What a worker works on.

    Attributes:
        model: path prefix of the network as an inference model.
        engine: name of the engine.
        threads: threads of the math library.
        feeds: this worker's batches.
        cache_bytes: see :class:`NetworkRun`.
    """

    model: Path
    engine: str
    threads: int
    feeds: Sequence[Arrays]
    cache_bytes: int


class _Worker:
    """Answers requests: each is a method name and an argument, the answer one message per batch."""

    def __init__(self, setup: Setup) -> None:
        place = paddle.CPUPlace()
        self._setup = setup
        self._engine: Engine = PredictorEngine(setup.threads) if setup.engine == 'predictor' else ExecutorEngine(place)
        self._run = self._network(setup.model)

    def _network(self, model: Path) -> NetworkRun:
        loaded = load_inference_model(model, paddle.static.Scope())
        names = [GraphWrapper.name_of(target) for target in loaded.fetches]
        part: Part = extract(loaded.program, loaded.feeds, names)
        return NetworkRun(part, loaded.scope, self._engine, self._setup.feeds, self._setup.cache_bytes)

    def requests(self) -> Mapping[str, Callable[[Any], Iterator[Outputs]]]:
        return {
            'probe': lambda _: iter([self._run.probe()]),
            'plain': lambda _: self._run.plain(),
            'masked': self._run.masked,
            'model': lambda model: self._network(model).plain(),
        }


def _serve(channel: Connection) -> None:
    requests = _Worker(channel.recv()).requests()
    while True:
        name, argument = channel.recv()
        for outputs in requests[name](argument):
            channel.send(outputs)


def main() -> None:
    """Serve the connection whose descriptor is the first argument until the other side closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    paddle.enable_static()
    channel = Connection(int(sys.argv[1]))
    try:
        _serve(channel)
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        channel.send(traceback.format_exc())
        raise


if __name__ == '__main__':
    main()
