"""Models and arrays as the command line names them."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paddleslim_ng.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from paddleslim_ng.runtime import InferenceModel
    from paddleslim_ng.runtime.model_files import ModelFiles

__all__ = ['feeds_for', 'find_files', 'load_model', 'read_arrays', 'read_shapes']


def find_files(path: str, arguments: argparse.Namespace) -> ModelFiles:
    """Find the files of a model.

    Raises:
        DataError: one is missing.
    """
    from paddleslim_ng.runtime.model_files import find_named_model

    return find_named_model(path, arguments.model_filename, arguments.params_filename)


def load_model(path: str, arguments: argparse.Namespace) -> InferenceModel:
    """Load a model into a scope of its own.

    Raises:
        DataError: it is missing or damaged.
    """
    import paddle

    from paddleslim_ng.runtime.model_loading import load_model_files

    paddle.enable_static()
    return load_model_files(find_files(path, arguments), paddle.static.Scope())


def read_arrays(path: str | None) -> dict[str, npt.NDArray[Any]] | None:
    """Read the arrays of an ``.npz`` file; None where no file is named.

    This comes before Paddle is imported: Paddle 2.6 brings a zlib of its own that crashes on compressed arrays.

    Raises:
        DataError: the file is missing or damaged.
    """
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise DataError(f'{path!r} holds one array without a name: write it with numpy.savez(path, NAME=array)')
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f'cannot read arrays from {path!r}: {error}') from error


def read_shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """Parse ``NAME=D,D,..``.

    Raises:
        ConfigError: a text is not of that form.
    """
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition('=')
        try:
            shapes[name] = [int(size) for size in sizes.split(',')]
        except ValueError as error:
            raise ConfigError(f'--shape takes NAME=D,D,.. such as image=1,3,224,224, not {text!r}') from error
        if not name or min(shapes[name]) < 1:
            raise ConfigError(f'--shape takes NAME=D,D,.. with sizes of at least 1, not {text!r}')
    return shapes


def feeds_for(
    models: Sequence[InferenceModel],
    arrays: Mapping[str, npt.NDArray[Any]] | None,
    batch: int,
    shapes: Mapping[str, Sequence[int]],
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays to feed: those given, or made-up ones for the inputs of all the models.

    Raises:
        ConfigError: a batch below 1.
        GraphError: a shape for an input that no model has.
    """
    if arrays is not None:
        return dict(arrays)
    if batch < 1:
        raise ConfigError(f'--batch must be at least 1, not {batch}')
    from paddleslim_ng.errors import GraphError
    from paddleslim_ng.runtime import synthesize_feeds

    names = {name for model in models for name in model.feeds}
    strangers = sorted(set(shapes).difference(names))
    if strangers:
        raise GraphError(f'no model has an input {strangers}; there are {sorted(names)}')
    found: dict[str, npt.NDArray[Any]] = {}
    for model in models:
        wanted = [name for name in model.feeds if name not in found]
        own = {name: shapes[name] for name in wanted if name in shapes}
        found.update(synthesize_feeds(model.program, wanted, batch=batch, shapes=own))
    return found
