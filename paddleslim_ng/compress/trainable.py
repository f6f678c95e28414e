"""A saved inference model as something that trains: what saving has taken away comes back."""

from __future__ import annotations

from typing import Any, Final

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.gradient_outputs import STATISTICS, add_gradient_outputs
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.op_table import OPTIMIZER_OPS
from paddleslim_ng.errors import GraphError
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.runtime import InferenceModel

__all__ = ['evaluation_program', 'trainable_program']

_FLOATS: Final = frozenset({'float16', 'float32', 'float64', 'bfloat16'})


def evaluation_program(model: InferenceModel) -> Any:
    """Return a copy of an inference model's program whose parameters are parameters, as those of built programs."""
    graph = _copied(model)
    _restore_parameters(graph)
    return graph.program


def trainable_program(model: InferenceModel) -> Any:
    """Return a copy of an inference model's program that can be trained: gradients pass, and batch norms learn.

    Batch norms use the statistics of the batch and update the moving ones, as in training from scratch.

    Args:
        model: of either IR; it stays as it is.

    Raises:
        GraphError: the model has no weights in floating point.
    """
    graph = _copied(model)
    _restore_parameters(graph)
    graph = GraphWrapper(graph.program)
    if graph.ir == 'legacy':
        add_gradient_outputs(graph.program)
        graph = GraphWrapper(graph.program)
    for op in graph.ops():
        if op.type() == 'batch_norm':
            op.set_attr('is_test', False)
            op.set_attr('use_global_stats', False)
    with matching_ir(graph.program):
        for op in graph.ops():
            for var in op.all_outputs():
                if var.dtype() in _FLOATS and not var.is_parameter():
                    var.raw.stop_gradient = False
    return graph.program


def _copied(model: InferenceModel) -> GraphWrapper:
    names = [GraphWrapper.name_of(item) for item in model.fetches]
    graph = GraphWrapper(inference_part(model.program, model.feeds, names, model.scope).program)
    if graph.ir == 'legacy':
        for name in model.feeds:
            graph.var(name).raw.is_data = True
            graph.var(name).raw.stop_gradient = True
        graph = GraphWrapper(graph.program)
    return graph


def _restore_parameters(graph: GraphWrapper) -> None:
    # Statistics follow the batches and have no gradient.
    statistics = {
        var.name() for op in graph.ops() if 'batch_norm' in op.type() for slot in STATISTICS for var in op.inputs(slot)
    }
    read = {var.name(): var for op in graph.ops() if op.type() not in OPTIMIZER_OPS for var in op.all_inputs()}
    weights = [var for var in read.values() if var.is_parameter() or var.persistable()]
    trained = 0
    with matching_ir(graph.program):
        for var in weights:
            learns = var.name() not in statistics and var.dtype() in _FLOATS
            trained += learns
            if graph.ir == 'legacy':
                _make_parameter(graph.program, var.raw, learns)
            else:
                var.raw.is_parameter = True
                var.raw.persistable = True
                var.raw.trainable = learns
                var.raw.stop_gradient = not learns
    if not trained:
        raise GraphError('the model has no weights in floating point: there is nothing to train')


def _make_parameter(program: Any, raw: Any, learns: bool) -> None:
    """Let a persistable variable of a legacy program be a parameter, under its name."""
    made = program.global_block().create_parameter(
        name=raw.name, shape=list(raw.shape), dtype=raw.dtype, trainable=learns
    )
    made.stop_gradient = not learns
