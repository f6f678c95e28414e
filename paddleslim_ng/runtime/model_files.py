"""Where the files of an inference model are, as Paddle's users name them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from paddleslim_ng.core.paddle_compat import in_pir_mode
from paddleslim_ng.errors import DataError

__all__ = [
    'PARAMETERS',
    'PROGRAMS',
    'ModelFiles',
    'find_model',
    'find_named_model',
    'format_of',
    'model_files',
    'prefix_of',
]

PARAMETERS: Final = '.pdiparams'
PROGRAMS: Final = {'pir': '.json', 'legacy': '.pdmodel'}
_OLD_PROGRAM: Final = '__model__'
_OLD_PARAMETERS: Final = '__params__'


class ModelFiles(NamedTuple):
    """The files of an inference model.

    Attributes:
        program: program file.
        parameters: one file with all parameters, or a folder with a file for each.
    """

    program: Path
    parameters: Path


def find_model(
    path_prefix: str | os.PathLike[str],
    model_filename: str | None = None,
    params_filename: str | None = None,
    prefer: str | None = None,
) -> ModelFiles:
    """Find the files of an inference model by Paddle's rules.

    ``path_prefix`` alone is a path without suffix, next to which Paddle 2 and 3 put ``.pdmodel`` or ``.json`` and
    ``.pdiparams``; or a folder of Paddle 1 with ``__model__``, and ``__params__`` or a file for each parameter.

    With a file name it is a folder: without ``model_filename`` the program is ``__model__``, without
    ``params_filename`` each parameter has a file of its own; both may leave out the suffix.

    Args:
        path_prefix: path without suffix, or folder.
        model_filename: name of the program file in that folder.
        params_filename: name of the file of all parameters in that folder.
        prefer: ``'pir'`` or ``'legacy'``: the format wanted where there are both; that of Paddle's present mode where
            None.

    Raises:
        DataError: a file is missing; the message lists what was looked for.
    """
    prefix = Path(path_prefix)
    suffixes = _suffixes(prefer)
    if model_filename is None and params_filename is None:
        beside = [prefix.with_name(prefix.name + suffix) for suffix in suffixes]
        if not any(path.is_file() for path in beside) and (prefix / _OLD_PROGRAM).is_file():
            return _old_folder(prefix)
        return ModelFiles(_first(beside, path_prefix), prefix.with_name(prefix.name + PARAMETERS))
    if model_filename is None:
        names = [_OLD_PROGRAM, _OLD_PROGRAM + PROGRAMS['pir']]
    else:
        names = [*(model_filename + suffix for suffix in suffixes), model_filename]
    program = _first([prefix / name for name in names], path_prefix)
    if params_filename is None:
        return ModelFiles(program, prefix)
    return ModelFiles(program, _first([prefix / (params_filename + PARAMETERS), prefix / params_filename], path_prefix))


def find_named_model(
    path: str | os.PathLike[str], model_filename: str | None = None, params_filename: str | None = None
) -> ModelFiles:
    """Find a model as people name it: by a path without suffix, a program file, or a folder that holds one model.

    Args:
        path: see above.
        model_filename: as with :func:`find_model`, which is followed where a file name is given.
        params_filename: the same.

    Raises:
        DataError: a file is missing, or the folder holds several models.
    """
    if model_filename is not None or params_filename is not None:
        return find_model(path, model_filename, params_filename)
    formats = {suffix: ir for ir, suffix in PROGRAMS.items()}
    return find_model(prefix_of(path), prefer=formats.get(Path(path).suffix))


def prefix_of(path: str | os.PathLike[str]) -> Path:
    """Return the path without suffix of a model that is named by that, by its program file or by its folder.

    Raises:
        DataError: the folder holds several models, or none.
    """
    path, programs = Path(path), PROGRAMS.values()
    if path.suffix in (*programs, PARAMETERS):
        return path.with_suffix('')
    beside = any(path.with_name(path.name + suffix).is_file() for suffix in programs)
    if beside or not path.is_dir() or (path / _OLD_PROGRAM).is_file():
        return path
    found = sorted({item.with_suffix('') for item in path.iterdir() if item.suffix in programs})
    if len(found) == 1:
        return found[0]
    names = ', '.join(item.name for item in found) or 'none'
    raise DataError(
        f'the folder {os.fspath(path)!r} holds {len(found)} models ({names}): name one, or give its file names '
        '(model_filename, params_filename)'
    )


def model_files(path_prefix: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the program file and the parameter file next to a path without suffix.

    Where there are several program files, the one of Paddle's present mode comes first.

    Raises:
        DataError: a file is missing; the message lists what was looked for.
    """
    found = find_model(path_prefix)
    if not found.parameters.is_file():
        raise _missing(path_prefix, [found.parameters])
    return found.program, found.parameters


def format_of(content: bytes) -> str:
    """Return ``'pir'`` or ``'legacy'``, by the beginning of a program file: JSON, or a protobuf message."""
    return 'pir' if content[:64].lstrip()[:1] == b'{' else 'legacy'


def _suffixes(prefer: str | None) -> list[str]:
    wanted = prefer or ('pir' if in_pir_mode() else 'legacy')
    return sorted(PROGRAMS.values(), key=lambda suffix: suffix != PROGRAMS[wanted])


def _old_folder(folder: Path) -> ModelFiles:
    combined = folder / _OLD_PARAMETERS
    return ModelFiles(folder / _OLD_PROGRAM, combined if combined.is_file() else folder)


def _first(candidates: list[Path], asked: str | os.PathLike[str]) -> Path:
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise _missing(asked, candidates)
    return found


def _missing(asked: str | os.PathLike[str], candidates: Iterable[Path]) -> DataError:
    first, *others = candidates
    listed = ' or '.join([str(first), *(path.name for path in others)])
    return DataError(f'there is no inference model {os.fspath(asked)!r}: {listed} is missing')
