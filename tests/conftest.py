"""What every test stands on: static mode, and programs, scopes and names of its own."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, NamedTuple

import paddle
import pytest
from hypothesis import settings

settings.register_profile('suite', deadline=None, derandomize=True, print_blob=True)
settings.load_profile('suite')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests that hold an address: they differ between the processes that share the tests.

    Pages and demos are the longest tests. They come first, so that no process is alone with one of them at the end.
    """
    items.sort(key=lambda item: item.path.parent.name not in ('docs', 'tests'))
    bad = [item.nodeid for item in items if ' at 0x' in item.nodeid]
    if bad:
        raise pytest.UsageError(f'give these tests ids that are the same in every process: {bad}')


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end, and rounds too early: 8 % of the processor time."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


class Fresh(NamedTuple):
    """An empty program under construction, with its startup program, scope, and Paddle's executor."""

    main: Any
    startup: Any
    scope: Any
    exe: Any


@pytest.fixture(autouse=True)
def static_mode() -> None:
    """Tests may leave static mode; the next one starts in it again."""
    paddle.enable_static()


@pytest.fixture
def fresh() -> Iterator[Fresh]:
    """Build into empty programs, with names counted from zero and an empty scope as the global one."""
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    exe = paddle.static.Executor(paddle.CPUPlace())
    with (
        paddle.utils.unique_name.guard(),
        paddle.static.scope_guard(scope),
        paddle.static.program_guard(main, startup),
    ):
        yield Fresh(main, startup, scope, exe)


@pytest.fixture(scope='session')
def ir() -> str:
    """The IR that static programs are built in: ``'pir'`` or ``'legacy'``."""
    paddle.enable_static()
    return 'pir' if paddle.framework.in_pir_mode() else 'legacy'
