"""The doorway to Paddle's internals: what it finds, and what it says when something is gone."""

from __future__ import annotations

from typing import Any

import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, is_legacy_program, is_pir_program, paddle_compat
from paddleslim_ng.core.paddle_compat import builds
from paddleslim_ng.errors import GraphError


def test_self_test_passes_here() -> None:
    paddle_compat.self_test.cache_clear()
    paddle_compat.self_test()


def test_self_test_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, '_PIR_NAMES', (*builds._PIR_NAMES, 'moved_away'))
    monkeypatch.setattr(builds, 'has_pir', lambda: True)
    paddle_compat.self_test.cache_clear()
    with pytest.raises(GraphError, match='lacks .*moved_away.* in its IR bindings'):
        GraphWrapper(paddle.static.Program())
    monkeypatch.undo()
    GraphWrapper(paddle.static.Program())


def test_kinds_of_program(ir: str) -> None:
    program = paddle.static.Program()
    assert is_pir_program(program) == (ir == 'pir')
    assert is_legacy_program(program) == (ir == 'legacy')
    assert paddle_compat.in_pir_mode() == (ir == 'pir')
    assert not is_pir_program(3)
    assert paddle_compat.has_pir() or ir == 'legacy'


@pytest.mark.parametrize(
    ('given', 'name'),
    [(5, 'float32'), (3, 'int64'), (22, 'bfloat16'), (0, 'bool'), (-1, ''), ('float16', 'float16')],
)
def test_dtype_name(given: Any, name: str) -> None:
    assert paddle_compat.dtype_name(given) == name


def test_dtype_name_of_paddles_own() -> None:
    for name in ('float32', 'float64', 'float16', 'bfloat16', 'int8', 'uint8', 'int32', 'int64', 'bool', 'complex64'):
        assert paddle_compat.dtype_name(getattr(paddle, name)) == name
