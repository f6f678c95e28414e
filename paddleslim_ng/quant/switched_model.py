"""A model with fake quantizers that the scope switches on and off, and gives their scales and widths."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion, add_state
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.quant.placement import Placed, own_scope, place_tensors
from paddleslim_ng.quant.spec import QuantizationSpec, TensorQuantization
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['own_copy', 'switch_state', 'switched_model']

Array = npt.NDArray[Any]
_HUGE: Final = 3e38
_BELOW_HALF: Final = float(np.nextafter(np.float32(0.5), np.float32(0)))
_STATES: Final = ('inverse', 'limit', 'scale', 'off')


def switch_state(name: str, tensor: TensorQuantization | None) -> dict[str, Array]:
    """Return the state of the fake quantizer of an activation, which passes everything where it has no width."""
    row = (
        (1.0, 1.0, 0.0, 1.0) if tensor is None else (np.float32(1) / tensor.scale[0], tensor.limit, tensor.scale[0], 0)
    )
    return {_state_name(name, state): np.array([value], np.float32) for state, value in zip(_STATES, row)}


def _state_name(name: str, state: str) -> str:
    return f'{name}.variant_{state}'


def own_copy(model: InferenceModel) -> InferenceModel:
    """Return a copy in test mode with a scope of its own."""
    graph = GraphWrapper(clone_program(model.program, for_test=True))
    return _with_fetches(model, graph.program, own_scope(graph, model.scope, {}))


def switched_model(model: InferenceModel, spec: QuantizationSpec) -> InferenceModel:
    """Return a copy with fake quantizers that are off, whose state is in the scope of the model."""
    graph = GraphWrapper(clone_program(model.program, for_test=True))
    with matching_ir(graph.program):
        for item in place_tensors(graph, spec):
            if not item.is_weight and item.readers:
                _insert(graph, item)
                for name, value in switch_state(item.var.name(), None).items():
                    store_array(model.scope, name, value)
    return _with_fetches(model, graph.program, model.scope)


def _with_fetches(model: InferenceModel, program: Any, scope: Any) -> InferenceModel:
    graph = GraphWrapper(program)
    fetches = [graph.var(GraphWrapper.name_of(item)).raw for item in model.fetches]
    return InferenceModel(program, list(model.feeds), fetches, scope)


def _insert(graph: GraphWrapper, item: Placed) -> None:
    names = [_state_name(item.var.name(), state) for state in _STATES]
    inverse, limit, scale, off = (add_state(graph, name, [1], 'float32') for name in names)
    here = Insertion(graph, before=item.readers[0])
    e = Expressions(here)
    steps = e.scale_by(item.var, inverse)
    magnitude = e.floor(e.scale(e.abs(steps), 1.0, _BELOW_HALF))
    rounded = e.multiply(e.sign(steps), _at_most(e, magnitude, limit))
    # Exact either way: one of the two terms is zero.
    here.redirect(item.var, e.add(e.scale_by(item.var, off), e.scale_by(rounded, scale)), item.readers)


def _at_most(e: Expressions, whole: VarWrapper, limit: VarWrapper) -> VarWrapper:
    """Return the smaller one of two whole numbers, exactly: ``limit - max(limit - whole, 0)``."""
    room = e.clip(e.add(e.scale(whole, -1.0), limit), 0.0, _HUGE)
    return e.add(e.scale(room, -1.0), limit)
