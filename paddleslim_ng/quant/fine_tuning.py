"""Fine-tuning of low-bit networks: layer by layer against the float network, and as a whole on a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.errors import ConfigError, DataError, GraphError
from paddleslim_ng.quant.block_objective import BlockObjective
from paddleslim_ng.quant.blocks import Block, find_blocks
from paddleslim_ng.quant.data_sources import Feed
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.quant.low_bit import LowBitLayer, LowBitProgram
from paddleslim_ng.quant.placement import own_scope
from paddleslim_ng.quant.rounding import Adam
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization
from paddleslim_ng.quant.stored_tensors import StoredTensors, kept_feeds
from paddleslim_ng.quant.targets import find_targets
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['LayerTuning', 'tune_global', 'tune_layerwise']

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerTuning:
    """What became of one layer.

    Attributes:
        weight: name of its parameter.
        before: mean square of the error of the layer's output over all of the data, as a fraction of the mean square of
            the output in float.
        after: the same with the weights that were found; never more.
    """

    weight: str
    before: float
    after: float


def tune_layerwise(
    quantized: LowBitProgram,
    model: InferenceModel,
    feeds: Iterable[Feed],
    *,
    steps: int = 100,
    batch_size: int = 32,
    lr: float = 0.01,
    seed: int = 0,
    scope: Any = None,
    place: Any = None,
) -> tuple[LayerTuning, ...]:
    """Train each quantized layer, one after the other, to compute what it does in float.

    A layer reads what the quantized layers before it make (activations are not quantized here), and its target is its
    output in float, with batch norm and activation function; no labels are needed. Layers that do not get better are
    left as they are.

    Args:
        quantized: what ``apply`` returned: for which weights, and how.
        model: the float network, without quantizers, and its weights; what is trained of the program is passed over. It
            is left as it is, unless ``scope`` is its scope.
        feeds: data, kept in memory with the tensors between two layers. Axis 0 of every tensor must be that of the
            images.
        steps: gradient steps for each layer (PocketFlow's ``tune_layerwise_steps``).
        batch_size: images in a step.
        lr: of Adam at the first step, as a fraction of the root mean square of what is trained; it falls to 0.
        seed: of the images drawn.
        scope: gets the trained weights, and the codebooks are read from there and written there; that of ``model``
            where None.
        place: device; the CPU where None.

    Returns:
        One item for each layer that is alone in reading its weight, in program order.

    Raises:
        ConfigError: a setting out of range.
        DataError: no batch, or one that the program cannot run on.
        GraphError: the program does not read the weights, or a batch lacks an input.

    Example:
        >>> quantizer = slim.quant.UniformQuantizer(weight_bits=2, bucket='channel')
        >>> done = quantizer.apply(train_program, scope)
        >>> slim.quant.tune_layerwise(done, InferenceModel(test_program, ['image'], [logits], scope), feeds)
    """
    _check(steps, batch_size, lr)
    home = scope if scope is not None else model.scope
    model = inference_part(model.program, model.feeds, model.fetches, model.scope)
    layers = {layer.weight: layer for layer in quantized.layers}
    spec = _spec(model, layers)
    blocks = find_blocks(model.program, spec, model.fetches)
    batches = kept_feeds(feeds, model.feeds)
    graph = GraphWrapper(model.program)
    books = {name: load_array(home, name) for name in map(_codebook, layers) if has_array(home, name)}
    exact = model._replace(scope=own_scope(graph, model.scope, {}))
    work = model._replace(scope=own_scope(graph, model.scope, books))
    targets, inputs = StoredTensors(exact, batches, place), StoredTensors(work, batches, place)
    random = np.random.default_rng(seed)
    found: list[LayerTuning] = []
    trained: dict[str, Array] = {}
    for block in blocks:
        layer = _LayerWork(work, spec, block, layers[block.weights[0]], place)
        layer.read(inputs.compute(block.inputs), targets.compute([block.output])[block.output], batch_size)
        result, arrays = layer.tune(steps, lr, random)
        found.append(result)
        trained.update(arrays)
        store_array(work.scope, result.weight, layer.values(arrays))
    for name, array in trained.items():
        store_array(home, name, array)
    return tuple(found)


def tune_global(
    program: Any,
    batches: Iterable[Feed],
    loss: Any,
    *,
    steps: int = 2000,
    scope: Any = None,
    place: Any = None,
    on_step: Callable[[int, float], Any] | None = None,
) -> list[float]:
    """Train a program for a number of steps.

    Args:
        program: a training program with its optimizer, such as a quantizer was applied to.
        batches: feeds; read again from the start where they end.
        loss: what is fetched.
        steps: steps to take (PocketFlow's ``tune_global_steps``).
        scope: Paddle's global scope where None.
        place: device; the CPU where None.
        on_step: called with the number of steps taken and the loss: for schedules, logs and evaluation in between.

    Returns:
        The losses.

    Raises:
        ConfigError: ``steps`` is no positive number.
        DataError: the batches end and cannot be read again, or the loss is not finite.
    """
    _check(steps, 1, 1.0)
    executor = Executor(place)
    losses = []
    for step, feed in zip(range(1, steps + 1), _endless(batches)):
        (value,) = executor.run(program, dict(feed), [loss], scope=scope)
        losses.append(float(np.mean(value)))
        if not np.isfinite(losses[-1]):
            raise DataError(f'the loss is {losses[-1]} at step {step}: a smaller learning rate may help')
        if on_step is not None:
            on_step(step, losses[-1])
    return losses


def _endless(batches: Iterable[Feed]) -> Iterator[Feed]:
    count = 0
    while True:
        before = count
        for count, feed in enumerate(batches, start=before + 1):  # noqa: B007
            yield feed
        if count == before:
            raise DataError(f'the batches ended after {count}, and cannot be read again: give a list or a DataLoader')


def _check(steps: int, batch_size: int, lr: float) -> None:
    for name, value in (('steps', steps), ('batch_size', batch_size)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f'{name} must be a positive whole number, not {value!r}')
    if not (np.isfinite(lr) and lr > 0):
        raise ConfigError(f'lr must be positive, not {lr!r}')


def _codebook(weight: str) -> str:
    return f'{weight}.codebook'


def _spec(model: InferenceModel, layers: Mapping[str, LowBitLayer]) -> QuantizationSpec:
    """Return a specification that says which operators read which of the weights; its scales mean nothing."""
    reads = {
        operator.output: (str(operator.weight),)
        for operator in find_targets(model.program, not_quant_pattern=()).operators
        if operator.weight in layers
    }
    known = {name for names in reads.values() for name in names}
    missing = [name for name in layers if name not in known]
    if missing:
        raise GraphError(f'no layer of the program reads {missing[0]!r}: give the float program, without quantizers')
    one = np.ones(1, np.float32)
    tensors = {name: TensorQuantization(name, layers[name].bits, one, kind='weight') for name in layers}
    return QuantizationSpec(tensors, reads)


class _LayerWork:
    """Training of one layer."""

    def __init__(
        self, model: InferenceModel, spec: QuantizationSpec, block: Block, layer: LowBitLayer, place: Any
    ) -> None:
        self._layer, self._book = layer, _codebook(layer.weight)
        self._objective = BlockObjective(model, spec, block, {}, activations=False, place=place)
        self._scope = paddle.static.Scope()
        names = (layer.weight, self._book)
        self._start = {name: load_array(model.scope, name) for name in names if has_array(model.scope, name)}

    def read(self, inputs: Mapping[str, list[Array]], target: list[Array], batch_size: int) -> None:
        """Take the data."""
        self._inputs = {name: np.concatenate(arrays) for name, arrays in inputs.items()}
        self._target = np.concatenate(target)
        self._size = min(batch_size, len(self._target))
        self._energy = float(np.mean(np.square(self._target, dtype=np.float64))) or 1.0

    def values(self, arrays: Mapping[str, Array]) -> Array:
        """Return the quantized weight."""
        for name in arrays.keys() - {self._layer.weight}:
            store_array(self._scope, name, arrays[name])
        return self._layer.form.values(arrays[self._layer.weight], self._scope)

    def tune(self, steps: int, lr: float, random: np.random.Generator) -> tuple[LayerTuning, dict[str, Array]]:
        """Return what became of the layer, and its weight and codebook."""
        arrays = {name: array.copy() for name, array in self._start.items()}
        sizes = {name: np.float32(np.sqrt(np.mean(np.square(array))) or 1.0) for name, array in arrays.items()}
        adam = Adam(lr)
        before = self._error(arrays)
        for step in range(steps):
            rows = self._rows(random.choice(len(self._target), self._size, replace=False))
            weight = self._layer.weight
            (gradient,) = self._objective.gradient({weight: self.values(arrays)}, *rows, random).values()
            own = self._layer.form.backward_to(gradient / np.float32(self._energy), arrays[weight], self._scope)
            for name, change in adam.steps({name or weight: array for name, array in own.items()}).items():
                arrays[name] = arrays[name] + change * sizes[name] * np.float32(1 - step / steps)
        after = self._error(arrays)
        if not after < before:
            arrays, after = self._start, before
        return LayerTuning(self._layer.weight, before, after), arrays

    def _error(self, arrays: Mapping[str, Array]) -> float:
        """Return the relative error over all images; the last ones fill up with the first."""
        weights, count = {self._layer.weight: self.values(arrays)}, len(self._target)
        starts = range(0, count, self._size)
        found = [self._objective.error(weights, *self._rows(np.arange(n, n + self._size) % count)) for n in starts]
        return float(np.mean(found)) / self._energy

    def _rows(self, rows: npt.NDArray[np.int64]) -> tuple[dict[str, Array], Array]:
        return {name: array[rows] for name, array in self._inputs.items()}, self._target[rows]
