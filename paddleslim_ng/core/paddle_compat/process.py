"""What a process has one of: scope, name counters, random generator, connection."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.base import core as _core
from paddle.base import unique_name as _unique_name

from paddleslim_ng.core.paddle_compat.builds import has_pir

__all__ = [
    'connect_gloo',
    'generator_state',
    'global_scope',
    'new_scope',
    'set_generator_state',
    'unique_names',
]


def global_scope() -> Any:
    """Return the scope that Paddle's executors use by default."""
    return paddle.static.global_scope()


@contextmanager
def unique_names() -> Iterator[None]:
    """Names generated inside start from zero and do not disturb those outside."""
    with _unique_name.guard():
        yield


def new_scope() -> Any:
    """Return an empty scope."""
    return _core.Scope()


@functools.lru_cache(maxsize=1)
def connect_gloo(rank: int, size: int) -> None:
    """Connect this process with the other ranks on ring 0, once; the addresses come from Paddle's launcher.

    Paddle must be in static mode. Python's lock is held while the others are waited for. Paddle can neither disconnect
    nor tell whether it is connected, and connecting anew disturbs the other ranks, so this is done once in a process.
    """
    if not has_pir():
        from paddle.distributed import parallel_helper

        if not parallel_helper._is_parallel_ctx_initialized():
            paddle.distributed.init_parallel_env()
        return
    store = _core.create_or_get_global_tcp_store()
    try:
        _core.CommContextManager.create_gloo_comm_context(store, '0', rank, size)
    except RuntimeError as error:
        if 'AlreadyExists' not in str(error):
            raise


def generator_state() -> list[Any]:
    """Return the state of Paddle's random generator for the CPU, as numbers and text that JSON can hold.

    Paddle 2 does not let its generator be read: it is seeded anew, with a number drawn from itself, and the seed is the
    state. What runs on and what is restored thus draw the same numbers.
    """
    generator = _core.default_cpu_generator()
    if not has_pir():
        seed = generator.random() % 2**31
        generator.manual_seed(seed)
        return [seed]
    device, seed, offset, engine = generator.get_state().__getstate__()
    return [device, seed, offset, bytes(engine).decode('ascii')]


def set_generator_state(state: list[Any]) -> None:
    """Put back what :func:`generator_state` returned.

    Raises:
        ValueError: the state comes from another version of Paddle.
    """
    generator = _core.default_cpu_generator()
    if len(state) != (4 if has_pir() else 1):
        raise ValueError(f'a state of {len(state)} parts of the random generator belongs to another Paddle')
    if not has_pir():
        generator.manual_seed(state[0])
        return
    kind = type(generator.get_state())
    fresh = kind.__new__(kind)
    fresh.__setstate__((*state[:3], list(state[3].encode('ascii'))))
    generator.set_state(fresh)
