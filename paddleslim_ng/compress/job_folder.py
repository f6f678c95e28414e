"""The folder that a job writes into: where each file lies, and which job it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.runtime.atomic import atomic_write
from paddleslim_ng.runtime.model_files import ModelFiles

if TYPE_CHECKING:
    from pydantic import BaseModel

    from paddleslim_ng.compress.configuration import CompressionConfig

__all__ = ['JobFolder', 'changes_between', 'job_record', 'model_digest', 'plain_record']

_RECORD: Final = 'job.json'
# Keys of the section `compressor`, and options of strategies, that name what a job writes.
_OF_JOB: Final = ('checkpoint_path', 'best_path', 'metrics_file', 'visualdl', 'cache_path')
_OF_STRATEGIES: Final = (
    'float_model_save_path',
    'int8_model_save_path',
    'mobile_model_save_path',
    'inference_model_save_path',
    'sensitivities_file',
)
_INT8: Final = 'int8_model_save_path'
_INTEGERS: Final = (_INT8, 'inference_model_save_path')
_LISTED: Final = 3


class JobFolder:
    """A folder that belongs to one job: the same one goes on in it, and another one is refused.

    Args:
        path: the folder; it is made when the job begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def config_within(self, config: CompressionConfig) -> CompressionConfig:
        """Return a configuration whose relative paths of files to write lie in the folder.

        What it does not name gets a place there: ``checkpoints``, and ``int8`` for each strategy that quantizes and
        writes no integers elsewhere.
        """
        settings = _below(config.compressor, self.path, _OF_JOB)
        if settings.checkpoint_path is None:
            settings = settings.model_copy(update={'checkpoint_path': str(self.path / 'checkpoints')})
        silent = [name for name, one in config.instances.items() if _names_no_integers(one.options)]
        instances = {}
        for name, one in config.instances.items():
            options = one.options
            if options is not None and name in silent:
                options = options.model_copy(update={_INT8: 'int8' if len(silent) == 1 else f'int8-{name}'})
            kept = None if options is None else _below(options, self.path, _OF_STRATEGIES)
            instances[name] = replace(one, options=kept)
        return replace(config, compressor=settings, instances=instances)

    def require(self, record: Mapping[str, Any]) -> None:
        """Make sure that the folder holds nothing of another job.

        Args:
            record: of the present one, see :func:`job_record`.

        Raises:
            ConfigError: it does; the first differences are named.
            CheckpointError: the record in the folder is damaged.
        """
        file = self.path / _RECORD
        if not file.exists():
            return
        try:
            kept = json.loads(file.read_text('utf-8'))
        except (ValueError, OSError) as error:
            raise CheckpointError(f'{file}, which says what job the folder belongs to, is damaged: {error}') from error
        other = changes_between(kept, plain_record(record), '{key} is {former!r} there and {present!r} here')
        if other:
            raise ConfigError(f'{self.path} holds another job: {other}. Give another folder, or remove this one')

    def claim(self, record: Mapping[str, Any]) -> None:
        """Write down which job the folder belongs to; it is made where it is missing."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path / _RECORD, _text(record))


def job_record(config: CompressionConfig, **further: Any) -> dict[str, Any]:
    """Return what tells a job from others: its configuration as it was given, and what else is named."""
    plugins = {
        name: {'class': one.class_name, **(one.options.model_dump() if one.options is not None else {})}
        for name, one in config.instances.items()
    }
    return {**further, 'compressor': config.compressor.model_dump(), 'plugins': plugins}


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is read from a file."""
    return dict(json.loads(_text(record)))


def changes_between(former: Mapping[str, Any], present: Mapping[str, Any], form: str) -> str:
    """Return in words where two plain records differ, the first few keys by name; nothing where they do not.

    Args:
        former: as it was written.
        present: to compare with it.
        form: of a key's text, with the fields ``key``, ``former`` and ``present``.
    """
    old, new = dict(_leaves(former)), dict(_leaves(present))
    other = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    said = [form.format(key=key, former=old.get(key), present=new.get(key)) for key in other[:_LISTED]]
    more = f', and {len(other) - _LISTED} more differ' if len(other) > _LISTED else ''
    return '; '.join(said) + more


def model_digest(files: ModelFiles) -> str:
    """Return a short text that is the same for the same files of a model."""
    digest = hashlib.blake2b(digest_size=8)
    folder = files.parameters.is_dir()
    parameters = sorted(path for path in files.parameters.iterdir() if path.is_file()) if folder else [files.parameters]
    for path in dict.fromkeys([files.program, *parameters]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _below(options: Any, folder: Path, names: tuple[str, ...]) -> Any:
    """Return options in which paths are below a folder, as far as they are relative."""
    known = type(options).model_fields
    given = {name: getattr(options, name) for name in names if name in known}
    return options.model_copy(update={name: str(folder / path) for name, path in given.items() if path is not None})


def _names_no_integers(options: BaseModel | None) -> bool:
    known = type(options).model_fields if options is not None else {}
    return _INT8 in known and all(getattr(options, name, None) is None for name in _INTEGERS)


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1, default=str) + '\n'


def _leaves(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with dotted keys."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f'{key}.{name}' if key else name)
    else:
        yield key, value
