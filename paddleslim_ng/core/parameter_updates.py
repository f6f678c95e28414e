"""Updates of parameters that came to a program after its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle

from paddleslim_ng.core.executor import Executor
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.core.ir_mode import matching_ir

__all__ = ['add_updates']


def add_updates(
    graph: GraphWrapper, gradients: Mapping[str, VarWrapper], optimizer: Any, scope: Any, place: Any = None
) -> None:
    """Let an optimizer of their own update some parameters at the end of a program.

    Its learning rate and accumulators get names that the program does not have, and are filled in the scope at once.

    Args:
        graph: wrapped program, changed in place.
        gradients: by parameter, its gradient.
        optimizer: one of Paddle's, new.
        scope: where the state of the optimizer goes.
        place: device of that state.

    """
    if not gradients:
        return
    startup = paddle.static.Program()
    pairs = [(graph.var(name).raw, gradient.raw) for name, gradient in gradients.items()]
    with (
        matching_ir(graph.program),
        paddle.static.program_guard(graph.program, startup),
        paddle.utils.unique_name.guard(f'{next(iter(gradients))}.update_'),
    ):
        optimizer.apply_gradients(pairs)
    Executor(place).run(startup, scope=scope)
