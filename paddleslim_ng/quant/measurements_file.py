"""Measurements on disk: one JSON file per analysis, rewritten atomically after every one of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from paddleslim_ng.analysis.fingerprint import fingerprint
from paddleslim_ng.errors import CheckpointError
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.runtime.atomic import atomic_write
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['MeasurementsFile', 'digest_of_feeds', 'identity_of']

_FORMAT: Final = 'paddleslim_ng.measurements'
_VERSION: Final = 1
Values = dict[str, dict[str, float]]


@dataclass
class MeasurementsFile:
    """Numbers measured one after another, and where they are kept.

    Attributes:
        path: the file, or None to keep nothing.
        identity: what the numbers belong to, in words and digests; a file with another identity is refused.
        values: ``{what: {setting: number}}`` so far.
    """

    path: Path | None
    identity: Mapping[str, str]
    values: Values = field(default_factory=dict)

    @classmethod
    def resume(cls, path: str | os.PathLike[str] | None, identity: Mapping[str, str]) -> MeasurementsFile:
        """Continue the measurements in ``path``, or start there; the file is written, to find out now if it cannot be.

        Raises:
            CheckpointError: the file belongs to something else, is damaged, or cannot be written.
        """
        state = cls(Path(path) if path is not None else None, dict(identity))
        if state.path is not None and state.path.exists():
            state.values = _read(state.path, state.identity)
        state.save()
        return state

    def known(self, what: str, setting: str) -> float | None:
        """Return what was measured, or None."""
        return self.values.get(what, {}).get(setting)

    def add(self, what: str, setting: str, value: float) -> None:
        """Record a number and save."""
        self.values.setdefault(what, {})[setting] = float(value)
        self.save()

    def save(self) -> None:
        """Replace the file by the present state, atomically.

        Raises:
            CheckpointError: the folder cannot be written to.
        """
        if self.path is None:
            return
        content = {'format': _FORMAT, 'version': _VERSION, 'identity': dict(self.identity), 'values': self.values}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, json.dumps(content, indent=1, allow_nan=False) + '\n')
        except OSError as error:
            raise CheckpointError(f'cannot write measurements to {self.path}: {error}') from error


def identity_of(model: InferenceModel, feeds: Iterable[Feed], **settings: Any) -> dict[str, str]:
    """Return what measurements on a model belong to: the network with its parameters, the data, and settings."""
    return {
        'network': fingerprint(model.program, model.scope),
        'data': digest_of_feeds(feeds),
        **{name: value if isinstance(value, str) else repr(value) for name, value in settings.items()},
    }


def digest_of_feeds(feeds: Iterable[Feed]) -> str:
    """Return a hexadecimal digest of arrays."""
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            digest.update(f'{name}|{array.dtype}|{array.shape}|'.encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path, identity: Mapping[str, str]) -> Values:
    try:
        content = json.loads(path.read_text('utf-8'))
        if content['format'] != _FORMAT or content['version'] != _VERSION:
            raise ValueError(f'{content["format"]} of version {content["version"]}, not {_FORMAT} of {_VERSION}')
        found = {str(key): str(value) for key, value in content['identity'].items()}
        values = {
            str(what): {str(key): _finite(value) for key, value in row.items()}
            for what, row in content['values'].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{path} is damaged or holds no measurements ({error}); delete it to start anew'
        ) from error
    for aspect, mine in identity.items():
        if found.get(aspect) != mine:
            raise CheckpointError(
                f'{path} is stale: its {aspect} is not that of now ({found.get(aspect, "unknown")!r}, now {mine!r}), '
                'so its numbers would be wrong here: name another file, or delete this one'
            )
    return values


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f'{value!r} is not a finite number')
    return number
