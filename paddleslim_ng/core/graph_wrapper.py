"""One view over both kinds of Paddle program: graph, operators and variables with PaddleSlim's method names.

The wrapper is built in one pass over the main block; afterwards every lookup is O(1) or proportional to the degree.
Operators, slots and attributes carry the canonical names of :mod:`paddleslim_ng.core.op_table` on both IRs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.errors import GraphError, nearest_names

if TYPE_CHECKING:
    from paddleslim_ng.core.editor import Editor

__all__ = ['GraphWrapper', 'OpWrapper', 'VarWrapper']


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Let Python not look for garbage while tens of thousands of objects are made that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class VarWrapper:
    """A variable (legacy) or value (PIR) of a program.

    Attributes:
        raw: the wrapped ``Variable`` or ``Value``.
    """

    __slots__ = ('_consumers', '_graph', '_name', '_producers', '_shape', 'is_data', 'raw')

    def __init__(self, graph: GraphWrapper, raw: Any, name: str | None = None) -> None:
        self._graph = graph
        self.raw = raw
        self._name = name
        self._shape: tuple[int, ...] | None = None
        self._producers: list[OpWrapper] = []
        self._consumers: list[OpWrapper] = []
        self.is_data = False

    def name(self) -> str:
        """Return the variable's name; intermediate PIR values have stable names in the legacy manner."""
        if self._name is None:
            self._name = self._graph.editor.variable_name(self)
        return self._name

    def shape(self) -> tuple[int, ...]:
        """Return the static shape, with -1 for dynamic sizes."""
        if self._shape is None:
            self._shape = self._graph.editor.shape(self)
        return self._shape

    def set_shape(self, shape: Sequence[int]) -> None:
        """Change the static shape in the program; the scope is left alone."""
        self._graph.editor.set_shape(self, tuple(int(n) for n in shape))
        self._shape = tuple(int(n) for n in shape)

    def inputs(self) -> list[OpWrapper]:
        """Return the operators that write this variable."""
        return list(self._producers)

    def outputs(self) -> list[OpWrapper]:
        """Return the operators that read this variable."""
        return list(self._consumers)

    def dtype(self) -> str:
        """Return the element type as numpy spells it, such as ``'float32'``."""
        return self._graph.editor.dtype(self)

    def is_parameter(self) -> bool:
        """Tell whether this is a parameter (moving statistics of batch norm included)."""
        return self._graph.editor.is_parameter(self)

    def persistable(self) -> bool:
        """Tell whether the content outlives a run: parameters, accumulators, learning rates."""
        return self._graph.editor.persistable(self)

    def __repr__(self) -> str:
        return f'{self.name()}{list(self.shape())}'


class OpWrapper:
    """An operator of a program, in canonical vocabulary.

    Attributes:
        raw: the wrapped Paddle operator.
    """

    __slots__ = ('_graph', '_idx', '_ins', '_outs', '_role', '_type', 'attrs', 'cache', 'raw')

    def __init__(
        self,
        graph: GraphWrapper,
        raw: Any,
        type: str,
        ins: dict[str, list[VarWrapper]],
        outs: dict[str, list[VarWrapper]],
    ) -> None:
        self._graph = graph
        self.raw = raw
        self._type = type
        self._ins = ins
        self._outs = outs
        self._idx = -1
        self._role: int | None = None
        self.cache: dict[str, Any] | None = None
        self.attrs: dict[str, Any] | None = None

    def type(self) -> str:
        """Return the canonical operator type."""
        return self._type

    def idx(self) -> int:
        """Return the position among the graph's operators."""
        return self._idx

    def inputs(self, slot: str) -> list[VarWrapper]:
        """Return the variables read through ``slot``; empty where the operator has none there."""
        return list(self._ins.get(slot, ()))

    def outputs(self, slot: str) -> list[VarWrapper]:
        """Return the variables written through ``slot``; empty where the operator has none there."""
        return list(self._outs.get(slot, ()))

    def all_inputs(self) -> list[VarWrapper]:
        """Return all variables read, slot by slot."""
        return [var for group in self._ins.values() for var in group]

    def all_outputs(self) -> list[VarWrapper]:
        """Return all variables written, slot by slot."""
        return [var for group in self._outs.values() for var in group]

    def input_slots(self) -> list[str]:
        """Return the names of the input slots in use."""
        return [slot for slot, group in self._ins.items() if group]

    def output_slots(self) -> list[str]:
        """Return the names of the output slots in use."""
        return [slot for slot, group in self._outs.items() if group]

    def attr(self, name: str) -> Any:
        """Return a canonical attribute, or None where the operator has no such constant attribute."""
        return self._graph.editor.attr(self, name)

    def set_attr(self, name: str, value: Any) -> None:
        """Change a canonical attribute.

        Raises:
            GraphError: the operator has no such attribute, or the value's type cannot be stored.
        """
        self._graph.editor.set_attr(self, name, value)

    def is_bwd_op(self) -> bool:
        """Tell whether this operator belongs to the backward pass."""
        return self._graph.editor.role(self) == paddle_compat.BACKWARD_ROLE

    def is_opt_op(self) -> bool:
        """Tell whether this operator updates parameters or serves the optimizer."""
        return self._graph.editor.role(self) == paddle_compat.OPTIMIZE_ROLE

    def __repr__(self) -> str:
        outs = ', '.join(map(repr, self.all_outputs()))
        ins = ', '.join(map(repr, self.all_inputs()))
        return f'{outs} = {self._type}({ins})'


class GraphWrapper:
    """An indexed view of a Paddle program of either IR, with PaddleSlim's methods.

    Args:
        program: a legacy or PIR program, or another GraphWrapper over one.
        in_nodes: names or variables of the inputs, kept for callers.
        out_nodes: names or variables of the outputs that matter (fetch targets), kept for callers.

    Raises:
        GraphError: ``program`` is neither.

    Example:
        >>> import paddle, paddleslim_ng as slim
        >>> paddle.enable_static()
        >>> program = paddle.static.Program()
        >>> with paddle.static.program_guard(program):
        ...     x = paddle.static.data('x', [None, 3, 8, 8])
        ...     y = paddle.nn.Conv2D(3, 4, 3)(x)
        >>> [op.type() for op in slim.GraphWrapper(program).ops()]
        ['conv2d', 'reshape2', 'elementwise_add']
    """

    def __init__(self, program: Any, in_nodes: Iterable[Any] = (), out_nodes: Iterable[Any] = ()) -> None:
        from paddleslim_ng.core.editor import editor_for

        if isinstance(program, GraphWrapper):
            program = program.program
        self.program: Any = program
        self.in_nodes = in_nodes
        self.out_nodes = out_nodes
        self.editor: Editor = editor_for(program)
        self._reindex()

    def _reindex(self) -> None:
        self._ops: list[OpWrapper] = []
        self._vars: list[VarWrapper] = []
        self._by_name: dict[str, VarWrapper] | None = None
        with _collection_paused():
            self.editor.index(self)
        for index, op in enumerate(self._ops):
            op._idx = index

    @property
    def ir(self) -> str:
        """``'pir'`` or ``'legacy'``."""
        return self.editor.ir

    def ops(self) -> list[OpWrapper]:
        """Return the operators of the main block in program order, control flow and unknown ones included."""
        return list(self._ops)

    def vars(self) -> list[VarWrapper]:
        """Return the variables of the main block."""
        return list(self._vars)

    def has_var(self, name: str) -> bool:
        """Tell whether a variable of that name exists."""
        return name in self._names()

    def var(self, name: Any) -> VarWrapper:
        """Return the variable with this name, or the counterpart of a Variable, Value or VarWrapper.

        Raises:
            GraphError: there is none; the message lists the nearest names.
        """
        key = self.name_of(name)
        found = self._names().get(key)
        if found is None:
            raise GraphError(f'the program has no variable {key!r}{nearest_names(key, self._names())}')
        return found

    @staticmethod
    def name_of(item: Any) -> str:
        """Return the name behind a string, Variable, Value or VarWrapper of any program.

        Raises:
            GraphError: ``item`` is none of these.
        """
        if isinstance(item, str):
            return item
        if isinstance(item, VarWrapper):
            return item.name()
        if paddle_compat.is_pir_value(item):
            from paddleslim_ng.core.naming import current_name

            return current_name(item)
        name = getattr(item, 'name', None)
        if isinstance(name, str):
            return name
        raise GraphError(f'expected a name, Variable or Value, got {type(item).__name__}')

    def _names(self) -> dict[str, VarWrapper]:
        if self._by_name is None:
            self._by_name = {var.name(): var for var in self._vars}
        return self._by_name

    def all_parameters(self) -> list[VarWrapper]:
        """Return the parameters, moving statistics of batch norm included, in program order."""
        return self.editor.parameters(self)

    def is_persistable(self, var: VarWrapper) -> bool:
        """Tell whether the content of ``var`` outlives a run."""
        return var.persistable()

    def pre_ops(self, op: OpWrapper) -> list[OpWrapper]:
        """Return the operators that produce the inputs of ``op``, each once, in program order."""
        found = {id(p): p for var in op.all_inputs() for p in var._producers if p is not op}
        return sorted(found.values(), key=lambda p: p._idx)

    def next_ops(self, op: OpWrapper) -> list[OpWrapper]:
        """Return the operators that read the outputs of ``op``, each once, in program order."""
        found = {id(c): c for var in op.all_outputs() for c in var._consumers if c is not op}
        return sorted(found.values(), key=lambda c: c._idx)

    def clone(self, for_test: bool = False) -> GraphWrapper:
        """Return a wrapper over a copy of the program; see :func:`paddleslim_ng.core.clone_program`."""
        from paddleslim_ng.core.cloning import clone_program

        return GraphWrapper(clone_program(self.program, for_test), self.in_nodes, self.out_nodes)

    def numel_params(self) -> int:
        """Return the total number of elements of all parameters."""
        return int(sum(np.prod(var.shape(), dtype=np.int64) for var in self.all_parameters()))

    def infer_shape(self) -> None:
        """Recompute the static shapes of intermediate variables after an edit (legacy; PIR keeps its own)."""
        self.editor.infer_shape(self)
        for var in self._vars:
            var._shape = None

    def __repr__(self) -> str:
        return f'GraphWrapper({self.ir}, {len(self._ops)} ops, {len(self._vars)} vars)'
