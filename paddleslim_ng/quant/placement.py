"""Where the tensors of a specification are in a program, and who reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, has_array, load_array, store_array, view_array
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization

__all__ = ['Placed', 'first_output', 'float_weights', 'operator_of', 'own_scope', 'place_tensors', 'users_by_name']

_FLOAT = 'float32'


class Placed(NamedTuple):
    """A tensor of a specification in a program.

    Attributes:
        tensor: its quantization.
        var: its variable.
        readers: the operators that read it quantized, in program order.
    """

    tensor: TensorQuantization
    var: VarWrapper
    readers: list[OpWrapper]

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a parameter."""
        return self.tensor.kind == 'weight'


def first_output(op: OpWrapper) -> str:
    """Return the name by which a specification calls an operator: that of its first output."""
    return op.all_outputs()[0].name()


def operator_of(graph: GraphWrapper, output: str) -> OpWrapper:
    """Return the operator whose first output has a name.

    Raises:
        GraphError: there is none.
    """
    makers = graph.var(output).inputs()
    if len(makers) != 1 or first_output(makers[0]) != output:
        raise GraphError(f'{output!r} is not the first output of one operator')
    return makers[0]


def users_by_name(graph: GraphWrapper) -> dict[str, list[OpWrapper]]:
    """Return the operators that read or write each variable, by its name.

    On PIR a parameter that layers share by its name is several variables.
    """
    found: dict[str, dict[int, OpWrapper]] = {}
    for var in graph.vars():
        group = found.setdefault(var.name(), {})
        group.update((op.idx(), op) for op in (*var.outputs(), *var.inputs()))
    return {name: list(group.values()) for name, group in found.items()}


def place_tensors(graph: GraphWrapper, spec: QuantizationSpec) -> list[Placed]:
    """Find the tensors of a specification in a program, and check that they can be quantized there.

    Raises:
        GraphError: the program lacks a tensor or operator, an operator does not read what it should, a weight has other
            channels or other readers, or an activation is written more than once.
    """
    readers: dict[str, list[OpWrapper]] = {name: [] for name in spec.tensors}
    for output, names in spec.operators.items():
        op = operator_of(graph, output)
        read = {var.name() for var in op.all_inputs()}
        for name in names:
            if name not in read:
                raise GraphError(f'the operator {op.type()} that makes {output!r} does not read {name!r}')
            readers[name].append(op)
    users = users_by_name(graph)
    found = []
    for name, tensor in spec.tensors.items():
        placed = Placed(tensor, graph.var(name), sorted(readers[name], key=lambda op: op.idx()))
        if placed.is_weight:
            _check_weight(placed, users[name])
        else:
            _check_activation(placed)
        found.append(placed)
    return found


def _check_weight(placed: Placed, users: list[OpWrapper]) -> None:
    tensor, var, readers = placed
    if not var.is_parameter() or var.dtype() != _FLOAT:
        raise GraphError(f'{var!r} ({var.dtype()}) is no {_FLOAT} parameter, so it cannot be quantized as a weight')
    if not tensor.fits(var.shape()):
        groups = '' if tensor.group_axis is None else f', or not {tensor.scale.shape[1]} groups of its inputs,'
        raise GraphError(f'{var!r} has not the {tensor.channels} channels along axis {tensor.axis}{groups} to quantize')
    known = {op.idx() for op in readers}
    others = [op.type() for op in users if op.idx() not in known]
    if others:
        raise GraphError(f'the weight {var.name()!r} is used by {others}, too, which are not quantized')


def _check_activation(placed: Placed) -> None:
    var = placed.var
    if var.is_parameter() or var.persistable() or var.dtype() != _FLOAT:
        raise GraphError(f'{var!r} ({var.dtype()}) is no {_FLOAT} activation')
    if len(var.inputs()) > 1:
        raise GraphError(f'{var.name()!r} is written by {[op.type() for op in var.inputs()]}: it has no one value')


def float_weights(placed: list[Placed], scope: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the weights among placed tensors, as they are in a scope.

    Raises:
        GraphError: the scope lacks one, or holds another shape than the program says.
    """
    found = {}
    for item in placed:
        if item.is_weight:
            array = load_array(scope, item.var.name())
            if array.shape != item.var.shape():
                raise GraphError(f'the scope has {item.var.name()!r} in shape {array.shape}, the program {item.var!r}')
            found[item.var.name()] = array
    return found


def own_scope(graph: GraphWrapper, scope: Any, changed: dict[str, npt.NDArray[Any]]) -> Any:
    """Return a new scope with copies of the parameters and of the state of a program.

    Args:
        graph: a wrapped program.
        scope: what is copied.
        changed: what is taken instead of, or besides, the content of ``scope``.
    """
    own = paddle.static.Scope()
    for var in graph.vars():
        name = var.name()
        if (var.is_parameter() or var.persistable()) and name not in changed and has_array(scope, name):
            store_array(own, name, view_array(scope, name))
    for name, array in changed.items():
        store_array(own, name, array)
    return own
