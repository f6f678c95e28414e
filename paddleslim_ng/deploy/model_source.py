"""A model in any of the forms that users have, as files that a runtime loads."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, is_legacy_program, is_pir_program
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.runtime import model_files
from paddleslim_ng.runtime.feeds import data_inputs
from paddleslim_ng.runtime.inference_model import InferenceModel, save_inference_model
from paddleslim_ng.runtime.model_loading import load_model_files
from paddleslim_ng.runtime.model_requirements import ancestors

__all__ = ['ModelFiles', 'check_feeds', 'is_quantized', 'saved_files']

_SUFFIXES = tuple(model_files.PROGRAMS.values())
_QUANTIZATION_WORDS = ('quantize_linear', 'fake_quantize', 'fake_channel_wise_quantize')


@dataclass(frozen=True)
class ModelFiles:
    """An inference model on disk.

    Attributes:
        program: ``.json`` or ``.pdmodel``.
        parameters: ``.pdiparams``.
    """

    program: Path
    parameters: Path

    @property
    def prefix(self) -> Path:
        """Path without suffix."""
        return self.program.with_suffix('')

    def load(self) -> InferenceModel:
        """Load the model into a scope of its own."""
        return load_model_files(model_files.ModelFiles(self.program, self.parameters), paddle.static.Scope())

    def as_pdmodel(self, folder: Path) -> ModelFiles:
        """Return the model as a ``.pdmodel``, translated into ``folder`` where it is a ``.json``.

        Raises:
            UnsupportedOpError: operators that have no counterpart there.
        """
        if self.program.suffix == '.pdmodel':
            return self
        program, feeds, fetches, scope = self.load()
        saved = save_inference_model(
            program, folder / self.program.stem, feeds, fetches, scope, format='pdmodel', check=False
        )
        return ModelFiles(saved.program_file, saved.parameter_file)


def saved_files(
    model: Any,
    folder: Path,
    *,
    feeds: Collection[str] | None = None,
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
) -> ModelFiles:
    """Return the files of a model; a program is saved first.

    Args:
        model: path prefix of a saved model, the files that :func:`paddleslim_ng.runtime.model_files.find_model` found,
            an :class:`InferenceModel`, or a program of either IR.
        folder: takes the files of a program.
        feeds: of a program: names of the inputs it may be given; what the outputs depend on where None.
        fetches: of a program: its outputs; where None, what ``save_inference_model`` finds from ``feeds``.
        scope: of a program: holds its parameters; Paddle's global scope where None.

    Raises:
        ConfigError: a program without feeds and fetches, or something that is no model.
        DataError: a file is missing.
        GraphError: the program cannot be saved.
    """
    if isinstance(model, (str, os.PathLike)):
        return ModelFiles(*model_files.model_files(model))
    if isinstance(model, model_files.ModelFiles):
        if model.program.suffix in _SUFFIXES and model.parameters.is_file():
            return ModelFiles(*model)
        model = load_model_files(model, paddle.static.Scope())  # Paddle 1's files are not what the runtimes take
    targets: list[Any] | None
    if isinstance(model, InferenceModel):
        program, names, targets, scope = model
    else:
        program, names, targets = _program_parts(model, feeds, fetches)
    folder.mkdir(parents=True, exist_ok=True)
    saved = save_inference_model(program, folder / 'model', names, targets, scope, check=False)
    return ModelFiles(saved.program_file, saved.parameter_file)


def _program_parts(
    model: Any, feeds: Collection[str] | None, fetches: Iterable[Any] | None
) -> tuple[Any, list[str], list[Any] | None]:
    program = model.program if isinstance(model, GraphWrapper) else model
    if not (is_legacy_program(program) or is_pir_program(program)):
        raise ConfigError(
            'a model is a path prefix, an InferenceModel as load_inference_model returns it, or a program, not '
            f'{type(model).__name__}'
        )
    if fetches is None and feeds is None:
        raise ConfigError(
            'say with fetches=[...] which outputs of the program the model has, or with feeds which inputs'
        )
    graph = GraphWrapper(program)
    targets = None if fetches is None else [graph.var(item) for item in fetches]
    wanted: Collection[str] = ancestors(targets or []) if feeds is None else feeds
    return program, [var.name() for var in data_inputs(graph) if var.name() in wanted], targets


def check_feeds(model: InferenceModel, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check that there is an array of the right element type and shape for every input of a model.

    Raises:
        DataError: naming the input, and what it takes.
    """
    graph = GraphWrapper(model.program)
    for name in model.feeds:
        var = graph.var(name)
        if name not in feeds:
            raise DataError(f'the model has an input {name!r} and the feeds have {sorted(feeds)}')
        array = np.asarray(feeds[name])
        wanted = list(var.shape())
        fits = len(wanted) == array.ndim and all(size in (-1, have) for size, have in zip(wanted, array.shape))
        if not fits or str(array.dtype) != var.dtype():
            raise DataError(
                f'the input {name!r} takes {var.dtype()} of shape {wanted} (-1 is open), not {array.dtype} of shape '
                f'{list(array.shape)}'
            )


def is_quantized(program: Any) -> bool:
    """Tell whether a program of either IR has quantization operators."""
    return any(word in op.type() for op in GraphWrapper(program).ops() for word in _QUANTIZATION_WORDS)
