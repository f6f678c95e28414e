"""Parts of the evaluation data that stay the same from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from paddleslim_ng.compress.readers import Feed, Reader
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.runtime.snapshot import read_snapshot, write_snapshot

__all__ = ['Samples']


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
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0.0 < rate <= 1.0:
            raise ConfigError(f'sampled_rate={rate!r} is no share of the data, above 0 and up to 1')
        if isinstance(cached_id, bool) or not isinstance(cached_id, Integral) or cached_id < 0:
            raise ConfigError(f'cached_id={cached_id!r} is no number from 0')
        key = (int(cached_id), float(rate))
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
