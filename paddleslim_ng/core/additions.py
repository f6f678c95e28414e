"""What has been added to a program since some moment, and how it is taken out again when the rest fails."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core import paddle_compat

__all__ = ['Additions']


class Additions:
    """Remembers what a program of either IR holds now, and tells later what came to it.

    Args:
        program: a legacy or PIR program.
    """

    def __init__(self, program: Any) -> None:
        self._program = program
        self._pir = paddle_compat.is_pir_program(program)
        self._block = program.global_block()
        self._ops = {self._key(op): op for op in self._block.ops}
        self._vars = frozenset() if self._pir else frozenset(self._block.vars)

    def operators(self) -> list[Any]:
        """Return the operators (Paddle's) that came to the main block, in program order."""
        return [op for op in self._block.ops if self._key(op) not in self._ops]

    def undo(self) -> None:
        """Take out the operators and variables that came to the main block; nothing older may read them."""
        if self._pir:
            for op in reversed(self.operators()):
                self._block.remove_op(op)
            return
        for index in reversed(range(len(self._block.ops))):
            if self._key(self._block.ops[index]) not in self._ops:
                self._block._remove_op(index)
        for name in set(self._block.vars) - self._vars:
            self._block._remove_var(name)

    def _key(self, op: Any) -> int:
        return int(op.id()) if self._pir else id(op)
