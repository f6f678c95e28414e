"""Quantized models on disk, proved to hold integers and to compute what the simulation computes."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, clone_program, load_array
from paddleslim_ng.core.channel_biases import flatten_biases
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant.export_checks import Agreement, check_integers, compare
from paddleslim_ng.quant.formats import QuantizedFormat, check_format
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.quant.local_agreement import check_operators
from paddleslim_ng.quant.placement import float_weights, own_scope, place_tensors
from paddleslim_ng.quant.quantizers import quantize
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.inference_model import save_inference_model
from paddleslim_ng.runtime.model_loading import InferenceModel, load_inference_model, model_in_ir

__all__ = ['ExportedModel', 'export_quantized', 'quantized_part']

Arrays = dict[str, npt.NDArray[Any]]
_IMAGES = 4


@dataclass(frozen=True)
class ExportedModel:
    """What :func:`export_quantized` wrote.

    Attributes:
        program_file: ``.pdmodel`` or ``.json``.
        parameter_file: ``.pdiparams``.
        format: one of :data:`FORMATS`.
        float_bytes: size of both files where the same model is saved in float.
        agreement: how far the outputs of the files are from those of the simulation.
        distinct: for each quantized weight, how many different integers the file holds.
        skipped: for each operator that stays in float though it could be quantized, why; by its first output.
        left_out: quantized operators that the outputs do not depend on, by their first outputs.
    """

    program_file: Path
    parameter_file: Path
    format: str
    float_bytes: int
    agreement: Agreement
    distinct: Mapping[str, int]
    skipped: Mapping[str, str]
    left_out: tuple[str, ...]

    @property
    def prefix(self) -> Path:
        """Path without suffix."""
        return self.program_file.with_suffix('')

    @property
    def file_bytes(self) -> int:
        """Size of both files together."""
        return self.program_file.stat().st_size + self.parameter_file.stat().st_size

    def __str__(self) -> str:
        """Report in words."""
        size, before = self.file_bytes, self.float_bytes
        lines = [
            f'{self.program_file} ({self.format}): {size:,} bytes, {size / before:.1%} of {before:,} in float',
            f'{len(self.distinct)} weights hold integers; {self.agreement}',
        ]
        lines += [f'in float: {name}: {reason}' for name, reason in self.skipped.items()]
        lines += [f'not needed for the outputs: {name}' for name in self.left_out]
        return '\n'.join(lines)


class _Part(NamedTuple):
    """What is exported: the part of a program between feeds and fetches."""

    model: InferenceModel
    spec: QuantizationSpec
    left_out: tuple[str, ...]


def export_quantized(
    program: Any,
    spec: QuantizationSpec,
    path_prefix: str | os.PathLike[str],
    feeds: Iterable[Any],
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    *,
    format: str = 'quantize_linear',
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
) -> ExportedModel:
    """Save the quantized form of a program, reload it, and check what came out.

    The files appear under their names when the reloaded weights are the integers that ``spec`` makes of those in
    ``scope``, every quantized operator computes what that of :func:`simulate` does on the same integers, and the
    reloaded outputs are within one quantization step of the simulation's, or twice what quantization changed if that
    is more. A failure leaves older files of that name as they were.

    Args:
        program: a float program of either IR, or a GraphWrapper; training programs are cut to their forward part.
        spec: what is quantized.
        path_prefix: path without suffix; the folder is created.
        feeds: names, Variables or Values of the inputs.
        fetches: names, Variables or Values of the outputs; as for ``save_inference_model`` where None. Give logits:
            softmax hides differences.
        scope: parameters; Paddle's global scope where None. Neither it nor ``program`` is changed.
        format: ``'quantize_linear'`` (a ``.pdmodel`` with integers, for Paddle Lite and Paddle Inference),
            ``'fake_quantize'`` (a ``.pdmodel`` for the same, with integers in float32), ``'decomposed'`` (integers
            and plain arithmetic, in the IR of the program; for Paddle itself, up to 16 bits) or ``'packed'`` (the same,
            with two integers of up to 4 bits in a byte).
        feed: arrays for the comparison; made up where missing. Give real data: outputs of data that no calibration has
            seen are cut off.

    Returns:
        The files and the figures of the checks; ``print`` it for a report.

    Raises:
        ConfigError: an unknown format, or one that cannot hold ``spec``.
        GraphError: ``spec`` does not fit the program, or the program cannot be saved.
        UnsupportedOpError: operators that cannot be translated from PIR.
        DataError: a weight that is not finite, a feed that the program cannot run on, or a folder not to be written.
        EquivalenceError: weights or outputs of the reloaded model are not what they should be.
    """
    form = check_format(format, spec)
    scope = scope if scope is not None else paddle.static.global_scope()
    part = _part_of(program, spec, list(feeds), fetches, scope)
    arrays = {**synthesize_feeds(part.model.program, part.model.feeds), **(feed or {})}
    quantized, integers = _rewritten(part, form)
    simulated = simulate(part.model.program, part.spec, scope)
    reference = part.model._replace(program=simulated.program, scope=simulated.scope)
    prefix = Path(path_prefix)
    with _folder_beside(prefix) as folder:
        before = _save(part.model, folder / 'float', quantized).file_bytes
        operators = _check_operators(reference, quantized, part, arrays)
        _save(quantized, folder / prefix.name, quantized)
        reloaded = load_inference_model(folder / prefix.name, paddle.static.Scope())
        distinct = check_integers(reloaded, integers, part.spec, form)
        agreement = compare(part.model, reference, reloaded, arrays, part.spec, operators)
    saved = _save(quantized, prefix, quantized)
    return ExportedModel(
        saved.program_file,
        saved.parameter_file,
        format,
        before,
        agreement,
        distinct,
        part.spec.skipped,
        part.left_out,
    )


def _part_of(
    program: Any, spec: QuantizationSpec, feeds: list[Any], fetches: Iterable[Any] | None, scope: Any
) -> _Part:
    source = program.program if isinstance(program, GraphWrapper) else program
    place_tensors(GraphWrapper(clone_program(source, for_test=True)), spec)
    model = inference_part(source, feeds, fetches, scope)
    part = GraphWrapper(model.program)
    kept = [name for name in spec.operators if part.has_var(name)]
    left_out = tuple(name for name in spec.operators if name not in kept)
    if not kept:
        raise ConfigError('no operator that the outputs depend on is quantized: there is nothing to export')
    here = QuantizationSpec(
        spec.only(kept).tensors,
        {name: spec.operators[name] for name in kept},
        {name: reason for name, reason in spec.skipped.items() if part.has_var(name)},
    )
    return _Part(model, here, left_out)


def quantized_part(model: InferenceModel, spec: QuantizationSpec, format: str) -> tuple[InferenceModel, InferenceModel]:
    """Return the float program that :func:`export_quantized` would export, and the quantized one that it would save.

    Args:
        model: the float model.
        spec: what is quantized.
        format: one of :data:`FORMATS`.

    Returns:
        Both models; tensors have the same names, and those of the quantized one the IR of the format.

    Raises:
        ConfigError: an unknown format, or one that cannot hold ``spec``.
        GraphError: ``spec`` does not fit the program.
        UnsupportedOpError: operators that cannot be translated from PIR.
    """
    form = check_format(format, spec)
    part = _part_of(model.program, spec, list(model.feeds), model.fetches, model.scope)
    return part.model, _rewritten(part, form)[0]


def _rewritten(part: _Part, form: QuantizedFormat) -> tuple[InferenceModel, Arrays]:
    """Return the quantized model, and the integers of its weights."""
    program, feeds, fetches, scope = part.model
    translated, targets = model_in_ir(program, feeds, fetches, form.ir)
    if translated is program:
        translated = clone_program(program)
    names = [GraphWrapper.name_of(item) for item in targets]
    graph = GraphWrapper(translated)
    with matching_ir(translated):
        biases = flatten_biases(graph, partial(load_array, scope)).arrays if form.ir == 'legacy' else {}
        graph = GraphWrapper(translated)
        placed = place_tensors(graph, part.spec)
        weights = float_weights(placed, scope)
        integers = {name: quantize(array, part.spec.tensors[name]) for name, array in weights.items()}
        changed = {**biases, **form.write(graph, placed, integers)}
    graph = GraphWrapper(translated)
    model = InferenceModel(translated, feeds, [graph.var(name).raw for name in names], own_scope(graph, scope, changed))
    return model, integers


def _check_operators(reference: InferenceModel, quantized: InferenceModel, part: _Part, feed: Arrays) -> float:
    """Compare operator by operator; the first run, so that a feed that does not suit the program shows here."""
    graph = GraphWrapper(part.model.program)
    try:
        return check_operators(reference, quantized, graph, _few(graph, part.model.feeds, feed), part.spec)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(np.shape(array)) for name, array in feed.items()}
        raise DataError(f'the program cannot run on a feed of shapes {shapes}: pass a feed that suits it') from error


def _few(graph: GraphWrapper, names: list[str], feed: Arrays) -> Arrays:
    """Return the first images of a batch: all activations are held in memory at once."""
    lengths = {len(feed[name]) for name in names if np.ndim(feed[name])}
    is_batch = len(lengths) == 1 and all(graph.var(name).shape()[:1] == (-1,) for name in names)
    return {name: array[:_IMAGES] for name, array in feed.items()} if is_batch else feed


def _save(model: InferenceModel, prefix: Path, like: InferenceModel) -> Any:
    """Save a model in the format of another's IR, without running it."""
    format = 'json' if GraphWrapper(like.program).ir == 'pir' else 'pdmodel'
    program, feeds, fetches, scope = model
    return save_inference_model(program, prefix, feeds, fetches, scope, format=format, check=False)


@contextmanager
def _folder_beside(prefix: Path) -> Iterator[Path]:
    """Yield a folder on the same disk; what the disk refuses is a DataError."""
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f'.{prefix.name}.{secrets.token_hex(2)}.', dir=prefix.parent))
    except OSError as error:
        raise DataError(f'cannot write the model {prefix}: {error.strerror or error}') from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
