"""Notes on the operators of a program of either IR: string attributes, which survive ``clone`` and ``minimize``.

Paddle ignores them, and on PIR drops them on saving.
"""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.graph_wrapper import OpWrapper

__all__ = ['FAKE_QUANTIZER', 'ROLE', 'mark', 'mark_of']

ROLE = 'slim_role'
# The name of the tensor whose fake quantizer an operator belongs to.
FAKE_QUANTIZER = 'slim_fake_quantizer'


def mark(op: Any, key: str, value: str) -> None:
    """Note ``value`` under ``key`` on an operator, an :class:`OpWrapper` or Paddle's; an empty one takes it away."""
    raw = op.raw if isinstance(op, OpWrapper) else op
    if hasattr(raw, 'set_str_attr'):
        raw.set_str_attr(key, value)
    else:
        raw._set_attr(key, value)


def mark_of(op: Any, key: str) -> str | None:
    """Return what is noted under ``key`` on an operator, an :class:`OpWrapper` or Paddle's, or None."""
    raw = op.raw if isinstance(op, OpWrapper) else op
    if not raw.has_attr(key):
        return None
    return str(raw.str_attr(key) if hasattr(raw, 'str_attr') else raw.attr(key)) or None
