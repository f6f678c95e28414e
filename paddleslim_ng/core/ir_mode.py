"""Paddle's two modes: a program runs and loads only while Paddle is in the mode of its IR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle

from paddleslim_ng.core.paddle_compat import has_pir, in_pir_mode, is_pir_program
from paddleslim_ng.errors import GraphError

__all__ = ['ir_mode', 'matching_ir', 'static_mode']


@contextmanager
def ir_mode(pir: bool) -> Iterator[None]:
    """Let Paddle build, load and run PIR programs inside, or legacy ones; afterwards it is in its former mode.

    Inside, Paddle is in static mode, also where the caller is in dynamic mode.

    Raises:
        GraphError: PIR is asked of a Paddle that has none.
    """
    if pir and not has_pir():
        raise GraphError(
            f'paddle {paddle.__version__} has no PIR; PIR programs and .json models need Paddle 3.0 or later'
        )
    with static_mode():
        if pir == in_pir_mode():
            yield
            return
        guard = paddle.pir_utils.IrGuard if pir else paddle.pir_utils.OldIrGuard
        with guard():
            yield


@contextmanager
def static_mode() -> Iterator[None]:
    """Let Paddle be in static mode inside, or in the function that this decorates."""
    dynamic = paddle.in_dynamic_mode()
    if dynamic:
        paddle.enable_static()
    try:
        yield
    finally:
        if dynamic:
            paddle.disable_static()


@contextmanager
def matching_ir(program: Any) -> Iterator[None]:
    """Let Paddle run ``program`` inside, whichever its IR.

    Example:
        >>> with matching_ir(program):
        ...     exe.run(program, feed=feed, fetch_list=fetches)
    """
    with ir_mode(is_pir_program(program)):
        yield
