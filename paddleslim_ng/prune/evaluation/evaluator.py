"""Evaluation from data and a metric, instead of a function: fast, shared among processes, and checked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError, EquivalenceError, SlimError
from paddleslim_ng.prune.evaluation.batch_metrics import BatchMetric, make_metric
from paddleslim_ng.prune.evaluation.engine_check import EngineReport, compare_outputs
from paddleslim_ng.prune.evaluation.engines import ExecutorEngine
from paddleslim_ng.prune.evaluation.evaluation_run import EvaluationRun, batch_size, copy_scope
from paddleslim_ng.prune.evaluation.subprogram import Part, extract

__all__ = ['Evaluator']

_LOG = logging.getLogger(__name__)
_ENGINES = ('auto', 'executor', 'onednn', 'predictor')
# Below this many multiply-accumulates, about half a second on the plain executor, making predictors does not pay.
_WORTH_A_PREDICTOR = 1e9
Feeds = Union[Iterable[Mapping[str, Any]], Callable[[], Iterable[Mapping[str, Any]]]]


class Evaluator:
    """Measures networks on given batches.

    In a sensitivity analysis it takes the place of ``eval_func``. The parameters are copied, so the user's scope is
    never touched. What the variants of one parameter share is computed once, and batches may be dealt out to processes.
    With one engine the metric is the same to the last digit, however many processes there are and whatever is kept.

    Args:
        feeds: the batches, ``{data name: array}`` each, or a function that returns them, such as a batch reader. They
            are held in memory.
        metric: ``metric(outputs, feed)`` returns the mean over a batch, the larger the better, where ``outputs`` are
            the fetched arrays; or ``'top1'``, ``'top5'`` (first output: scores [N, classes]), or ``'mean'`` (of the
            first output). Batches are weighted by their size.
        fetch_list: names, Variables or Values of the outputs.
        label: name of the feed with the labels, for ``'top1'`` and ``'top5'``; ``'label'`` where None.
        engine: ``'executor'``; ``'predictor'`` (Paddle Inference with oneDNN, on the CPU); ``'onednn'`` (the executor
            with Paddle's oneDNN flag, in processes of their own, PIR only); or ``'auto'``: the predictor on the CPU,
            except for little work and for networks that it cannot run.
        processes: how many processes share the batches, on the CPU.
        cache_prefix: keep the results of shared prefixes.
        cache_bytes: memory for them.
        threads: threads of the math library in each process, for engines other than the executor.

    Attributes:
        report: how the engine compared with Paddle's executor on the first batch; None before the first run.

    Raises:
        ConfigError: no batches, batches of different inputs, or an unknown metric or engine.

    Example:
        >>> evaluator = slim.prune.Evaluator(batches, 'top1', [probabilities], processes=2)
        >>> slim.prune.sensitivity(val_program, place, names, evaluator=evaluator)
    """

    def __init__(
        self,
        feeds: Feeds,
        metric: str | BatchMetric,
        fetch_list: Sequence[Any],
        *,
        label: str | None = None,
        engine: str = 'auto',
        processes: int = 1,
        cache_prefix: bool = True,
        cache_bytes: int = 2**30,
        threads: int = 1,
    ) -> None:
        if engine not in _ENGINES:
            raise ConfigError(f'unknown engine {engine!r}; known: {", ".join(_ENGINES)}')
        if processes < 1 or threads < 1:
            raise ConfigError('processes and threads must be at least 1')
        if isinstance(fetch_list, str) or not fetch_list:
            raise ConfigError('fetch_list must list at least one output')
        self.feeds = _checked_feeds(feeds)
        self.fetches = [GraphWrapper.name_of(item) for item in fetch_list]
        self.metric = make_metric(metric, label, list(self.feeds[0]))
        self.metric_name = metric if isinstance(metric, str) else getattr(metric, '__qualname__', 'a function')
        self.engine = engine
        self.processes = processes
        self.cache_bytes = cache_bytes if cache_prefix else 0
        self.threads = threads
        self.report: EngineReport | None = None

    def identity(self) -> str:
        """Return a short text that is the same for the same batches, outputs and metric name."""
        digest = hashlib.blake2b(digest_size=8)
        for feed in self.feeds:
            for name, array in sorted(feed.items()):
                digest.update(f'{name}|{array.dtype}|{array.shape}|'.encode())
                digest.update(array.tobytes())
        return f'{self.metric_name} of {", ".join(self.fetches)} on {len(self.feeds)} batches {digest.hexdigest()}'

    def evaluate(self, program: Any, scope: Any = None, place: Any = None) -> float:
        """Measure a network once.

        Args:
            program: a program of either IR.
            scope: its parameters; Paddle's global scope where None.
            place: device; the CPU where None.
        """
        run = self.start(program, scope if scope is not None else paddle.static.global_scope(), place)
        try:
            return run.baseline()
        finally:
            run.close()

    def start(self, program: Any, scope: Any, place: Any = None) -> EvaluationRun:
        """Prepare to measure variants of a network, and check the engine on the first batch.

        Args:
            program: a program of either IR.
            scope: its parameters; copied.
            place: device; the CPU where None.

        Raises:
            GraphError: an output or a needed input is missing, or the scope lacks a parameter.
            ConfigError: engine or processes do not fit the place.
            EquivalenceError: the engine asked for does not compute what Paddle's executor computes.
        """
        place = place if place is not None else paddle.CPUPlace()
        on_cpu = isinstance(place, type(paddle.CPUPlace()))
        if not on_cpu and (self.processes > 1 or self.engine in ('onednn', 'predictor')):
            raise ConfigError(f'on {place}, only engine executor in one process is available')
        graph = GraphWrapper(program)
        part = extract(graph, [name for name in self.feeds[0] if graph.has_var(name)], self.fetches)
        copy = copy_scope(part.program, scope, place)
        for engine in self._candidates(part, on_cpu):
            run = EvaluationRun(self, program, part, copy, scope, place, engine)
            try:
                self.report = self._check(run, part, copy, place, engine)
            except (SlimError, RuntimeError, ValueError) as error:
                run.close()
                if self.engine != 'auto' or engine == 'executor':
                    raise
                _LOG.warning('engine %s cannot serve this network, so the slower executor does: %s', engine, error)
                continue
            except BaseException:
                run.close()
                raise
            return run
        raise ConfigError('no engine fits')

    def _candidates(self, part: Part, on_cpu: bool) -> Sequence[str]:
        if self.engine == 'onednn' and GraphWrapper(part.program).ir == 'legacy':
            raise ConfigError(
                "engine 'onednn' would keep the first weights it has seen of a legacy program; use 'predictor'"
            )
        if self.engine != 'auto':
            return [self.engine]
        return ['predictor', 'executor'] if on_cpu and self._is_much_work(part) else ['executor']

    def _is_much_work(self, part: Part) -> bool:
        """Decide by counting, not by the clock, so that a resumed analysis uses the engine it began with."""
        from paddleslim_ng.analysis import flops

        feed = self.feeds[0]
        try:
            macs = flops(part.program, input_shapes={name: [1, *feed[name].shape[1:]] for name in part.feeds})
        except SlimError:
            return True
        return float(macs) * sum(map(batch_size, self.feeds)) > _WORTH_A_PREDICTOR

    def _check(self, run: EvaluationRun, part: Part, scope: Any, place: Any, engine: str) -> EngineReport:
        feed = self.feeds[0]
        if engine == 'executor':
            return EngineReport(engine, samples=batch_size(feed))
        expected = ExecutorEngine(place).runner(part, scope).run(feed)
        report = compare_outputs(engine, expected, run.probe(), batch_size(feed))
        if not report.agrees:
            raise EquivalenceError(f'{report}; use engine executor')
        _LOG.info('%s', report)
        return report


def _checked_feeds(feeds: Feeds) -> list[dict[str, npt.NDArray[Any]]]:
    batches: list[dict[str, npt.NDArray[Any]]] = []
    for feed in feeds() if callable(feeds) else feeds:
        if not isinstance(feed, Mapping):
            raise ConfigError(f'feeds must be {{data name: array}} dictionaries, not {type(feed).__name__}')
        batches.append({name: np.ascontiguousarray(np.asarray(array)) for name, array in feed.items()})
    if not batches or not batches[0]:
        raise ConfigError('feeds must hold at least one batch with at least one input')
    if any(batch.keys() != batches[0].keys() for batch in batches):
        raise ConfigError(f'all batches must have the same inputs as the first: {sorted(batches[0])}')
    if not all(batch_size(batch) for batch in batches):
        raise ConfigError('every batch must hold at least one sample')
    return batches
