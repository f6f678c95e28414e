"""Metrics of the present network while channels are missing, for strategies that choose by them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.shared_network import shared_network
from paddleslim_ng.distributed import Ranks
from paddleslim_ng.prune.sensitive import sensitivity
from paddleslim_ng.prune.sensitive.sensitivity_file import Sensitivities
from paddleslim_ng.prune.session import PruningSession

__all__ = ['distinct_parameters', 'measure_sensitivities', 'metric_function']


def distinct_parameters(session: PruningSession, names: Sequence[str]) -> list[str]:
    """Return the first of each group of parameters that always lose the same channels, such as addends."""
    found: dict[bytes, str] = {}
    for name in names:
        found.setdefault(np.sort(session.request(name, 0.0).classes).tobytes(), name)
    return list(found.values())


def metric_function(context: Context, metric_name: str, rate: float | None) -> Callable[[Any], float]:
    """Return a function that measures a metric of an evaluation program, which is the context's or a pruned copy.

    Args:
        context: the job.
        metric_name: the metric.
        rate: share of the evaluation batches; all where None. Every call uses the same ones.
    """

    def measured(program: Any) -> float:
        present = context.eval_program
        context.eval_program = program
        try:
            return context.run_eval_graph(rate).metric(metric_name)
        finally:
            context.eval_program = present

    return measured


def measure_sensitivities(
    context: Context,
    names: Sequence[str],
    ratios: Sequence[float],
    metric_name: str,
    rate: float | None,
    criterion: Any,
    file: Path | None,
) -> Sensitivities:
    """Measure what each parameter loses alone, see :func:`slim.prune.sensitivity`; on several ranks, a collective call.

    Args:
        context: the job.
        names: parameters.
        ratios: shares of their channels.
        metric_name: the larger the better.
        rate: share of the evaluation batches; all where None.
        criterion: scores channels.
        file: keeps what was measured, and is read first; rank 0 alone writes it.

    Raises:
        CheckpointError: the file belongs to another network.
        DataError: the metric of the whole network is 0, or one is not finite.
        NotPrunableError: none of the parameters can be pruned.
    """
    ranks = context.ranks
    with ExitStack() as stack:
        stack.enter_context(shared_network(context.eval_program, context.scope, ranks))
        own = stack.enter_context(_file_of_rank(file, ranks)) if file is not None else None
        return sensitivity(
            context.eval_program,
            context.place,
            names,
            metric_function(context, metric_name, rate),
            own,
            ratios,
            criterion=criterion,
            scope=context.scope,
            progress=None if ranks.rank == 0 else False,
        )


@contextmanager
def _file_of_rank(file: Path, ranks: Ranks) -> Iterator[Path]:
    """Give every rank what the file of rank 0 holds, so that all of them measure the same."""
    if ranks.size == 1:
        yield file
        return
    content = ranks.broadcast((file.read_bytes() if file.exists() else b'') if ranks.rank == 0 else None)
    if ranks.rank == 0:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / file.name
        if content:
            own.write_bytes(content)
        yield own
