"""What evaluates a network: the metrics of its program over batches, and the functions of a user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from paddleslim_ng.compress.readers import Feed, Names, batch_size_of
from paddleslim_ng.compress.weighted_means import WeightedMeans
from paddleslim_ng.core import Executor
from paddleslim_ng.distributed import Ranks
from paddleslim_ng.errors import ConfigError, DataError, nearest_names

__all__ = ['EvalFunction', 'EvalResult', 'as_numbers', 'call_functions', 'mean_metrics', 'named_functions']

EvalFunction = Callable[[Any, Any], Any]


class EvalResult(NamedTuple):
    """What an evaluation found; ``results, names = context.run_eval_graph()`` works, too.

    Attributes:
        results: the metrics.
        names: their readable names, in the same order.
    """

    results: list[float]
    names: list[str]

    def metric(self, name: str) -> float:
        """Return one metric.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.names:
            raise ConfigError(f'there is no metric {name!r}; there are {self.names}{nearest_names(name, self.names)}')
        return self.results[self.names.index(name)]

    def as_dict(self) -> dict[str, float]:
        """Return the metrics by name."""
        return dict(zip(self.names, self.results))


def named_functions(given: EvalFunction | Mapping[str, EvalFunction] | None) -> dict[str, EvalFunction]:
    """Return the functions that evaluate a network, by name.

    Raises:
        ConfigError: one of them is no function.
    """
    if given is None:
        return {}
    table = dict(given) if isinstance(given, Mapping) else {getattr(given, '__name__', 'metric'): given}
    odd = [name for name, function in table.items() if not callable(function)]
    if odd:
        raise ConfigError(f'eval_func {odd[0]!r} is no function of (program, scope)')
    return table


def mean_metrics(
    executor: Executor, program: Any, scope: Any, feeds: Iterator[Feed], fetches: Names, ranks: Ranks
) -> dict[str, float]:
    """Run a program over batches and return the means of what it computes, over the samples of all ranks."""
    means = WeightedMeans()
    targets = [name for _, name in fetches]
    for feed in feeds:
        values = executor.run(program, feed=feed, fetch_list=targets, scope=scope)
        means.add({label: value for (label, _), value in zip(fetches, values)}, batch_size_of(feed))
    return means.means(ranks)


def as_numbers(said: Any, who: str) -> dict[str, float]:
    """Return what a function of a user says, as plain numbers by name.

    Args:
        said: ``{name: number}``; arrays of one element do, too.
        who: how errors name the function.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(said, Mapping):
        raise DataError(f'{who} gave {said!r}, and is to give numbers by name')
    found: dict[str, float] = {}
    for name, value in said.items():
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in 'biuf':
            raise DataError(f'{who} gave {value!r} for {name!r}, which is no number')
        found[str(name)] = float(array.reshape(()))
    return found


def call_functions(functions: Mapping[str, EvalFunction], program: Any, scope: Any, ranks: Ranks) -> dict[str, float]:
    """Return what the user's functions ``(program, scope) -> number or {name: number}`` say, as means over the ranks.

    Raises:
        DataError: a function returns something else.
    """
    found: dict[str, float] = {}
    for label, function in functions.items():
        said = function(program, scope)
        found.update(as_numbers(said if isinstance(said, Mapping) else {label: said}, f'eval_func {label!r}'))
    if ranks.size > 1 and found:
        shared = ranks.mean(np.array(list(found.values())))
        found = dict(zip(found, map(float, shared)))
    return found
