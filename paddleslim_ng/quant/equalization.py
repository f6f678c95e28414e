"""Cross-layer equalization: scales of channels moved between neighbouring layers, so that weights use their range."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper, OpWrapper, clone_program, load_array
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.removal import remove_operators
from paddleslim_ng.errors import ConfigError, DataError, EquivalenceError
from paddleslim_ng.quant.calibration import calibrate
from paddleslim_ng.quant.channel_ranges import input_ranges, output_ranges, scale_inputs, scale_outputs, weight_of
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.equalization_pairs import EqualizedPair, find_pairs
from paddleslim_ng.quant.placement import own_scope
from paddleslim_ng.runtime.feeds import synthesize_feeds
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['EqualizedModel', 'equalize']

Array = npt.NDArray[np.float64]
_SETTLED: Final = 1e-3


@dataclass(frozen=True)
class EqualizedModel:
    """What :func:`equalize` returns.

    Attributes:
        model: the same program, save for ``replaced``, with a scope of its own.
        factors: by the names of the weights of each pair, what the output channels of the first were divided by.
        skipped: by its output, for each layer that is not the first of a pair, why.
        spread: by the name of each weight that was changed, the largest ratio of the range of the whole weight to that
            of one of its output channels, before and after: what one scale for the whole weight loses.
        replaced: by the output of each ``relu6`` that ``relu`` took the place of, the largest value on the data.
        difference: largest absolute difference between the outputs before and after.
        relative_difference: the same as a fraction of the largest absolute output.
    """

    model: InferenceModel
    factors: Mapping[tuple[str, str], npt.NDArray[np.float64]]
    skipped: Mapping[str, str]
    spread: Mapping[str, tuple[float, float]]
    replaced: Mapping[str, float]
    difference: float
    relative_difference: float


def equalize(
    model: InferenceModel,
    *,
    rounds: int = 20,
    feeds: Iterable[Feed] | None = None,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
    tolerance: float = 1e-5,
) -> EqualizedModel:
    """Equalize the ranges of channels between layers that follow each other, and compare what comes out.

    Cross-layer equalization (Nagel et al., 2019). Where the ranges (largest magnitudes) of channel ``i`` are ``r1`` as
    an output of the first layer and ``r2`` as an input of the second one, ``s = sqrt(r1 / r2)``: weights and bias of
    the first are divided by it, the weights of the second multiplied, and both have the range ``sqrt(r1 * r2)``. In
    float nothing changes, since what is between the layers (relu, leaky relu, pooling) lets a positive factor pass.
    ``relu6`` does not: scaled, it would cut every channel off elsewhere. With ``feeds``, one whose output stays below 6
    on all of this data becomes ``relu``, which is the same on it and lets factors pass; on other data, what would have
    been cut off is not any more. One that reaches 6 stays, with the reason in ``skipped``.
    Chains are gone through until no factor changes. A channel without weights on one side keeps its scale. Do it after
    folding batch norms and before calibration: activations change by the same factors.

    Args:
        model: an inference model; it is left as it is.
        rounds: how often chains are gone through at most.
        feeds: calibration data, to tell which ``relu6`` cut nothing off; None leaves them all.
        feed: arrays for the comparison; the first of ``feeds`` where missing, or made up.
        tolerance: largest difference allowed, as a fraction of the largest absolute output.

    Raises:
        ConfigError: ``rounds`` is not positive.
        DataError: a weight that is not finite, or data that the program cannot run on.
        GraphError: the scope lacks a parameter.
        EquivalenceError: the outputs differ by more than ``tolerance``.

    Example:
        >>> folded = slim.quant.fold_batch_norm(program, feeds, fetches)
        >>> equalized = slim.quant.equalize(folded.model)
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f'rounds must be a positive whole number, not {rounds!r}')
    graph = GraphWrapper(model.program)
    largest, first = _largest_cut(graph, model, feeds)
    pairs, skipped = find_pairs(graph, [GraphWrapper.name_of(item) for item in model.fetches], largest)
    arrays = _parameters(pairs, model.scope)
    before = _spreads(pairs, arrays)
    factors: dict[tuple[str, str], Array] = {
        _key(pair): np.ones(len(output_ranges(pair.first, arrays[_key(pair)[0]]))) for pair in pairs
    }
    for _ in range(rounds if pairs else 0):
        if max([_equalize(pair, arrays, factors) for pair in pairs]) < _SETTLED:
            break
    after = _spreads(pairs, arrays)
    changed = {name: array.astype(np.float32) for name, array in arrays.items()}
    replaced = {
        op.all_outputs()[0].name(): largest[op.all_outputs()[0].name()] for pair in pairs for op in pair.cutting
    }
    found = _uncut(model._replace(scope=own_scope(graph, model.scope, changed)), replaced)
    arrived = {**synthesize_feeds(model.program, model.feeds), **first, **(feed or {})}
    difference = _compare(model, found, arrived, tolerance)
    spreads = {name: (before[name], after[name]) for name in before}
    return EqualizedModel(found, factors, skipped, spreads, replaced, *difference)


def _largest_cut(
    graph: GraphWrapper, model: InferenceModel, feeds: Iterable[Feed] | None
) -> tuple[dict[str, float], Feed]:
    """Return the largest output of every ``relu6`` on the data, and its first batch."""
    names = [op.all_outputs()[0].name() for op in _rectifiers(graph)]
    if feeds is None or not names:
        return {}, {}
    first: Feed = {}
    seen = calibrate(graph.program, _noting(feeds, first), names, model.scope)
    return {name: seen[name].abs_max for name in names}, first


def _rectifiers(graph: GraphWrapper) -> list[OpWrapper]:
    return [op for op in graph.ops() if op.type() == 'relu6']


def _noting(feeds: Iterable[Feed], first: Feed) -> Iterator[Feed]:
    for feed in feeds:
        if not first:
            first.update(feed)
        yield feed


def _uncut(model: InferenceModel, outputs: Collection[str]) -> InferenceModel:
    """Return a model with ``relu`` in the place of some ``relu6``."""
    if not outputs:
        return model
    names = [GraphWrapper.name_of(item) for item in model.fetches]
    program = clone_program(model.program)
    with matching_ir(program):
        graph = GraphWrapper(program)
        doomed = []
        for place, op in enumerate(_rectifiers(graph)):
            if op.all_outputs()[0].name() in outputs:
                doomed.append(place)
                Insertion(graph, after=op).op('relu', {'X': op.all_inputs()[0]}, into=op.all_outputs()[0])
        graph = GraphWrapper(program)
        rectifiers = _rectifiers(graph)
        remove_operators(graph, [rectifiers[place] for place in doomed])
    graph = GraphWrapper(program)
    return model._replace(program=program, fetches=[graph.var(name).raw for name in names])


def _key(pair: EqualizedPair) -> tuple[str, str]:
    return weight_of(pair.first).name(), weight_of(pair.second).name()


def _parameters(pairs: Sequence[EqualizedPair], scope: Any) -> dict[str, Array]:
    names = [name for pair in pairs for name in (*_key(pair), *([pair.bias.parameter.name()] if pair.bias else []))]
    arrays = {name: load_array(scope, name).astype(np.float64) for name in dict.fromkeys(names)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f'the parameter {name!r} has NaN or infinity, and no range')
    return arrays


def _equalize(pair: EqualizedPair, arrays: dict[str, Array], factors: dict[tuple[str, str], Array]) -> float:
    """Equalize one pair, and return the largest change of a logarithm."""
    one, two = _key(pair)
    first, second = output_ranges(pair.first, arrays[one]), input_ranges(pair.second, arrays[two])
    alive = (first > 0) & (second > 0)
    ratio = np.divide(first, second, out=np.ones_like(first), where=alive)
    factor = np.sqrt(ratio)
    arrays[one] = scale_outputs(pair.first, arrays[one], 1 / factor)
    arrays[two] = scale_inputs(pair.second, arrays[two], factor)
    if pair.bias is not None:
        name = pair.bias.parameter.name()
        arrays[name] = arrays[name] / factor.reshape(arrays[name].shape)
    factors[(one, two)] *= factor
    return float(np.abs(np.log(factor)).max())


def _spreads(pairs: Sequence[EqualizedPair], arrays: Mapping[str, Array]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        for layer in (pair.first, pair.second):
            ranges = output_ranges(layer, arrays[weight_of(layer).name()])
            used = ranges[ranges > 0]
            found[weight_of(layer).name()] = float(used.max() / used.min()) if used.size else 1.0
    return found


def _compare(
    model: InferenceModel, changed: InferenceModel, feed: Mapping[str, npt.NDArray[Any]], tolerance: float
) -> tuple[float, float]:
    given = {name: feed[name] for name in model.feeds}
    expected, found = (Executor().run(item.program, given, item.fetches, scope=item.scope) for item in (model, changed))
    difference = relative = 0.0
    for before, after in zip(map(np.asarray, expected), map(np.asarray, found)):
        gap = float(np.max(np.abs(before.astype('float64') - after), initial=0.0))
        scale = float(np.max(np.abs(before.astype('float64')), initial=0.0))
        if not gap <= tolerance * scale:
            raise EquivalenceError(
                f'after equalization the outputs differ by {gap:.3g}, where the largest is {scale:.3g} (allowed: '
                f'{tolerance:.3g} of it); the model is as it was'
            )
        difference, relative = max(difference, gap), max(relative, gap / scale if scale else gap)
    return difference, relative
