"""Losses that the user writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.dist.losses_program import building, wrap
from paddleslim_ng.errors import GraphError

__all__ = ['loss']


def loss(loss_func: Callable[..., Any], program: Any = None, **kwargs: Any) -> Any:
    """Build a loss with a function of the user's, which may call all of Paddle.

    The function is called within ``program_guard``. It stops gradients itself where the teacher does not; a teacher
    that :func:`slim.dist.merge` brought does.

    Args:
        loss_func: called with ``kwargs``; returns the loss.
        program: merged program of either IR; the default main program where None.
        **kwargs: arguments of the function. Names, Variables, Values and VarWrappers become the program's Variables or
            Values; anything else is passed on as it is.

    Returns:
        What the function returned, a Variable or Value of the program.

    Raises:
        GraphError: a variable does not exist, or the function returned no Variable or Value of this program. What the
            function built is taken out again then, as it is where the function raises an error of its own.

    Example:
        >>> def difference(t, s):
        ...     return paddle.mean(paddle.abs(t - s))
        >>> loss = slim.dist.loss(difference, program, t='teacher_x', s='x')
    """
    graph = wrap(program)
    arguments = {name: _resolved(graph, value) for name, value in kwargs.items()}
    startup = paddle.static.default_startup_program()
    others = (startup,) if GraphWrapper(startup).ir == graph.ir else ()
    title = getattr(loss_func, '__name__', type(loss_func).__name__)
    with building(graph, title, *others):
        result = loss_func(**arguments)
        if not _belongs(graph, result):
            raise GraphError(f'{title} must return a Variable or Value of the program; it returned {result!r:.80}')
    return result


def _resolved(graph: GraphWrapper, value: Any) -> Any:
    is_tensor = isinstance(value, (str, VarWrapper, paddle.static.Variable)) or paddle_compat.is_pir_value(value)
    return graph.var(value).raw if is_tensor else value


def _belongs(graph: GraphWrapper, result: Any) -> bool:
    if graph.ir == 'legacy':
        return isinstance(result, paddle.static.Variable) and result.block.program is graph.program
    return paddle_compat.is_pir_value(result) and any(
        result.is_same(value)
        for op in graph.program.global_block().ops
        for value in op.results()
        if value.initialized()
    )
