"""Files from a program that was trained quantized, with batch norms folded into the integers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, clone_program, load_array
from paddleslim_ng.errors import EquivalenceError, GraphError
from paddleslim_ng.quant.aware_checks import check_trained
from paddleslim_ng.quant.aware_spec import float_program, spec_of
from paddleslim_ng.quant.batch_norm_folding import FoldedModel, fold_batch_norm
from paddleslim_ng.quant.export import ExportedModel, export_quantized
from paddleslim_ng.quant.folding_patterns import find_foldable
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.quant.placement import own_scope, users_by_name
from paddleslim_ng.quant.quantizers import fake_quantize, quantize
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['FoldedQuantization', 'export_aware', 'fold_quantized']

Arrays = Mapping[str, npt.NDArray[Any]]
_TRANSPOSED = ('conv2d_transpose', 'depthwise_conv2d_transpose')


class FoldedQuantization(NamedTuple):
    """What :func:`fold_quantized` returns.

    Attributes:
        model: the float program without the batch norms that could be folded, with parameters of its own.
        spec: its quantization: the same integers, or their negatives where a batch norm changes the sign, on scales
            multiplied by the batch norm's factors.
        folded: by the name of the output of each batch norm that went, the weight that took it in.
        skipped: by the name of its output, for each batch norm that stays, why.
    """

    model: InferenceModel
    spec: QuantizationSpec
    folded: Mapping[str, str]
    skipped: Mapping[str, str]


def export_aware(
    program: Any,
    path_prefix: str | os.PathLike[str],
    feeds: Iterable[Any],
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    *,
    format: str = 'quantize_linear',
    fold: bool = True,
    feed: Arrays | None = None,
) -> ExportedModel:
    """Save what was trained quantized: integers on disk, proved to compute what the quantized program computes.

    Args:
        program: what :func:`paddleslim_ng.quant.quant_aware` returned, of either IR, trained.
        path_prefix: path without suffix.
        feeds: names, Variables or Values of the inputs.
        fetches: of the outputs; as for ``save_inference_model`` where None. Give logits.
        scope: weights and scales; Paddle's global scope where None. It stays as it is.
        format: as for :func:`paddleslim_ng.quant.export_quantized`.
        fold: fold batch norms into the weights first; integers stay what they are.
        feed: arrays for the comparisons; made up where missing.

    Returns:
        The files, and how far they are from the simulation.

    Raises:
        EquivalenceError: what is saved is not what was trained.
        GraphError: the program is not quantized, was never trained, or a batch norm cannot be folded into its integers.

    Other errors are those of ``export_quantized``.

    Example:
        >>> print(slim.quant.export_aware(test_program, 'model/int8', ['image'], [logits]))
    """
    scope = scope if scope is not None else paddle.static.global_scope()
    source = program.program if isinstance(program, GraphWrapper) else program
    inputs, targets = list(feeds), list(fetches) if fetches is not None else None
    whole = spec_of(clone_program(source, for_test=True), scope)
    bare = float_program(source)
    part = inference_part(bare, inputs, targets, scope)
    names = [GraphWrapper.name_of(item) for item in part.fetches]
    arrays = {**synthesize_feeds(part.program, part.feeds), **(feed or {})}
    _check_trained(source, part, _within(whole, part), arrays)
    if not fold:
        return export_quantized(bare, whole, path_prefix, inputs, names, scope, format=format, feed=arrays)
    folded = fold_quantized(bare, whole, inputs, names, scope, feed=arrays)
    model = folded.model
    return export_quantized(
        model.program, folded.spec, path_prefix, inputs, names, model.scope, format=format, feed=arrays
    )


def fold_quantized(
    program: Any,
    spec: QuantizationSpec,
    feeds: Iterable[Any],
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    *,
    feed: Arrays | None = None,
) -> FoldedQuantization:
    """Fold batch norms into weights that are quantized already, so that the integers stay.

    Args:
        program: a float program of either IR, or a GraphWrapper.
        spec: its quantization, as training left it.
        feeds: names, Variables or Values of the inputs.
        fetches: of the outputs; as for ``save_inference_model`` where None.
        scope: parameters; Paddle's global scope where None. Neither it nor ``program`` is changed.
        feed: arrays for the comparison of ``fold_batch_norm``.

    Raises:
        GraphError: a batch norm behind a grouped transposed convolution, whose scales the groups share.
        EquivalenceError: folded weights are not the same integers.

    Other errors are those of :func:`paddleslim_ng.quant.fold_batch_norm`.
    """
    scope = scope if scope is not None else paddle.static.global_scope()
    part = inference_part(program, feeds, fetches, scope)
    graph = GraphWrapper(part.program)
    kept = _within(spec, part)
    axes = _channel_axes(graph, part)
    weights = {tensor.name: load_array(scope, tensor.name) for tensor in kept.of_kind('weight')}
    on_grid = {name: fake_quantize(array, kept.tensors[name]) for name, array in weights.items()}
    folded = fold_batch_norm(part.program, part.feeds, part.fetches, own_scope(graph, scope, on_grid), feed=feed)
    tensors = dict(kept.tensors)
    for name in set(folded.folded.values()) & set(on_grid):
        tensors[name] = _rescaled(kept.tensors[name], axes[name], on_grid[name], weights[name], folded)
    quantization = QuantizationSpec(tensors, kept.operators, kept.skipped)
    return FoldedQuantization(folded.model, quantization, folded.folded, folded.skipped)


def _within(spec: QuantizationSpec, part: InferenceModel) -> QuantizationSpec:
    """Return what of a quantization concerns a part of the program."""
    graph = GraphWrapper(part.program)
    kept = {output: names for output, names in spec.operators.items() if graph.has_var(output)}
    skipped = {name: reason for name, reason in spec.skipped.items() if graph.has_var(name)}
    return QuantizationSpec(spec.only(kept).tensors, kept, skipped)


def _channel_axes(graph: GraphWrapper, part: InferenceModel) -> dict[str, int]:
    """Return the axis of the output channels in every weight that a batch norm is folded into."""
    names = [GraphWrapper.name_of(item) for item in part.fetches]
    users = users_by_name(graph)
    found = {}
    for op in graph.ops():
        place = find_foldable(op, names, users) if op.type() == 'batch_norm' else ''
        if isinstance(place, str):
            continue
        layer, weight = place.layer, place.weight
        if layer.type() in _TRANSPOSED and int(layer.attr('groups') or 1) > 1:
            raise GraphError(
                f'the batch norm that makes {op.outputs("Y")[0].name()!r} cannot be folded into the integers of '
                f'{weight.name()!r}, whose groups share their scales: export with fold=False'
            )
        rank = len(weight.shape())
        found[weight.name()] = rank - 1 if rank == 2 else 1 if layer.type() in _TRANSPOSED else 0
    return found


def _rescaled(
    tensor: TensorQuantization,
    axis: int,
    on_grid: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    folded: FoldedModel,
) -> TensorQuantization:
    """Return the quantization on which a folded weight has the integers that it had before, up to signs of channels."""
    after = load_array(folded.scope, tensor.name)
    others = tuple(place for place in range(after.ndim) if place != axis)
    largest, changed = np.abs(on_grid).max(axis=others), np.abs(after).max(axis=others)
    scale = np.broadcast_to(tensor.scale, largest.shape).astype(np.float64)
    with np.errstate(divide='ignore', invalid='ignore'):
        factors = np.where(largest > 0, changed.astype(np.float64) / largest, 1.0)
    scale = np.where(factors > 0, scale * factors, scale)
    found = replace(tensor, axis=axis, scale=scale.astype(np.float32))
    codes, before = quantize(after, found), quantize(weight, tensor)
    flat = [np.moveaxis(item, axis, 0).reshape(item.shape[axis], -1).astype(int) for item in (codes, before)]
    same, negated = (np.all(flat[0] == sign * flat[1], axis=1) for sign in (1, -1))
    if not np.all(same | negated | (factors == 0)):
        raise EquivalenceError(f'after folding batch norms, {tensor.name!r} has other integers than were trained')
    return found


def _check_trained(quantized: Any, part: InferenceModel, spec: QuantizationSpec, feed: Arrays) -> None:
    """Check that what is exported is what was trained."""
    names = [GraphWrapper.name_of(item) for item in part.fetches]
    trained = inference_part(quantized, part.feeds, names, part.scope)
    check_trained(trained.program, spec, part.scope, {name: feed[name] for name in part.feeds})
