"""The part of a program that an inference model consists of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paddleslim_ng.core import GraphWrapper, clone_program, cut_program
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.runtime.inference_outputs import inference_outputs
from paddleslim_ng.runtime.model_loading import InferenceModel
from paddleslim_ng.runtime.model_requirements import check_requirements

__all__ = ['inference_part']


def inference_part(program: Any, feeds: Iterable[Any], fetches: Iterable[Any] | None, scope: Any) -> InferenceModel:
    """Return a copy of the part of a program that leads from ``feeds`` to ``fetches``, in test mode.

    Args:
        program: a program of either IR, or a GraphWrapper.
        feeds: names, Variables or Values of the inputs.
        fetches: names, Variables or Values of the outputs; as for ``save_inference_model`` where None.
        scope: parameters.

    Raises:
        GraphError: an unknown feed or fetch, or a parameter missing in the scope.
    """
    source = program.program if isinstance(program, GraphWrapper) else program
    with matching_ir(source):
        graph = GraphWrapper(clone_program(source, for_test=True))
        inputs = [graph.var(item) for item in feeds]
        names = [var.name() for var in inputs]
        if fetches is None:
            outputs = inference_outputs(GraphWrapper(source), graph, names)
        else:
            outputs = [graph.var(item) for item in fetches]
        check_requirements(graph, inputs, outputs, scope)
        part = GraphWrapper(cut_program(graph.program, names, [var.name() for var in outputs]))
    return InferenceModel(part.program, names, [part.var(var.name()).raw for var in outputs], scope)
