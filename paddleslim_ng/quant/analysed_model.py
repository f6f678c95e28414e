"""A model that is analysed: any of its layers can be quantized or stay in float, each form a simulated program."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, cut_program, has_array, load_array
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.building import spec_from_thresholds
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.formats import FORMATS
from paddleslim_ng.quant.observers import threshold
from paddleslim_ng.quant.placement import own_scope
from paddleslim_ng.quant.quantizers import dequantize
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.targets import find_targets
from paddleslim_ng.runtime.model_loading import InferenceModel, load_inference_model

__all__ = ['AnalysedModel', 'calibrated', 'from_files']

Array = npt.NDArray[Any]
_SUFFIX: Final = '.quantization.json'


@dataclass(frozen=True)
class AnalysedModel:
    """A float model and its quantization.

    Attributes:
        model: the float model.
        spec: its quantization.
        feeds: the data.
        quantized: what the weights and other parameters are in the quantized model, where that is not what ``spec``
            makes of those in ``model``.
    """

    model: InferenceModel
    spec: QuantizationSpec
    feeds: Sequence[Feed]
    quantized: Mapping[str, Array] = field(default_factory=dict)

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Return the first outputs of the quantized operators of each layer, which goes by the name of its weight."""
        weights = {tensor.name for tensor in self.spec.of_kind('weight')}
        found: dict[str, tuple[str, ...]] = {}
        for output, reads in self.spec.operators.items():
            name = next((read for read in reads if read in weights), output)
            found[name] = (*found.get(name, ()), output)
        return found

    def form(self, layers: Collection[str]) -> tuple[InferenceModel, QuantizationSpec | None]:
        """Return the model with some layers quantized, as a program in float, and the quantization of these.

        Raises:
            ConfigError: there is no such layer.
        """
        operators = self.layers()
        unknown = [name for name in layers if name not in operators]
        if unknown:
            raise ConfigError(f'{unknown[0]!r} is no layer; known: {list(operators)}')
        if not layers:
            return self.model, None
        spec = self.spec.only([output for name in layers for output in operators[name]], 'it stays in float')
        source = self.source(layers)
        program, scope = simulate(source.program, spec, source.scope)
        return _again(source, program, scope), spec

    def source(self, layers: Collection[str]) -> InferenceModel:
        """Return the float program with the parameters of the quantized model, save for layers that are not given."""
        kept = {name for name in self.layers() if name not in layers}
        changed = {name: array for name, array in self.quantized.items() if name not in kept}
        if not changed:
            return self.model
        return self.model._replace(scope=own_scope(GraphWrapper(self.model.program), self.model.scope, changed))

    def outputs(self, model: InferenceModel, names: Iterable[str] | None = None) -> list[list[Array]]:
        """Run a form of the model and return tensors of each batch; its outputs where no names are given."""
        wanted = [GraphWrapper.name_of(item) for item in model.fetches] if names is None else list(names)
        runner, rows = Executor(), []
        asked = [name for name in wanted if name not in model.feeds]
        # A loaded program fetches its outputs by operators of its own, which others do not go together with.
        part = cut_program(model.program, model.feeds, asked) if asked else None
        for feed in self.feeds:
            given = {name: feed[name] for name in model.feeds}
            arrays = runner.run(part, given, asked, scope=model.scope) if part is not None else []
            values = {**given, **dict(zip(asked, arrays))}
            rows.append([np.asarray(values[name]) for name in wanted])
        return rows


def calibrated(model: InferenceModel, feeds: Sequence[Feed], config: Mapping[str, Any]) -> AnalysedModel:
    """Quantize a float model by one pass over the data.

    Args:
        model: the float model.
        feeds: the data.
        config: of ``paddleslim_ng.quant.analysis_config``.

    Raises:
        ConfigError: nothing can be quantized.
    """
    chosen = {key: config[key] for key in ('skip_tensor_list', 'not_quant_pattern')}
    types, full = config['quantizable_op_type'], config['is_full_quantize']
    targets = find_targets(model.program, types=types, full=full, **chosen)
    if not targets.operators:
        raise ConfigError(f'no operator can be quantized; in float stay {dict(targets.skipped) or "all"}')
    seen = calibrate(model.program, feeds, targets.activations, model.scope)
    bits, percentile = config['activation_bits'], config['hist_percent']
    limits = {
        name: threshold(seen[name], config['algo'], bits=bits, percentile=percentile) for name in targets.activations
    }
    spec = spec_from_thresholds(
        model.program,
        limits,
        scope=model.scope,
        weight_bits=config['weight_bits'],
        activation_bits=bits,
        weight_quantize_type=config['weight_quantize_type'],
        quantizable_op_type=types,
        is_full_quantize=full,
        **chosen,
    )
    return AnalysedModel(model, spec, feeds)


def from_files(
    model: InferenceModel,
    feeds: Sequence[Feed],
    folder: str | os.PathLike[str],
    model_filename: str | None = None,
) -> AnalysedModel:
    """Take the quantization of a saved model that :func:`paddleslim_ng.quant.quant_post_static` wrote.

    Args:
        model: the float model.
        feeds: the data.
        folder: path without suffix, or folder, of the quantized model.
        model_filename: name of the program file in the folder.

    Raises:
        ConfigError: the ``.quantization.json`` beside the model is missing, or the float model is not the one that was
            quantized.
        DataError: the quantized model cannot be read.
    """
    path = _spec_file(Path(folder), model_filename)
    spec = QuantizationSpec.load(path)
    home = paddle.static.Scope()
    saved = load_inference_model(path.with_name(path.name[: -len(_SUFFIX)]), home)
    form = FORMATS[_format_of(GraphWrapper(saved.program))]
    graph = GraphWrapper(model.program)
    found: dict[str, Array] = {}
    try:
        for tensor in spec.of_kind('weight'):
            shape = graph.var(tensor.name).shape()
            found[tensor.name] = dequantize(form.read(home, tensor, shape), tensor)
    except GraphError as error:
        raise ConfigError(
            f'the float model is not the one that was quantized ({error}); where batch norm was folded first, set '
            "quant_config={'optimize_model': True}"
        ) from error
    for var in graph.all_parameters():
        name = var.name()
        if name not in found and has_array(home, name) and load_array(home, name).shape == var.shape():
            found[name] = load_array(home, name)
    return AnalysedModel(model, spec, feeds, found)


def _spec_file(folder: Path, model_filename: str | None) -> Path:
    """Return the file with the quantization of a saved model."""
    if folder.is_dir():
        stem = Path(model_filename).stem if model_filename else ''
        found = sorted(folder.glob(f'{stem or "*"}{_SUFFIX}'))
    else:
        found = [path for path in [folder.with_name(f'{folder.name}{_SUFFIX}')] if path.is_file()]
    if len(found) != 1:
        raise ConfigError(
            f'{os.fspath(folder)} has {len(found)} .quantization.json files: scales are read from the one that '
            'quantize_model and quant_post_static write beside the model. Without quant_model_dir the float model is '
            'quantized anew'
        )
    return found[0]


def _format_of(graph: GraphWrapper) -> str:
    types = {op.type() for op in graph.ops()}
    if 'dequantize_linear' in types:
        return 'quantize_linear'
    return 'fake_quantize' if any(type.startswith('fake_') for type in types) else 'decomposed'


def _again(model: InferenceModel, program: Any, scope: Any) -> InferenceModel:
    graph = GraphWrapper(program)
    fetches = [graph.var(GraphWrapper.name_of(item)).raw for item in model.fetches]
    return InferenceModel(program, list(model.feeds), fetches, scope)
