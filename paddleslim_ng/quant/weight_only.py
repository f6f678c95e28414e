"""Weight-only quantization: integers on disk, float in the computation, and no data."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.building import WEIGHT_TYPES, Bits, spec_from_thresholds
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.formats import check_format
from paddleslim_ng.quant.packing import packs
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.static_arguments import all_spellings, check_named, file_prefix
from paddleslim_ng.quant.targets import TARGETS, find_targets
from paddleslim_ng.runtime import InferenceModel, load_inference_model, save_inference_model
from paddleslim_ng.runtime.inference_model import SavedModel

__all__ = ['WeightOnlyModel', 'quant_post_dynamic', 'quant_post_only_weight', 'quantize_weights']

_LOOKUP: Final = 'lookup_table_v2'


@dataclass(frozen=True)
class WeightOnlyModel:
    """What weight-only quantization made.

    Attributes:
        spec: which weights are integers, on what scale, and which operators stay in float and why.
        model: the same program, with weights that are what their integers stand for.
        exported: the files with integers and how they were checked, or None where none were written.
        floats: the files of ``model``, or None: as large as before, for tools that do not know the operators that take
            integers apart. Paddle Lite's converter makes integers of them again (``precision='int8_storage'`` or
            ``'int16_storage'`` of ``slim.deploy.to_lite``).
        bits_per_weight: how many bits a quantized weight takes, scales included.
    """

    spec: QuantizationSpec
    model: InferenceModel
    exported: ExportedModel | None
    floats: SavedModel | None
    bits_per_weight: float

    def __str__(self) -> str:
        """Report in words."""
        weights = self.spec.of_kind('weight')
        lines = [f'{len(weights)} weights of {self.bits_per_weight:.2f} bits each, scales included']
        if self.exported is not None:
            lines.append(str(self.exported))
        else:
            lines += [f'in float: {name}: {reason}' for name, reason in self.spec.skipped.items()]
        if self.floats is not None:
            lines.append(f'{self.floats.program_file} (the same weights in float): {self.floats.file_bytes:,} bytes')
        return '\n'.join(lines)


def quantize_weights(
    model: InferenceModel,
    path_prefix: str | os.PathLike[str] | None = None,
    *,
    weight_bits: Bits = 8,
    weight_quantize_type: str = 'channel_wise_abs_max',
    group_size: int | None = None,
    quantizable_op_type: Collection[str] | None = None,
    skip_tensor_list: Iterable[str] = (),
    not_quant_pattern: Iterable[str] = ('skip_quant',),
    format: str = 'packed',
    float_prefix: str | os.PathLike[str] | None = None,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
) -> WeightOnlyModel:
    """Quantize the weights of a model in memory; :func:`quant_post_dynamic` does so with files.

    Activations stay in float, and no data is needed: scales are those of the largest magnitudes. Smaller files are the
    gain. Paddle Inference turns the integers into floats once, when it loads the model; Paddle's executor does so in
    every run.

    Args:
        model: a program of either IR with its feeds, fetches and scope; none of them is changed.
        path_prefix: path without suffix of the files; None writes none.
        weight_bits: width of the integers, 2 to 16: of all weights, or by name.
        weight_quantize_type: one of :data:`WEIGHT_TYPES`: one scale for a weight, or for each of its output channels.
        group_size: give every so many neighbouring inputs of each output channel a scale of their own, which few bits
            need; the last group may be smaller.
        quantizable_op_type: canonical types of operators; all that have weights where None.
        skip_tensor_list: operators that read one of these tensors stay in float.
        not_quant_pattern: operators with such a name stay in float.
        format: ``'packed'`` or ``'decomposed'``: with two integers of up to 4 bits in a byte, but for weights too small
            for that to pay, or each in its own.
        float_prefix: path without suffix where the float model of the same weights is saved; None does not.
        feed: arrays for the comparison of what is written; made up where missing.

    Returns:
        The quantization with its files; ``print`` it for a report.

    Raises:
        ConfigError: an unknown name, a number out of range, a format for activations, or nothing to quantize.
        DataError: a weight with NaN or infinity; the message names it. Or a folder that cannot be written.
        GraphError: the scope lacks a parameter, or the program a tensor that is to be skipped.
        EquivalenceError: the files do not compute what was meant; none are written then.

    Example:
        >>> model = slim.runtime.load_inference_model('float/model')
        >>> print(slim.quant.quantize_weights(model, 'int4/model', weight_bits=4, group_size=64))
    """
    spec = _spec(
        model,
        quantizable_op_type,
        list([skip_tensor_list] if isinstance(skip_tensor_list, str) else skip_tensor_list),
        not_quant_pattern,
        {'weight_bits': weight_bits, 'weight_quantize_type': weight_quantize_type, 'group_size': group_size},
    )
    if check_format(format, spec).ir is not None:
        raise ConfigError(f"format={format!r} wants quantized activations; weights alone take 'packed' or 'decomposed'")
    program, feeds, fetches, scope = model
    simulated = simulate(program, spec, scope)
    graph = GraphWrapper(simulated.program)
    outputs = [graph.var(GraphWrapper.name_of(item)).raw for item in fetches]
    made = InferenceModel(simulated.program, feeds, outputs, simulated.scope)
    exported = floats = None
    if path_prefix is not None:
        exported = export_quantized(program, spec, path_prefix, feeds, fetches, scope, format=format, feed=feed)
        spec.save(Path(f'{os.fspath(path_prefix)}.quantization.json'))
    if float_prefix is not None:
        floats = save_inference_model(made.program, float_prefix, feeds, outputs, made.scope, feed=feed)
    return WeightOnlyModel(spec, made, exported, floats, _bits_per_weight(graph, spec, packed=format == 'packed'))


def quant_post_dynamic(
    model_dir: str | os.PathLike[str],
    save_model_dir: str | os.PathLike[str],
    model_filename: str | None = None,
    params_filename: str | None = None,
    save_model_filename: str | None = None,
    save_params_filename: str | None = None,
    quantizable_op_type: Sequence[str] = ('conv2d', 'mul'),
    weight_bits: int = 8,
    generate_test_model: bool = False,
    weight_quantize_type: str = 'channel_wise_abs_max',
    *,
    group_size: int | None = None,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
) -> WeightOnlyModel:
    """Quantize the weights of a saved inference model with the arguments of PaddleSlim.

    Args:
        model_dir: path without suffix, or folder, of a model of either format; see ``load_inference_model``.
        save_model_dir: folder; the model with integers is written to ``quantized_model`` in it.
        model_filename: name of the program file in ``model_dir``.
        params_filename: name of the parameter file in ``model_dir``.
        save_model_filename: name of the program file that is written, ``model`` where None. Its suffix is that of the
            format of the model that was given.
        save_params_filename: name of the parameter file, the same but for the suffix.
        quantizable_op_type: types of operators. ``'mul'`` stands for products by a weight, whatever they are called in
            the file (``mul``, ``matmul``, ``matmul_v2``). Others with weights are named in the report.
        weight_bits: 8 or 16 as with PaddleSlim, or any width from 2 on; up to 4 bits take half a byte in weights that
            are not small.
        generate_test_model: write a float model of the same weights to ``test_model`` in ``save_model_dir``, too. That
            is what Paddle Lite's converter takes: see :class:`WeightOnlyModel`.
        weight_quantize_type: one of :data:`WEIGHT_TYPES`.
        group_size: see :func:`quantize_weights`.
        feed: arrays for the comparison of what is written; made up where missing.

    Returns:
        The quantization; ``print`` it for a report with the sizes of the files.

    Raises:
        ConfigError: an argument that has no such value; nothing is read or written then.
        DataError: a missing or damaged file, or a weight with NaN or infinity.
        EquivalenceError: the files do not compute what was meant; none are written then.

    Example:
        >>> print(slim.quant.quant_post_dynamic('float/model', 'int8', generate_test_model=True))
    """
    check_named('weight_quantize_type', weight_quantize_type, tuple(WEIGHT_TYPES))
    given = [quantizable_op_type] if isinstance(quantizable_op_type, str) else list(quantizable_op_type)
    for type in given:
        check_named('quantizable_op_type', type, tuple(TARGETS))
    stem = save_model_filename or 'model'
    folder = Path(save_model_dir)
    prefix = file_prefix(folder / 'quantized_model', stem, save_params_filename or f'{Path(stem).stem}.pdiparams')
    model = load_inference_model(
        model_dir, paddle.static.Scope(), model_filename=model_filename, params_filename=params_filename
    )
    return quantize_weights(
        model,
        prefix,
        weight_bits=weight_bits,
        weight_quantize_type=weight_quantize_type,
        group_size=group_size,
        quantizable_op_type=all_spellings(given),
        float_prefix=folder / 'test_model' / prefix.name if generate_test_model else None,
        feed=feed,
    )


# PaddleSlim's other name.
quant_post_only_weight = quant_post_dynamic


def _spec(
    model: InferenceModel,
    types: Collection[str] | None,
    skipped_tensors: list[str],
    patterns: Iterable[str],
    options: Mapping[str, Any],
) -> QuantizationSpec:
    """Return the quantization of the weights, and why operators with weights stay in float."""
    chosen: dict[str, Any] = {'skip_tensor_list': skipped_tensors, 'not_quant_pattern': patterns}
    found = spec_from_thresholds(model.program, None, scope=model.scope, quantizable_op_type=types, **chosen, **options)
    others = _others(model, found, chosen)
    if not found.operators:
        raise ConfigError(f'no weights can be quantized; in float stay {others or "all operators"}')
    return QuantizationSpec(found.tensors, found.operators, {**found.skipped, **others})


def _others(model: InferenceModel, found: QuantizationSpec, chosen: Mapping[str, Any]) -> dict[str, str]:
    """Return the reasons of all operators with weights that were not asked for."""
    graph = GraphWrapper(model.program)
    reasons = dict(found.skipped)
    for target in find_targets(graph, **chosen).operators:
        if target.output not in found.operators:
            reasons.setdefault(target.output, f'{target.op.type()} is not among quantizable_op_type')
    for op in graph.ops():
        if op.type() == _LOOKUP and not op.is_bwd_op():
            table = op.inputs('W')[0].name()
            if table not in found.tensors:
                reasons[op.all_outputs()[0].name()] = f'{table!r} is a table of embeddings: see quant_embedding'
    return reasons


def _bits_per_weight(graph: GraphWrapper, spec: QuantizationSpec, *, packed: bool) -> float:
    total = count = 0
    for tensor in spec.of_kind('weight'):
        size = int(np.prod(graph.var(tensor.name).shape()))
        stored = 4 if packed and packs(tensor.bits, size) else 8 if tensor.bits <= 8 else 16
        total += size * stored + 32 * tensor.scale.size
        count += size
    return total / count
