"""An executor that finds fetch targets in whichever clone or pruned descendant it is given."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import paddle

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.graph_wrapper import GraphWrapper
from paddleslim_ng.core.ir_mode import matching_ir

__all__ = ['Executor']


class Executor:
    """``paddle.static.Executor`` whose ``fetch_list`` may hold names, Variables or Values of any related program.

    On legacy programs Paddle resolves fetch targets by name. On PIR it accepts only values of the very program that
    runs, and returns an empty list for others without an error. This executor resolves each target by its stable name
    in the program at hand, on both IRs.

    Args:
        place: device to run on; the CPU where None.

    Example:
        >>> import paddle, numpy as np, paddleslim_ng as slim
        >>> paddle.enable_static()
        >>> program = paddle.static.Program()
        >>> with paddle.static.program_guard(program):
        ...     x = paddle.static.data('x', [None, 2])
        ...     y = x + 1
        >>> copy = slim.core.clone_program(program)
        >>> slim.Executor().run(copy, feed={'x': np.zeros([1, 2], 'float32')}, fetch_list=[y])[0].tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, place: Any = None) -> None:
        self.place = place if place is not None else paddle.CPUPlace()
        self._executor = paddle.static.Executor(self.place)
        self._tables: dict[int, tuple[Any, tuple[int, int], dict[str, Any]]] = {}

    def run(
        self,
        program: Any = None,
        feed: Mapping[str, Any] | None = None,
        fetch_list: Sequence[Any] | None = None,
        scope: Any = None,
        return_numpy: bool = True,
        **options: Any,
    ) -> list[Any]:
        """Run ``program`` once, whichever IR Paddle builds at this moment.

        Args:
            program: program of either IR, or a GraphWrapper; the default main program where None.
            feed: ``{data name: array}``.
            fetch_list: names, Variables, Values or VarWrappers, of this program or one related to it.
            scope: parameters; Paddle's global scope where None.
            return_numpy: give arrays rather than Paddle tensors.
            options: handed on to Paddle's executor.

        Returns:
            One entry per fetch target, in order.

        Raises:
            GraphError: a fetch target has no counterpart in the program.
        """
        if isinstance(program, GraphWrapper):
            program = program.program
        target = program if program is not None else paddle.static.default_main_program()
        target = getattr(target, '_program', target)  # a CompiledProgram holds the program
        fetches = [self._resolve(target, item) for item in fetch_list or ()]
        with matching_ir(target), _scope_guard(target, scope):
            result = self._executor.run(
                program,
                feed=dict(feed) if isinstance(feed, Mapping) else feed,
                fetch_list=fetches or None,
                scope=scope,
                return_numpy=return_numpy,
                **options,
            )
        return list(result) if result is not None else []

    def _resolve(self, program: Any, item: Any) -> Any:
        if paddle_compat.is_pir_program(program):
            if paddle_compat.is_pir_value(item) and _owner(item) is program and not naming.is_superseded(item):
                return item
            return self._value(program, GraphWrapper.name_of(item))
        name = GraphWrapper.name_of(item)
        if paddle_compat.is_legacy_program(program) and not program.global_block().has_var(name):
            GraphWrapper(program).var(name)
        return name

    def _value(self, program: Any, name: str) -> Any:
        """Look a value up in the program's table, made anew when the program has changed."""
        state = _state(program)
        entry = self._tables.get(id(program))
        if entry is None or entry[0]() is not program or entry[1] != state:
            graph = GraphWrapper(program)
            key, tables = id(program), self._tables
            gone = weakref.ref(program, lambda _: tables.pop(key, None))
            entry = (gone, state, {var.name(): var.raw for var in graph.vars()})
            self._tables[key] = entry
        found = entry[2].get(name)
        return found if found is not None else GraphWrapper(program).var(name).raw

    def close(self) -> None:
        """Release the resources of the underlying executor."""
        self._executor.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def _owner(value: Any) -> Any:
    op = value.get_defining_op()
    return op.get_parent_block().program if op is not None else None


def _state(program: Any) -> tuple[int, int]:
    """Return what changes whenever an operator is added or removed: their count, and the newest of their ids."""
    ops = program.global_block().ops
    return len(ops), max((op.id() for op in ops), default=0)


def _scope_guard(program: Any, scope: Any) -> AbstractContextManager[Any]:
    """Make ``scope`` the global one where Paddle looks for a scheduled learning rate there and not in ``scope``."""
    if scope is not None and paddle_compat.is_pir_program(program) and hasattr(program, 'lr_scheduler'):
        guard: AbstractContextManager[Any] = paddle.static.scope_guard(scope)
        return guard
    return nullcontext()
