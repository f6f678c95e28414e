"""Batch norms folded into the weights before them, as runtimes do, so that what is quantized is what is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, OpWrapper, VarWrapper, load_array
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.removal import remove_operators
from paddleslim_ng.errors import DataError, EquivalenceError
from paddleslim_ng.quant.folding_patterns import Foldable, find_foldable, scale_outputs
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.quant.placement import own_scope, users_by_name
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['FoldedModel', 'fold_batch_norm']

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class FoldedModel:
    """What :func:`fold_batch_norm` returns.

    Attributes:
        model: program, feeds, fetches and a scope of its own.
        folded: by the name of the output of each batch norm that went, the weight that took it in.
        skipped: by the name of its output, for each batch norm that stays, why.
        difference: largest absolute difference between the outputs before and after.
        relative_difference: the same as a fraction of the largest absolute output.
    """

    model: InferenceModel
    folded: Mapping[str, str]
    skipped: Mapping[str, str]
    difference: float
    relative_difference: float

    @property
    def program(self) -> Any:
        """The program."""
        return self.model.program

    @property
    def scope(self) -> Any:
        """Its parameters."""
        return self.model.scope


def fold_batch_norm(
    program: Any,
    feeds: Iterable[Any],
    fetches: Iterable[Any] | None = None,
    scope: Any = None,
    *,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
    tolerance: float = 1e-5,
) -> FoldedModel:
    """Fold every batch norm that directly follows weights into them, and compare what comes out.

    With ``k = scale / sqrt(variance + epsilon)``, weights become ``weight * k`` along their output channels, and the
    bias ``(bias - mean) * k + beta``; it stays under the name that ``beta`` has. Convolutions, transposed ones (grouped
    as well) and products are covered, with a bias of their own or without.

    Args:
        program: a program of either IR, or a GraphWrapper.
        feeds: names, Variables or Values of the inputs.
        fetches: names, Variables or Values of the outputs; as for ``save_inference_model`` where None.
        scope: parameters; Paddle's global scope where None. Neither it nor ``program`` is changed.
        feed: arrays for the comparison; made up where missing.
        tolerance: largest difference allowed, as a fraction of the largest absolute output.

    Returns:
        The part of the program between ``feeds`` and ``fetches``, in test mode, with new parameters. All names of
        tensors that are left are those of ``program``.

    Raises:
        GraphError: an unknown feed or fetch, or a parameter missing in the scope.
        DataError: the program cannot run on the feed.
        EquivalenceError: the outputs differ by more than ``tolerance``.
    """
    scope = scope if scope is not None else paddle.static.global_scope()
    part = inference_part(program, feeds, fetches, scope)
    original = inference_part(part.program, part.feeds, part.fetches, scope)
    kept = [GraphWrapper.name_of(item) for item in part.fetches]
    graph = GraphWrapper(part.program)
    folded: dict[str, str] = {}
    skipped: dict[str, str] = {}
    arrays: Arrays = {}
    doomed: list[OpWrapper] = []
    users = users_by_name(graph)
    with matching_ir(part.program):
        for norm in [op for op in graph.ops() if op.type() == 'batch_norm']:
            output = norm.outputs('Y')[0].name()
            found = find_foldable(norm, kept, users)
            values = found if isinstance(found, str) else _folded_values(found, scope)
            if isinstance(found, str) or isinstance(values, str):
                skipped[output] = str(values)
                continue
            folded[output] = found.weight.name()
            arrays.update(_write(graph, found, values))
            doomed += [op for op in (norm, found.addition, found.reshaping) if op is not None]
        _remove(part.program, doomed)
    after = GraphWrapper(part.program)
    model = part._replace(fetches=[after.var(name).raw for name in kept], scope=own_scope(after, scope, arrays))
    arrived = {**synthesize_feeds(original.program, original.feeds), **(feed or {})}
    return FoldedModel(model, folded, skipped, *_compare(original, model, arrived, tolerance))


def _folded_values(found: Foldable, scope: Any) -> tuple[Arrays, npt.NDArray[np.float32]] | str:
    """Return the new weight, by name, and the new bias; or why there is none."""
    gamma, beta, mean, variance = (
        load_array(scope, found.norm.inputs(slot)[0].name()).astype(np.float64)
        for slot in ('Scale', 'Bias', 'Mean', 'Variance')
    )
    spread = variance + float(found.norm.attr('epsilon'))
    if not np.all(spread > 0):
        return 'it has a variance that is negative or NaN'
    factors = gamma / np.sqrt(spread)
    weight = load_array(scope, found.weight.name()).astype(np.float64)
    bias = load_array(scope, found.bias.name()).astype(np.float64).reshape(-1) if found.bias is not None else 0.0
    changed = scale_outputs(found.layer, weight, factors).astype(np.float32)
    return {found.weight.name(): changed}, ((bias - mean) * factors + beta).astype(np.float32)


def _write(graph: GraphWrapper, found: Foldable, values: tuple[Arrays, npt.NDArray[np.float32]]) -> Arrays:
    """Let a bias be added to what the layer makes, under the name of what the batch norm made."""
    weights, bias = values
    beta = found.norm.inputs('Bias')[0]
    rank = len(found.product.shape())
    attrs = {}
    if graph.ir == 'legacy':
        attrs = {'axis': found.axis if found.axis != rank - 1 else -1}
    elif found.axis != rank - 1:
        bias = bias.reshape([-1 if place == found.axis else 1 for place in range(rank)])
    here = Insertion(graph, after=found.norm)
    _set_shape(beta, bias.shape)
    here.op('elementwise_add', {'X': found.product, 'Y': beta}, attrs, into=found.norm.outputs('Y')[0])
    return {**weights, beta.name(): bias}


def _set_shape(var: VarWrapper, shape: tuple[int, ...]) -> None:
    if var.shape() != shape:
        var.set_shape(shape)


def _remove(program: Any, doomed: list[OpWrapper]) -> None:
    """Remove operators that were found before others were inserted."""
    keys = {_key(op) for op in doomed}
    graph = GraphWrapper(program)
    remove_operators(graph, [op for op in graph.ops() if _key(op) in keys])


def _key(op: OpWrapper) -> int:
    return int(op.raw.id()) if hasattr(op.raw, 'id') else id(op.raw)


def _compare(
    original: InferenceModel, model: InferenceModel, feed: Mapping[str, npt.NDArray[Any]], tolerance: float
) -> tuple[float, float]:
    given = {name: feed[name] for name in original.feeds}
    try:
        expected = Executor().run(original.program, given, original.fetches, scope=original.scope)
    except (ValueError, RuntimeError, TypeError, OSError, IndexError) as error:
        shapes = {name: list(np.shape(array)) for name, array in given.items()}
        raise DataError(f'the program cannot run on a feed of shapes {shapes}: pass a feed that suits it') from error
    found = Executor().run(model.program, given, model.fetches, scope=model.scope)
    difference = relative = 0.0
    for before, after in zip(map(np.asarray, expected), map(np.asarray, found)):
        if not before.size or np.array_equal(before, after, equal_nan=True):
            continue
        gap = float(np.max(np.abs(before.astype('float64') - after.astype('float64'))))
        scale = float(np.max(np.abs(before.astype('float64'))))
        if not gap <= tolerance * scale:
            raise EquivalenceError(
                f'after folding batch norms the outputs differ by {gap:.3g}, where the largest is {scale:.3g} '
                f'(allowed: {tolerance:.3g} of it); nothing was changed'
            )
        difference, relative = max(difference, gap), max(relative, gap / scale)
    return difference, relative
