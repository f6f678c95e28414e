"""Optimization of learned scales in programs whose optimizer is there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, has_array, load_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.errors import ConfigError

__all__ = ['checked_optimizer', 'default_optimizer', 'optimize_scales']

_NAMES: Final = 'quant_scales'


def default_optimizer() -> Any:
    """Return Adam with a learning rate of 0.001: a step changes a scale by about a thousandth of where it started."""
    return paddle.optimizer.Adam(0.001)


def optimize_scales(
    graph: GraphWrapper,
    gradients: Mapping[str, VarWrapper],
    optimizer_func: Callable[[], Any] | None,
    place: Any,
) -> dict[str, npt.NDArray[Any]]:
    """Append the updates of parameters whose gradients were built after ``minimize``.

    Args:
        graph: wrapped training program, changed in place. Wrap it anew afterwards.
        gradients: ``{parameter: its gradient}``.
        optimizer_func: returns a Paddle optimizer with a constant learning rate; :func:`default_optimizer` where None.
        place: device.

    Returns:
        What the scope has to hold for the optimizer before the first run, by name.

    Raises:
        ConfigError: what ``optimizer_func`` returns is no such optimizer; nothing is changed.
    """
    with matching_ir(graph.program):
        optimizer = checked_optimizer((optimizer_func or default_optimizer)())
        startup, scope = paddle.static.Program(), paddle.static.Scope()
        pairs = [(graph.var(name).raw, gradient.raw) for name, gradient in gradients.items()]
        with (
            paddle.static.program_guard(graph.program, startup),
            paddle.utils.unique_name.guard(_unused_prefix(graph)),
        ):
            optimizer.apply_gradients(pairs)
        paddle.static.Executor(place).run(startup, scope=scope)
    names = [var.name() for var in GraphWrapper(graph.program).vars() if var.persistable()]
    return {name: load_array(scope, name) for name in names if has_array(scope, name)}


def checked_optimizer(optimizer: Any) -> Any:
    """Return an optimizer that :func:`optimize_scales` can use.

    Raises:
        ConfigError: it is none of Paddle's, or follows a schedule.
    """
    if not isinstance(optimizer, paddle.optimizer.Optimizer):
        raise ConfigError(f'optimizer_func must return a Paddle optimizer, not {type(optimizer).__name__}')
    if not isinstance(optimizer._learning_rate, float):
        raise ConfigError(
            'optimizer_func must return an optimizer with a constant learning rate: a program has room for one '
            'schedule, which is that of its own optimizer'
        )
    return optimizer


def _unused_prefix(graph: GraphWrapper) -> str:
    """Return a prefix for names of the optimizer's state that the program does not have."""
    number, taken = 0, [var.name() for var in graph.vars()]
    while any(name.startswith(f'{_NAMES}_{number}_') for name in taken):
        number += 1
    return f'{_NAMES}_{number}_'
