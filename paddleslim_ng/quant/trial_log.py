"""The log of a search: every trial, written in one step after each, from which a killed search goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from paddleslim_ng.errors import CheckpointError
from paddleslim_ng.runtime.atomic import atomic_write

__all__ = ['Trial', 'TrialLog']

_FORMAT: Final = 'paddleslim_ng.quantization_search'
_VERSION: Final = 1


@dataclass(frozen=True)
class Trial:
    """One choice of options and what it was worth.

    Attributes:
        options: by name.
        loss: distance from the float model, the smaller the better; infinite where it failed.
        seconds: how long it took.
        reason: why it failed, or ``''``.
    """

    options: Mapping[str, Any]
    loss: float
    seconds: float
    reason: str = ''


@dataclass
class TrialLog:
    """The trials of a search, in their order.

    Attributes:
        path: of the file.
        settings: what the search was asked for; a log of other settings is not continued.
        trials: all so far.
    """

    path: Path
    settings: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, resume: bool) -> TrialLog:
        """Read a log, or start one where there is none or ``resume`` is False. Nothing is written.

        Raises:
            CheckpointError: the file is damaged, or of a search with other settings.
        """
        log = cls(path, json.loads(json.dumps(settings)))
        if not resume or not path.exists():
            return log
        try:
            found = json.loads(path.read_text('utf-8'))
            if (found['format'], found['version']) != (_FORMAT, _VERSION):
                raise ValueError(f'it holds {found["format"]!r}')
            trials = [
                Trial(**{**item, 'loss': math.inf if item['loss'] is None else item['loss']})
                for item in found['trials']
            ]
            before = dict(found['settings'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f'{path} is no log of a search, or damaged: {error}; resume=False starts anew'
            ) from error
        differ = sorted(key for key in {*before, *log.settings} if before.get(key) != log.settings.get(key))
        if differ:
            raise CheckpointError(
                f'{path} is the log of another search, as {", ".join(differ)} differ: take another folder, or '
                'resume=False to start anew'
            )
        log.trials = trials
        return log

    @property
    def best(self) -> Trial | None:
        """The trial of the least loss, the first one among equals; None where all failed."""
        usable = [trial for trial in self.trials if math.isfinite(trial.loss)]
        return min(usable, key=lambda trial: trial.loss, default=None)

    @property
    def seconds(self) -> float:
        """How long all trials took together, those before an interruption included."""
        return sum(trial.seconds for trial in self.trials)

    def save(self) -> None:
        """Write the file in one step; the folder is made."""
        trials = [{**asdict(trial), 'loss': trial.loss if math.isfinite(trial.loss) else None} for trial in self.trials]
        content = {'format': _FORMAT, 'version': _VERSION, 'settings': self.settings}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, json.dumps({**content, 'trials': trials}, indent=1))
