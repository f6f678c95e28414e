"""The bias behind a layer: where it is, and how a layer without one gets it, on either IR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, clone_program
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.quant.folding_patterns import WEIGHTS
from paddleslim_ng.quant.placement import operator_of, own_scope
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['LayerBias', 'find_bias', 'output_axis', 'with_biases']

_PRODUCTS: Final = frozenset({'mul', 'matmul', 'matmul_v2'})
Users = Mapping[str, list[OpWrapper]]


@dataclass(frozen=True)
class LayerBias:
    """A bias that is added to what a layer makes.

    Attributes:
        addition: the operator that adds it.
        parameter: the bias.
        result: the sum.
        reshaping: the operator that gives the bias the rank of what it is added to, or None.
    """

    addition: OpWrapper
    parameter: VarWrapper
    result: VarWrapper
    reshaping: OpWrapper | None


def output_axis(layer: OpWrapper) -> int | None:
    """Return the axis of the output channels in what an operator with weights makes; None where it has none."""
    if layer.type() not in WEIGHTS:
        return None
    rank = len(layer.all_outputs()[0].shape())
    if layer.type() not in _PRODUCTS:
        return rank - 1 if (layer.attr('data_format') or 'NCHW').endswith('C') else 1
    weight = layer.inputs(WEIGHTS[layer.type()])[0]
    return rank - 1 if len(weight.shape()) > 1 and rank > 1 else None


def find_bias(layer: OpWrapper, kept: Iterable[str], users: Users) -> LayerBias | str | None:
    """Return the bias that is added to the only use of what a layer makes.

    Args:
        layer: an operator with weights.
        kept: names of tensors that are also outputs of the program.
        users: by name, the operators that read or write a variable.

    Returns:
        The bias; None where the layer has none; or the reason why the one that it has cannot be changed.
    """
    axis = output_axis(layer)
    if axis is None:
        return f'{layer.type()} makes no channels'
    if layer.inputs('Bias'):
        return f'{layer.type()} has a bias as an input of its own'
    product = layer.all_outputs()[0]
    readers = product.outputs()
    if len(readers) != 1 or readers[0].type() != 'elementwise_add' or product.name() in set(kept):
        return None
    addition = readers[0]
    others = [var for slot in ('X', 'Y') for var in addition.inputs(slot) if var is not product]
    if len(others) != 1:
        return None
    parameter, reshaping = _parameter_behind(others[0])
    if parameter is None or parameter.shape() != _bias_shape(parameter, product.shape()[axis]):
        return None
    if len(users[parameter.name()]) != 1 or len(others[0].outputs()) != 1:
        return f'its bias {parameter.name()!r} is used by other operators, too'
    return LayerBias(addition, parameter, addition.all_outputs()[0], reshaping)


def _parameter_behind(term: VarWrapper) -> tuple[VarWrapper | None, OpWrapper | None]:
    if term.is_parameter():
        return term, None
    makers = term.inputs()
    if len(makers) == 1 and makers[0].type() == 'reshape2' and makers[0].inputs('X')[0].is_parameter():
        return makers[0].inputs('X')[0], makers[0]
    return None, None


def _bias_shape(parameter: VarWrapper, channels: int) -> tuple[int, ...] | None:
    """Return the shape of a parameter if it has one number for each channel, else None."""
    sizes = [size for size in parameter.shape() if size != 1]
    return parameter.shape() if sizes == [channels] or (channels == 1 and not sizes) else None


def with_biases(
    model: InferenceModel, spec: QuantizationSpec, outputs: Iterable[str]
) -> tuple[InferenceModel, QuantizationSpec]:
    """Return a model in which layers without a bias have one, of zeros, and the specification that fits it.

    The layer's own output keeps its name; all that read it read the sum, which has a new one.

    Args:
        model: program and parameters, which stay as they are.
        spec: its quantization.
        outputs: first outputs of the layers that have no bias.
    """
    program = clone_program(model.program)
    kept = [GraphWrapper.name_of(item) for item in model.fetches]
    arrays: dict[str, npt.NDArray[Any]] = {}
    sums: dict[str, str] = {}
    with matching_ir(program):
        for output in outputs:
            graph = GraphWrapper(program)
            parameter, array, made = _insert(graph, operator_of(graph, output))
            arrays[parameter] = array
            sums[output] = made
    graph = GraphWrapper(program)
    fetches = [graph.var(sums.get(name, name)).raw for name in kept]
    changed = InferenceModel(program, model.feeds, fetches, own_scope(graph, model.scope, arrays))
    return changed, _renamed(spec, sums)


def _insert(graph: GraphWrapper, layer: OpWrapper) -> tuple[str, npt.NDArray[Any], str]:
    product = layer.all_outputs()[0]
    axis, rank = output_axis(layer), len(product.shape())
    shape, attrs = [product.shape()[axis or 0]], {}
    if graph.ir == 'legacy':
        attrs = {'axis': axis if axis != rank - 1 else -1}
    elif axis != rank - 1:
        shape = [shape[0] if place == axis else 1 for place in range(rank)]
    readers = product.outputs()
    name = f'{layer.inputs(WEIGHTS[layer.type()])[0].name()}.bias_{layer.idx()}'
    bias = add_parameter(graph, name, shape, product.dtype())
    here = Insertion(graph, after=layer)
    made = here.op('elementwise_add', {'X': product, 'Y': bias}, attrs)
    here.redirect(product, made, [op for op in readers if op.type() not in ('fetch',)])
    return name, np.zeros(shape, product.dtype()), made.name()


def _renamed(spec: QuantizationSpec, names: Mapping[str, str]) -> QuantizationSpec:
    """Return a specification in which activations have other names."""
    if not any(name in spec.tensors for name in names):
        return spec
    tensors = {
        names.get(name, name): replace(tensor, name=names.get(name, name)) for name, tensor in spec.tensors.items()
    }
    reads = {output: tuple(names.get(name, name) for name in read) for output, read in spec.operators.items()}
    return QuantizationSpec(tensors, reads, spec.skipped)
