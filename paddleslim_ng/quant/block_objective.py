"""How far a block's outputs are from given ones, and the gradient of that with respect to the block's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, VarWrapper, cut_program, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion, add_state
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.quant.blocks import Block
from paddleslim_ng.quant.placement import Placed, own_scope, place_tensors
from paddleslim_ng.quant.simulate import fake_quantize_activation
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['BlockObjective']

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float32]


class BlockObjective:
    """The mean square of a block's error, as a program with its backward pass.

    Args:
        model: the float model.
        spec: its quantization.
        block: part of it.
        sample: inputs of the block in the shape in which they will come where ``drop`` is not 0.
        activations: whether activations that the block reads or makes are rounded to integers; gradients pass through
            that as if nothing was rounded, and stop where values are cut off (straight-through estimator).
        drop: fraction of the elements of rounded activations that stay in float, drawn anew for every gradient
            (QDrop, Wei et al., 2022).
        place: device; the CPU where None.
    """

    def __init__(
        self,
        model: InferenceModel,
        spec: QuantizationSpec,
        block: Block,
        sample: Arrays,
        *,
        activations: bool,
        drop: float = 0.0,
        place: Any = None,
    ) -> None:
        self._weights = block.weights
        self._drop = drop
        self._runner = Executor(place)
        program = cut_program(model.program, block.inputs, [block.output])
        with matching_ir(program):
            graph = GraphWrapper(program)
            _let_gradients_pass(graph, block)
            self._masks = _round(graph, model, spec, block, sample, drop) if activations else {}
            self._target, self._loss = _add_loss(program, block.output)
            variables = [GraphWrapper(program).var(name).raw for name in block.weights]
            with paddle.static.program_guard(program, paddle.static.Program()):
                self._gradients = paddle.static.gradients([self._loss], variables)
        self._program = program
        self._scope = own_scope(GraphWrapper(program), model.scope, {})

    def error(self, weights: Arrays, inputs: Arrays, target: npt.NDArray[Any]) -> float:
        """Return the mean square of the difference between outputs and ``target``, with all activations rounded."""
        self._set(weights, None)
        (loss,) = self._run(inputs, target, [self._loss])
        return float(loss.reshape(-1)[0])

    def gradient(
        self, weights: Arrays, inputs: Arrays, target: npt.NDArray[Any], random: np.random.Generator
    ) -> dict[str, Floats]:
        """Return the gradient with respect to each weight.

        Args:
            weights: all of :attr:`Block.weights`.
            inputs: all of :attr:`Block.inputs`.
            target: outputs.
            random: draws which activations stay in float.
        """
        self._set(weights, random)
        return dict(zip(self._weights, self._run(inputs, target, self._gradients)))

    def _set(self, weights: Arrays, random: np.random.Generator | None) -> None:
        for name, array in weights.items():
            store_array(self._scope, name, array)
        for name, shape in self._masks.items():
            rounded = np.ones(shape, np.float32)
            if random is not None:
                rounded = (random.random(shape, np.float32) >= self._drop).astype(np.float32)
            store_array(self._scope, name, rounded)

    def _run(self, inputs: Arrays, target: npt.NDArray[Any], fetches: list[Any]) -> list[npt.NDArray[Any]]:
        feed = {**inputs, self._target: target}
        return [np.asarray(array) for array in self._runner.run(self._program, feed, fetches, scope=self._scope)]


def _let_gradients_pass(graph: GraphWrapper, block: Block) -> None:
    """Mark what depends on weights; a saved model may have marked everything as constant."""
    for var in graph.vars():
        var.raw.stop_gradient = bool(var.persistable() or var.is_parameter() or var.name() in block.inputs)
    for name in block.weights:
        graph.var(name).raw.stop_gradient = False
    for op in graph.ops():
        if op.type() == 'batch_norm':
            # Its gradient exists for the statistics of a batch, or for given ones; not for test mode.
            op.set_attr('use_global_stats', True)
            op.set_attr('is_test', False)
    for op in graph.ops():
        stops = all(var.raw.stop_gradient for var in op.all_inputs())
        for var in op.all_outputs():
            var.raw.stop_gradient = stops or not var.dtype().startswith(('float', 'bfloat'))


def _round(
    graph: GraphWrapper, model: InferenceModel, spec: QuantizationSpec, block: Block, sample: Arrays, drop: float
) -> dict[str, tuple[int, ...]]:
    """Round activations, and return the shapes of the masks of those elements that are rounded."""
    placed = [item for item in place_tensors(graph, spec.only(block.operators)) if not item.is_weight and item.readers]
    shapes = _shapes(model, block, [item.var.name() for item in placed], sample) if drop else {}
    masks = {}
    for index, item in enumerate(placed):
        mask = None
        if drop:
            shape = shapes[item.var.name()]
            mask = add_state(graph, f'rounded_elements_{index}', shape, 'float32')
            masks[mask.name()] = shape
        here = Insertion(graph, before=item.readers[0])
        here.redirect(item.var, _straight_through(Expressions(here), item, mask), item.readers)
    return masks


def _shapes(model: InferenceModel, block: Block, names: list[str], sample: Arrays) -> dict[str, tuple[int, ...]]:
    computed = [name for name in names if name not in sample]
    found = {name: np.shape(array) for name, array in sample.items()}
    if computed:
        part = cut_program(model.program, block.inputs, computed)
        found.update(zip(computed, map(np.shape, Executor().run(part, dict(sample), computed, scope=model.scope))))
    return found


def _straight_through(e: Expressions, item: Placed, mask: VarWrapper | None) -> VarWrapper:
    limit = float(item.tensor.threshold[0])
    bounded = e.clip(item.var, -limit, limit)
    rounded = fake_quantize_activation(e, item.var, item.tensor)
    passing = e.add(bounded, e.stop(e.subtract(rounded, bounded)))
    return passing if mask is None else e.add(item.var, e.multiply(mask, e.subtract(passing, item.var)))


def _add_loss(program: Any, output: str) -> tuple[str, Any]:
    graph = GraphWrapper(program)
    name = 'reconstruction_target'
    while graph.has_var(name):
        name += '_'
    with paddle.static.program_guard(program, paddle.static.Program()):
        paddle.static.data(name, list(graph.var(output).shape()), graph.var(output).dtype())
    graph = GraphWrapper(program)
    target = graph.var(name)
    target.raw.stop_gradient = True
    e = Expressions(Insertion(graph))
    return name, e.mean(e.square(e.subtract(graph.var(output), target))).raw
