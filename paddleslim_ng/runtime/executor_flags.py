"""Flags of Paddle that change what its executor computes."""

from __future__ import annotations

from typing import Any

import paddle

from paddleslim_ng.core import GraphWrapper

__all__ = ['ignores_changed_weights']


def ignores_changed_weights(program: Any) -> bool:
    """Tell whether Paddle's executor keeps the first weights that it has seen of a program, whatever becomes of them.

    It does on legacy programs where ``FLAGS_use_mkldnn`` is set.
    """
    if GraphWrapper(program).ir != 'legacy':
        return False
    try:
        return bool(paddle.get_flags('FLAGS_use_mkldnn')['FLAGS_use_mkldnn'])
    except ValueError:
        return False
