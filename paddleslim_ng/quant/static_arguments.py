"""Arguments that the functions from files to files have in common, checked and read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.data_sources import Feed, read_feeds
from paddleslim_ng.runtime import InferenceModel, load_inference_model

__all__ = ['all_spellings', 'check_named', 'file_prefix', 'load_with_feeds', 'one_source']

# One product has several names: which one a file has depends on the version of Paddle and on the IR.
_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {'mul': ('mul', 'matmul', 'matmul_v2')}


def all_spellings(types: Iterable[str]) -> list[str]:
    """Return types of operators with all names that a file may have for ``'mul'``."""
    return list(dict.fromkeys(name for type in types for name in _SPELLINGS.get(type, (type,))))


def load_with_feeds(
    executor: Any,
    model_dir: str | os.PathLike[str],
    scope: Any,
    model_filename: str | None,
    params_filename: str | None,
    source: Any,
    samples: bool,
    batch_size: int,
    batch_nums: int | None,
) -> tuple[InferenceModel, Iterator[Feed]]:
    """Load a saved model and read calibration data for it; arguments are those of :func:`quant_post_static`."""
    home = scope if scope is not None else paddle.static.Scope()
    model = load_inference_model(
        model_dir, home, executor, model_filename=model_filename, params_filename=params_filename
    )
    graph = GraphWrapper(model.program)
    inputs = [graph.var(name) for name in model.feeds]
    return model, read_feeds(inputs, source, samples=samples, batch_size=batch_size, batch_nums=batch_nums)


def check_named(name: str, value: Any, known: Sequence[Any]) -> None:
    """Raise ConfigError where an argument has a value that is not known."""
    if value not in known:
        near = nearest_names(value, [item for item in known if isinstance(item, str)]) if isinstance(value, str) else ''
        raise ConfigError(f'{name}={value!r} is not available; known: {", ".join(map(repr, known))}{near}')


def one_source(batches: Any, samples: Any, loader: Any) -> tuple[Any, bool]:
    """Return the source of calibration data, and whether it gives samples."""
    given = [item for item in (batches, samples, loader) if item is not None]
    if len(given) != 1:
        raise ConfigError(
            f'{len(given)} sources of calibration data were given: give one of batch_generator, sample_generator and '
            'data_loader'
        )
    return given[0], samples is not None


def file_prefix(folder: str | os.PathLike[str], program: str, parameters: str) -> Path:
    """Return the path without suffix that the files are written under."""
    stem = next((program[: -len(end)] for end in ('.pdmodel', '.json') if program.endswith(end)), program)
    if parameters not in (stem, f'{stem}.pdiparams'):
        raise ConfigError(
            f'save_params_filename must be {stem + ".pdiparams"!r}, to go with {program!r}; not {parameters!r}'
        )
    return Path(folder, stem)
