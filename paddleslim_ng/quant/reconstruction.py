"""Reconstruction: roundings of weights that make the outputs of layers or blocks most like those in float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, load_array, store_array
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.block_objective import BlockObjective
from paddleslim_ng.quant.blocks import Block, find_blocks, given_blocks
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.placement import own_scope
from paddleslim_ng.quant.quantizers import quantize
from paddleslim_ng.quant.rounding import Adam, SoftRounding, exact_weight
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.quant.stored_tensors import StoredTensors, kept_feeds
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['BlockResult', 'Learning', 'ReconstructedModel', 'reconstruct']

Array = npt.NDArray[Any]
# The penalty sets in after this fraction of the iterations, with the first exponent, and ends with the second one.
_WARM_UP: Final = 0.2
_BETAS: Final = (20.0, 2.0)


@dataclass(frozen=True)
class Learning:
    """How roundings are learned.

    Attributes:
        iterations: gradient steps for each block.
        batch_size: images in each step, drawn from all of the calibration data.
        lr: step size of Adam.
        strength: of the penalty that draws weights to integers, as a fraction of the error of rounding to the nearest.
        drop: fraction of the elements of activations that stay in float in each step, where activations are rounded.
        seed: of what is drawn.

    Raises:
        ConfigError: a value out of range.
    """

    iterations: int = 200
    batch_size: int = 32
    lr: float = 0.05
    strength: float = 0.5
    drop: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ('iterations', 'batch_size'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ConfigError(f'{name} must be a positive whole number, not {value!r}')
        if not (np.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f'lr must be positive, not {self.lr!r}')
        if not (np.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f'strength must not be negative, not {self.strength!r}')
        if not 0 <= self.drop < 1:
            raise ConfigError(f'drop must be from 0 to below 1, not {self.drop!r}')


@dataclass(frozen=True)
class BlockResult:
    """What became of one block.

    Attributes:
        block: inputs, output, operators and weights.
        nearest: mean square of its error over the calibration data, as a fraction of the mean square of its outputs,
            where weights are rounded to the nearest integer.
        learned: the same with the integers that were chosen; never more.
        changed: fraction of the weights that are not rounded to the nearest.
    """

    block: Block
    nearest: float
    learned: float
    changed: float


@dataclass(frozen=True)
class ReconstructedModel:
    """What :func:`reconstruct` returns.

    Attributes:
        model: the float model with weights ``integer * scale``, of which ``spec`` makes exactly these integers.
        spec: the quantization that was given.
        blocks: in program order.
        skipped: for each quantized weight that is rounded to the nearest, why.
    """

    model: InferenceModel
    spec: QuantizationSpec
    blocks: tuple[BlockResult, ...]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        """Report in words."""
        lines = [f'{len(self.blocks)} blocks reconstructed; relative errors of their outputs:']
        lines += [
            f'{item.block.output}: {item.nearest:.3g} -> {item.learned:.3g}, {item.changed:.1%} of the weights moved'
            for item in self.blocks
        ]
        lines += [f'rounded to the nearest: {name}: {reason}' for name, reason in self.skipped.items()]
        return '\n'.join(lines)


def reconstruct(
    model: InferenceModel,
    spec: QuantizationSpec,
    feeds: Iterable[Feed],
    *,
    level: str = 'layer-wise',
    limit: int = 6,
    regions: Iterable[Sequence[str]] | None = None,
    region_weights: Sequence[Sequence[str]] | None = None,
    activations: bool = True,
    learning: Learning | None = None,
    place: Any = None,
) -> ReconstructedModel:
    """Choose for every weight the integer below or above it so that blocks compute what they do in float.

    Block after block, in program order: inputs are what the quantized blocks before make, the target is the output in
    float (AdaRound, Nagel et al., 2020, for single layers; BRECQ, Li et al., 2021, for blocks). Scales stay those of
    ``spec``. A block keeps the nearest integers where no better ones are found on all of the calibration data.

    Args:
        model: the float model, with batch norm folded as a rule; it is left as it is.
        spec: its quantization, with symmetric weights.
        feeds: calibration data, kept in memory with the tensors between two blocks. Axis 0 of every tensor between
            blocks must be that of the images.
        level: ``'layer-wise'`` or ``'region-wise'``; see :func:`~paddleslim_ng.quant.blocks.find_blocks`.
        limit: largest number of weights in a region.
        regions: pairs of an input and an output, instead of what ``level`` finds.
        region_weights: for each of the regions, which weights are learned; all where None.
        activations: learn with activations that are rounded, too, as they will be.
        learning: settings.
        place: device; the CPU where None.

    Raises:
        ConfigError: a setting, level or region of no use.
        DataError: no batch, one that the program cannot run on, or tensors that are not finite.
        GraphError: a batch lacks an input, ``spec`` does not fit, or a region does not exist.

    Example:
        >>> done = slim.quant.quantize_model(model, feeds, weight_bits=4)
        >>> better = slim.quant.reconstruct(done.model, done.spec, feeds, level='region-wise')
        >>> slim.quant.export_quantized(better.model.program, better.spec, 'int4/model', *better.model[1:])
    """
    settings = learning if learning is not None else Learning()
    if regions is not None:
        blocks = given_blocks(model.program, spec, regions, region_weights)
    else:
        blocks = find_blocks(model.program, spec, model.fetches, level, limit)
    batches = kept_feeds(feeds, model.feeds)
    found = model._replace(scope=own_scope(GraphWrapper(model.program), model.scope, {}))
    simulated = simulate(model.program, spec if activations else _weights_alone(spec), model.scope)
    exact = StoredTensors(model, batches, place)
    rounded = StoredTensors(model._replace(program=simulated.program, scope=simulated.scope), batches, place)
    results, reasons = [], {}
    for index, block in enumerate(blocks):
        target = exact.compute([block.output])[block.output]
        inputs = rounded.compute(block.inputs)
        reason = _unsuitable([len(next(iter(feed.values()))) for feed in batches], {**inputs, block.output: target})
        if reason is None:
            work = _BlockWork(found, spec, block, inputs, target, activations, settings, place)
            result, weights = work.learn()
            results.append(result)
            for name, array in weights.items():
                for home in (found.scope, simulated.scope):
                    store_array(home, name, array)
        else:
            reasons.update(dict.fromkeys(block.weights, reason))
        for stored, ahead in (
            (exact, [b.output for b in blocks[index + 1 :]]),
            (rounded, _inputs(blocks[index + 1 :])),
        ):
            stored.keep_for(ahead)
    learned = {name for result in results for name in result.block.weights}
    others = [tensor.name for tensor in spec.of_kind('weight') if tensor.name not in learned]
    skipped = {name: reasons.get(name, 'it is in no block, or read in several') for name in others}
    return ReconstructedModel(found, spec, tuple(results), skipped)


def _inputs(blocks: Sequence[Block]) -> list[str]:
    return list(dict.fromkeys(name for block in blocks for name in block.inputs))


def _weights_alone(spec: QuantizationSpec) -> QuantizationSpec:
    kept = {name: tensor for name, tensor in spec.tensors.items() if tensor.kind == 'weight'}
    reads = {output: tuple(name for name in names if name in kept) for output, names in spec.operators.items()}
    return QuantizationSpec(kept, {output: names for output, names in reads.items() if names})


def _unsuitable(images: list[int], tensors: Mapping[str, list[Array]]) -> str | None:
    for name, arrays in tensors.items():
        if any(not array.ndim or len(array) != count for array, count in zip(arrays, images)):
            return f'axis 0 of {name!r}, of shape {list(arrays[0].shape)}, is not that of the images'
    return None


class _BlockWork:
    """Learning of one block."""

    def __init__(
        self,
        model: InferenceModel,
        spec: QuantizationSpec,
        block: Block,
        inputs: Mapping[str, list[Array]],
        target: list[Array],
        activations: bool,
        settings: Learning,
        place: Any,
    ) -> None:
        self._block, self._settings = block, settings
        self._inputs = {name: np.concatenate(arrays) for name, arrays in inputs.items()}
        self._target = np.concatenate(target)
        self._size = min(settings.batch_size, len(self._target))
        drop = settings.drop if activations else 0.0
        sample = {name: array[: self._size] for name, array in self._inputs.items()}
        self._objective = BlockObjective(model, spec, block, sample, activations=activations, drop=drop, place=place)
        self._tensors = {name: spec.tensors[name] for name in block.weights}
        self._floats = {name: load_array(model.scope, name) for name in block.weights}
        self._energy = float(np.mean(np.square(self._target, dtype=np.float64))) or 1.0

    def learn(self) -> tuple[BlockResult, dict[str, Array]]:
        """Return what became of the block, and its weights."""
        nearest = {name: quantize(array, self._tensors[name]) for name, array in self._floats.items()}
        before = self._error(nearest)
        found = self._descend(before)
        after = self._error(found)
        if not after < before:
            found, after = nearest, before
        changed = sum(int(np.sum(found[name] != nearest[name])) for name in found)
        total = sum(array.size for array in self._floats.values())
        weights = {name: exact_weight(codes, self._tensors[name]) for name, codes in found.items()}
        return BlockResult(self._block, before, after, changed / total), weights

    def _error(self, integers: Mapping[str, Array]) -> float:
        """Return the relative error over all images; the last ones fill up with the first."""
        weights = {name: exact_weight(codes, self._tensors[name]) for name, codes in integers.items()}
        count = len(self._target)
        starts = range(0, count, self._size)
        errors = [
            self._objective.error(weights, *self._rows(np.arange(start, start + self._size) % count))
            for start in starts
        ]
        return float(np.mean(errors)) / self._energy

    def _descend(self, nearest: float) -> dict[str, Array]:
        settings = self._settings
        soft = {name: SoftRounding(array, self._tensors[name]) for name, array in self._floats.items()}
        total = sum(array.size for array in self._floats.values())
        adam, random = Adam(settings.lr), np.random.default_rng(settings.seed)
        for step in range(settings.iterations):
            progress = max(step / settings.iterations - _WARM_UP, 0) / (1 - _WARM_UP)
            beta = _BETAS[0] + (_BETAS[1] - _BETAS[0]) * progress
            strength = settings.strength * nearest / total if progress else 0.0
            rows = self._rows(random.choice(len(self._target), self._size, replace=False))
            weights = {name: item.weight() for name, item in soft.items()}
            gradients = self._objective.gradient(weights, *rows, random)
            steps = adam.steps(
                {
                    name: item.gradient(gradients[name] / np.float32(self._energy), strength, beta)
                    for name, item in soft.items()
                }
            )
            for name, item in soft.items():
                item.logits += steps[name]
        return {name: item.integers() for name, item in soft.items()}

    def _rows(self, rows: npt.NDArray[np.int64]) -> tuple[dict[str, Array], Array]:
        return {name: array[rows] for name, array in self._inputs.items()}, self._target[rows]
