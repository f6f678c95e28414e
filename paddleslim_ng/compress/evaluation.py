"""Metrics of the evaluation program: means over samples, of all data or of a sample that stays the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleslim_ng.compress.readers import Feed, Names, Reader, batch_size_of
from paddleslim_ng.core import Executor
from paddleslim_ng.distributed import Ranks
from paddleslim_ng.errors import ConfigError, DataError, nearest_names
from paddleslim_ng.runtime.snapshot import read_snapshot, write_snapshot

__all__ = ['EvalFunction', 'EvalResult', 'Samples', 'WeightedMeans', 'call_functions', 'check_finite']

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


class WeightedMeans:
    """Means of what batches gave, each weighted by its number of samples.

    Attributes:
        sums: weighted sums by name.
        samples: how many samples went in.
        batches: how many batches.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.samples = 0
        self.batches = 0

    def add(self, values: Mapping[str, Any], size: int) -> None:
        """Add a batch: the mean of each array counts ``size`` times."""
        for name, value in values.items():
            mean = float(np.mean(np.asarray(value, np.float64)))
            self.sums[name] = self.sums.get(name, 0.0) + mean * size
        self.samples += size
        self.batches += 1

    def means(self, ranks: Ranks | None = None) -> dict[str, float]:
        """Return the means, over all ranks where some are given; a collective call then."""
        names, sums, samples = list(self.sums), np.array(list(self.sums.values())), float(self.samples)
        if ranks is not None and ranks.size > 1:
            shared = ranks.mean(np.array([*sums, samples]))
            sums, samples = shared[:-1], float(shared[-1])
        return {name: float(total / samples) for name, total in zip(names, sums)} if samples else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint in the midst of an epoch."""
        return {'sums': dict(self.sums), 'samples': self.samples, 'batches': self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums."""
        self.sums = {name: float(value) for name, value in state['sums'].items()}
        self.samples, self.batches = int(state['samples']), int(state['batches'])


class Samples:
    """Parts of the evaluation data, the same whenever the same ``cached_id`` is asked for.

    The first batch belongs to every part; each other one with the probability ``sampled_rate``, drawn from a generator
    of the part's own that ``cached_id`` seeds. With one ``cached_id``, a larger rate gives a larger part that holds the
    smaller one.

    Args:
        folder: keeps parts in files, for other runs of the job as well; in memory where None. A file is read as long
            as it is there: remove the folder when the data change.
        owner: in the names of the files, for ranks that read different data.
    """

    def __init__(self, folder: Path | None, owner: str) -> None:
        self._folder, self._owner = folder, owner
        self._kept: dict[tuple[int, float], list[Feed]] = {}

    def feeds(self, reader: Reader, program: Any, rate: float, cached_id: int) -> Iterator[Feed]:
        """Yield the batches of a part.

        Raises:
            ConfigError: the rate is outside (0, 1], or ``cached_id`` is negative.
            CheckpointError: the file is damaged.
            DataError: the reader fails, or the file belongs to other inputs.
        """
        if not 0.0 < rate <= 1.0:
            raise ConfigError(f'sampled_rate={rate!r} is no share of the data, above 0 and up to 1')
        if isinstance(cached_id, bool) or not isinstance(cached_id, int) or cached_id < 0:
            raise ConfigError(f'cached_id={cached_id!r} is no number from 0')
        key = (cached_id, float(rate))
        if key in self._kept:
            return iter(self._kept[key])
        file = self._file(key)
        if file is not None and file.is_file():
            return iter(self._read(file, reader))
        chosen = self._draw(reader, program, rate, cached_id)
        if file is None:
            self._kept[key] = chosen
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {f'{index}/{name}': array for index, feed in enumerate(chosen) for name, array in feed.items()}
            write_snapshot(file, tensors, {'batches': len(chosen), 'inputs': [name for _, name in reader.feed_list]})
        return iter(chosen)

    def _draw(self, reader: Reader, program: Any, rate: float, cached_id: int) -> list[Feed]:
        draws = np.random.default_rng(cached_id)
        reader.set_epoch(0)
        return [feed for index, feed in enumerate(reader.feeds(program)) if draws.random() < rate or index == 0]

    def _file(self, key: tuple[int, float]) -> Path | None:
        return self._folder / f'sample-{key[0]}-{key[1]:g}{self._owner}.npz' if self._folder is not None else None

    def _read(self, file: Path, reader: Reader) -> list[Feed]:
        found = read_snapshot(file)
        names = [name for _, name in reader.feed_list]
        if found.state.get('inputs') != names:
            raise DataError(f'{file} was sampled for the inputs {found.state.get("inputs")}, not {names}: remove it')
        return [{name: found.tensors[f'{index}/{name}'] for name in names} for index in range(found.state['batches'])]


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


def call_functions(functions: Mapping[str, EvalFunction], program: Any, scope: Any, ranks: Ranks) -> dict[str, float]:
    """Return what the user's functions ``(program, scope) -> number or {name: number}`` say, as means over the ranks.

    Raises:
        DataError: a function returns something else.
    """
    found: dict[str, float] = {}
    for label, function in functions.items():
        said = function(program, scope)
        items: Sequence[tuple[str, Any]] = list(said.items()) if isinstance(said, Mapping) else [(label, said)]
        for name, value in items:
            array = np.asarray(value)
            if array.size != 1 or array.dtype.kind not in 'biuf':
                raise DataError(f'eval_func {label!r} gave {value!r} for {name!r}, which is no number')
            found[str(name)] = float(array.reshape(()))
    if ranks.size > 1 and found:
        shared = ranks.mean(np.array(list(found.values())))
        found = dict(zip(found, map(float, shared)))
    return found


def check_finite(metrics: Mapping[str, float], when: str) -> None:
    """Raise DataError where a metric is NaN or infinite, after which nothing that a job decides can be trusted."""
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        raise DataError(
            f'{when}: {", ".join(f"{name} is {value}" for name, value in bad.items())}. Training has diverged, or the '
            'metric divides by zero; the last checkpoint is kept'
        )
