"""A program that computes in float what its quantized form computes, on either IR."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.quant.placement import Placed, float_weights, own_scope, place_tensors
from paddleslim_ng.quant.quantizers import fake_quantize
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization

__all__ = ['SimulatedProgram', 'fake_quantize_activation', 'simulate']

# The largest float32 below one half: added to a magnitude, it carries halves over, and nothing that is less.
_BELOW_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))


class SimulatedProgram(NamedTuple):
    """What :func:`simulate` returns.

    Attributes:
        program: of the IR that was given, in test mode.
        scope: its parameters; quantized weights are what their integers stand for.
    """

    program: Any
    scope: Any


def simulate(program: Any, spec: QuantizationSpec, scope: Any = None) -> SimulatedProgram:
    """Return a program that computes what the quantized program computes, in float.

    A quantized activation is multiplied, rounded, cut off and multiplied back, once for all operators that read it
    quantized; other readers keep the float tensor. Nothing but arithmetic is inserted, so that every IR and runtime
    knows it.

    Args:
        program: a program of either IR, or a GraphWrapper; training programs are cut to their forward part.
        spec: what is quantized.
        scope: parameters; Paddle's global scope where None. Neither it nor ``program`` is changed.

    Returns:
        A new program and a new scope.

    Raises:
        GraphError: ``spec`` does not fit the program, or the scope lacks a weight.
        DataError: a weight that is not finite.

    Example:
        >>> simulated = slim.quant.simulate(program, spec)
        >>> slim.Executor().run(simulated.program, feed, [logits], scope=simulated.scope)
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    scope = scope if scope is not None else paddle.static.global_scope()
    graph = GraphWrapper(clone_program(source, for_test=True))
    placed = place_tensors(graph, spec)
    weights = float_weights(placed, scope)
    changed = {name: fake_quantize(array, spec.tensors[name]) for name, array in weights.items()}
    with matching_ir(graph.program):
        for item in placed:
            if not item.is_weight and item.readers:
                _insert(graph, item)
    return SimulatedProgram(graph.program, own_scope(GraphWrapper(graph.program), scope, changed))


def _insert(graph: GraphWrapper, item: Placed) -> None:
    here = Insertion(graph, before=item.readers[0])
    here.redirect(item.var, fake_quantize_activation(Expressions(here), item.var, item.tensor), item.readers)


def fake_quantize_activation(e: Expressions, x: VarWrapper, tensor: TensorQuantization) -> VarWrapper:
    """Build the operators that round a tensor to what integers stand for, and return their result.

    No gradient passes but zeros.
    """
    scale = tensor.scale[0]
    steps = e.scale(x, float(np.float32(1) / scale))
    rounded = e.multiply(e.sign(steps), e.floor(e.scale(e.abs(steps), 1.0, _BELOW_HALF)))
    return e.scale(e.clip(rounded, -tensor.limit - tensor.zero_point, tensor.limit - tensor.zero_point), float(scale))
