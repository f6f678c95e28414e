"""Sensitivities on disk: one JSON file per analysis, rewritten atomically after every evaluation."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from paddleslim_ng.analysis.fingerprint import fingerprint
from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.prune.sensitive.legacy_pickle import is_pickle, read_sensitivity_pickle
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['Sensitivities', 'SensitivityFile', 'load_sensitivities', 'measured_otherwise', 'merge_sensitive']

_LOG = logging.getLogger(__name__)
_VERSION = 1
Sensitivities = dict[str, dict[float, float]]
Source = Union[str, 'os.PathLike[str]']


@dataclass
class SensitivityFile:
    """The state of a sensitivity analysis, and where it is kept.

    Attributes:
        path: the file, or None to keep nothing.
        fingerprint: what was analysed: program, parameters; see :func:`paddleslim_ng.analysis.fingerprint.fingerprint`.
        criterion: name of the importance criterion.
        evaluation: what the metric was measured on, as far as it is known; empty for a plain function.
        baseline: metric of the unpruned network, or None before it is measured.
        sensitivities: ``{parameter: {ratio: relative loss}}`` so far.
    """

    path: Path | None
    fingerprint: str
    criterion: str
    evaluation: str = ''
    baseline: float | None = None
    sensitivities: Sensitivities = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing has been measured yet."""
        return self.baseline is None and not self.sensitivities

    @classmethod
    def resume(cls, path: Source | None, fingerprint: str, criterion: str, evaluation: str = '') -> SensitivityFile:
        """Continue the analysis in ``path``, or start one there; the file is written, to find out now if it cannot be.

        A file without any measurement, of a process that was killed before the first, belongs to nothing.

        Raises:
            CheckpointError: the file belongs to another program, other weights, criterion or evaluation, is
                PaddleSlim's pickle, is damaged, or cannot be written.
        """
        fresh = cls(Path(path) if path is not None else None, fingerprint, criterion, evaluation)
        if fresh.path is None:
            return fresh
        state = fresh
        if fresh.path.exists():
            found = _read(fresh.path)
            if not found.empty:
                fresh._refuse_other(found)
                state = found
        state.save()
        return state

    def _refuse_other(self, found: SensitivityFile) -> None:
        evaluation = ('the data or metric of the evaluation', self.evaluation, found.evaluation)
        for what, mine, theirs in (*self._sources(found), evaluation):
            if mine != theirs:
                raise CheckpointError(
                    f'{self.path} is stale: {what} changed since it was written ({theirs or "unknown"!r}, now '
                    f'{mine or "unknown"!r}). Its losses would be wrong here: name another '
                    'sensitivities_file, or delete this one'
                )

    def _sources(self, found: SensitivityFile) -> tuple[tuple[str, str, str], ...]:
        """Return what losses stem from, in words, here and in another file."""
        return (
            ('the network (its operators or the values of its parameters)', self.fingerprint, found.fingerprint),
            ('the criterion', self.criterion, found.criterion),
        )

    def add(self, parameter: str, ratio: float, loss: float) -> None:
        """Record one evaluation and save."""
        self.sensitivities.setdefault(parameter, {})[ratio] = loss
        self.save()

    def remove_if_empty(self) -> None:
        """Take the file away again where not even the baseline could be measured: it would say nothing."""
        if self.path is not None and self.empty:
            self.path.unlink(missing_ok=True)

    def save(self) -> None:
        """Replace the file by the present state, atomically.

        Raises:
            CheckpointError: the folder cannot be written to.
        """
        if self.path is None:
            return
        content = {
            'version': _VERSION,
            'fingerprint': self.fingerprint,
            'criterion': self.criterion,
            'evaluation': self.evaluation,
            'baseline': self.baseline,
            'sensitivities': {
                parameter: {repr(ratio): loss for ratio, loss in sorted(curve.items())}
                for parameter, curve in self.sensitivities.items()
            },
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, json.dumps(content, indent=1, allow_nan=False) + '\n')
        except OSError as error:
            raise CheckpointError(f'cannot write the sensitivities to {self.path}: {error}') from error


def load_sensitivities(sensitivities_file: Source) -> Sensitivities:
    """Read ``{parameter: {ratio: relative loss}}`` from a file that :func:`sensitivity` wrote.

    PaddleSlim's pickles are read as well, without executing anything in them.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is a pickle of something else.
    """
    path = Path(sensitivities_file)
    data = _bytes_of(path)
    return read_sensitivity_pickle(data, str(path)) if is_pickle(data) else _decode(path, data).sensitivities


def measured_otherwise(sensitivities_file: Source, program: Any, scope: Any, criterion: str) -> list[str]:
    """Say what has changed since a file was written, where its losses are used without being measured again.

    Args:
        sensitivities_file: of :func:`sensitivity`, or PaddleSlim's pickle, which does not tell what it belongs to.
        program: the network now; its IR counts as a part of it.
        scope: its parameters.
        criterion: name of the importance criterion now.

    Returns:
        A sentence for each difference.

    Raises:
        CheckpointError: the file is unusable.
    """
    path = Path(sensitivities_file)
    data = _bytes_of(path)
    if is_pickle(data):
        return [f'{path} does not say what network its losses belong to']
    here = SensitivityFile(None, fingerprint(program, scope), criterion)
    return [
        f'{path} was measured otherwise: {what} changed since it was written'
        for what, mine, theirs in here._sources(_decode(path, data))
        if mine != theirs
    ]


def merge_sensitive(sensitivities: Sequence[Mapping[str, Mapping[float, float]] | Source]) -> Sensitivities:
    """Join sensitivities that were measured apart, for instance at different ratios by several processes.

    Args:
        sensitivities: dictionaries or paths of files, in any mixture. Where two give a loss for the same parameter
            and ratio the later counts, and a warning says so if they differ.

    Returns:
        ``{parameter: {ratio: relative loss}}``, ratios ascending.

    Raises:
        ConfigError: nothing to merge, or an entry that is neither dictionary nor path.
        CheckpointError: a file is unusable, or two files stem from different networks or criteria.
    """
    if isinstance(sensitivities, (str, os.PathLike, Mapping)) or not sensitivities:
        raise ConfigError('merge_sensitive takes a non-empty list of dictionaries or file names')
    merged: Sensitivities = {}
    first: SensitivityFile | None = None
    for source in sensitivities:
        if isinstance(source, Mapping):
            curves: Mapping[str, Mapping[float, float]] = source
        elif isinstance(source, (str, os.PathLike)):
            curves, first = _from_file(Path(source), first)
        else:
            raise ConfigError(f'merge_sensitive takes dictionaries or file names, not {type(source).__name__}')
        for parameter, curve in curves.items():
            _merge_curve(merged.setdefault(parameter, {}), parameter, curve)
    return {parameter: dict(sorted(curve.items())) for parameter, curve in merged.items()}


def _from_file(path: Path, first: SensitivityFile | None) -> tuple[Sensitivities, SensitivityFile | None]:
    data = _bytes_of(path)
    if is_pickle(data):
        return read_sensitivity_pickle(data, str(path)), first
    state = _decode(path, data)
    if first is not None and (first.fingerprint, first.criterion) != (state.fingerprint, state.criterion):
        raise CheckpointError(
            f'{first.path} and {path} describe different networks, weights or criteria; to merge them all the same, '
            'pass the dictionaries that load_sensitivities returns'
        )
    return state.sensitivities, first or state


def _merge_curve(merged: dict[float, float], parameter: str, curve: Mapping[float, float]) -> None:
    for key, value in curve.items():
        ratio, loss = float(key), float(value)
        if ratio in merged and merged[ratio] != loss:
            _LOG.warning('%s at ratio %g: loss %g is replaced by %g', parameter, ratio, merged[ratio], loss)
        merged[ratio] = loss


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f'cannot read sensitivities from {path}: {error}') from error


def _read(path: Path) -> SensitivityFile:
    data = _bytes_of(path)
    if is_pickle(data):
        raise CheckpointError(
            f'{path} looks like a pickle of PaddleSlim, which does not say what network it belongs to, so it cannot be '
            'continued. Name another sensitivities_file, and join both with merge_sensitive([old, new]) afterwards'
        )
    return _decode(path, data)


def _decode(path: Path, data: bytes) -> SensitivityFile:
    try:
        content: dict[str, Any] = json.loads(data)
        if content['version'] != _VERSION:
            raise CheckpointError(f'{path} has format version {content["version"]!r}; this release reads {_VERSION}')
        baseline = content['baseline']
        curves = {
            str(parameter): {_finite(ratio): _finite(loss) for ratio, loss in curve.items()}
            for parameter, curve in content['sensitivities'].items()
        }
        return SensitivityFile(
            path,
            str(content['fingerprint']),
            str(content['criterion']),
            str(content.get('evaluation', '')),
            None if baseline is None else _finite(baseline),
            curves,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{path} is damaged or not a sensitivity file ({error}); delete it to start anew'
        ) from error


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f'{value!r} is not a finite number')
    return number
