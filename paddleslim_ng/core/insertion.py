"""New operators and new state in a program of either IR: masks, collectives, statistics.

An :class:`Insertion` is a place in the main block. Operators built there stand in the order in which they were asked
for. Types, slots and attributes are canonical (:mod:`paddleslim_ng.core.op_table`); wrap the program anew when done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Union

from paddleslim_ng.core import legacy_calls, naming, paddle_compat, pir_calls
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.marks import ROLE, mark
from paddleslim_ng.core.pir_calls import PirCall, is_floating
from paddleslim_ng.errors import GraphError

__all__ = ['ROLES', 'Insertion', 'add_state', 'insertable', 'remove_state']

ROLES: Mapping[str, int] = {
    'forward': 0,
    'backward': paddle_compat.BACKWARD_ROLE,
    'optimizer': paddle_compat.OPTIMIZE_ROLE,
}
Given = Union[VarWrapper, str, Sequence[Union[VarWrapper, str]]]


def insertable(graph: GraphWrapper, type: str) -> bool:
    """Tell whether :meth:`Insertion.op` can build an operator of this canonical type in the program."""
    return legacy_calls.known(type) if graph.ir == 'legacy' else pir_calls.known(type)


def add_state(graph: GraphWrapper, name: str, shape: Sequence[int], dtype: str) -> VarWrapper:
    """Add a persistable tensor that is no parameter: a mask, a counter, a buffer. The scope is left alone.

    Args:
        graph: wrapped program.
        name: unused name.
        shape: static shape.
        dtype: element type in numpy's spelling.

    Returns:
        Its variable, which the wrapped graph knows from now on.

    Raises:
        GraphError: the name is taken, the shape is not static, or the program's IR has no such element type.
    """
    sizes = [int(n) for n in shape]
    if graph.has_var(name):
        raise GraphError(f'cannot add state {name!r}: the program already has a variable of that name')
    if any(n < 1 for n in sizes):
        raise GraphError(f'cannot add state {name!r} of shape {sizes}: every size must be known and positive')
    if graph.ir == 'pir':
        raw = paddle_compat.add_pir_state(graph.program, name, sizes, paddle_compat.pir_dtype(dtype))
    else:
        raw = graph.program.global_block().create_var(
            name=name, shape=sizes, dtype=paddle_compat.legacy_dtype(dtype), persistable=True, stop_gradient=True
        )
    var = VarWrapper(graph, raw, name)
    var.is_data = graph.ir == 'pir'
    graph._vars.append(var)
    graph._names()[name] = var
    return var


def remove_state(graph: GraphWrapper, name: str) -> None:
    """Remove a persistable tensor that nothing reads or writes, as :func:`add_state` makes it.

    Raises:
        GraphError: there is none of that name, it is a parameter, or an operator uses it.
    """
    var = graph.var(name)
    if not var.persistable() or var.is_parameter() or var._consumers or var._producers:
        raise GraphError(f'{name!r} is no unused state of the program')
    block = graph.program.global_block()
    if graph.ir == 'pir':
        block.remove_op(var.raw.get_defining_op())
    else:
        block._remove_var(name)
    graph._vars.remove(var)
    del graph._names()[name]


class Insertion:
    """A place in the main block of a program, where operators are built.

    Args:
        graph: wrapped program.
        after: operator behind which they go.
        before: operator before which they go; the end of the block where neither is given.
        role: ``'forward'``, ``'backward'`` or ``'optimizer'``; the last two are dropped by ``clone(for_test=True)``.
            Paddle keeps no roles on PIR: there a mark on the operator tells.

    Attributes:
        built: Paddle's operators that were built here, in order.

    Raises:
        GraphError: both places are given, one is not of this program, or the role is unknown.

    Example:
        >>> here = Insertion(graph, after=update, role='optimizer')
        >>> mask = here.op('cast', {'X': 'w_mask'}, {'out_dtype': 'float32'})
        >>> here.op('elementwise_mul', {'X': 'w', 'Y': mask}, into='w')
    """

    def __init__(
        self,
        graph: GraphWrapper,
        *,
        after: OpWrapper | None = None,
        before: OpWrapper | None = None,
        role: str = 'forward',
    ) -> None:
        if after is not None and before is not None:
            raise GraphError('give one place to insert at, after= or before=')
        if any(op is not None and op._graph is not graph for op in (after, before)):
            raise GraphError('the operator to insert at belongs to another wrapped program')
        self.graph = graph
        self._role = _role(role)
        self.built: list[Any] = []
        self._synchronized = False
        self._before = before.raw if before is not None else None
        self._after = after.raw if after is not None else None

    def op(
        self,
        type: str,
        inputs: Mapping[str, Given],
        attrs: Mapping[str, Any] | None = None,
        *,
        into: VarWrapper | str | None = None,
    ) -> VarWrapper:
        """Build an operator with one result.

        Args:
            type: canonical type.
            inputs: ``{slot: variable, name, or a list of them}``.
            attrs: canonical attributes; element types in numpy's spelling.
            into: what the result replaces. A persistable variable is overwritten; of another one, all that read it
                after this place read the result, and its name goes with it. On PIR, give the variable that this place
                was chosen for.

        Returns:
            The result; with ``into``, what stands for that variable from now on. Gradients pass through a new result
            where they pass through one of the inputs, and it holds floating-point numbers.

        Raises:
            GraphError: a variable, slot or attribute does not exist, or the result does not fit ``into``.
            UnsupportedOpError: no such operator can be built on the program's IR.
        """
        given = {slot: self._variables(group) for slot, group in inputs.items()}
        target = None if into is None else self._variable(into)
        if self.graph.ir == 'pir':
            call, arguments = pir_calls.arguments_of(type, given, attrs or {})
            return self._build_pir(call, arguments, given, target)
        legacy_calls.check(type, given, attrs or {})
        return self._build_legacy(type, given, attrs or {}, target)

    @contextmanager
    def role(self, role: str) -> Iterator[None]:
        """Give what is built within the ``with`` block another role.

        Raises:
            GraphError: the role is unknown.
        """
        before, self._role = self._role, _role(role)
        try:
            yield
        finally:
            self._role = before

    def copy(
        self, source: GraphWrapper, wanted: Sequence[VarWrapper | str], known: Mapping[str, VarWrapper], prefix: str
    ) -> dict[str, VarWrapper]:
        """Copy from another program what computes some variables from others; the scope is left alone.

        Args:
            source: a wrapped program of the same IR; it stays as it is.
            wanted: variables of it.
            known: ``{variable of the source: variable here that stands for it}``.
            prefix: for the names of all that is copied. Parameters keep their settings, and are trained here, too.

        Returns:
            ``{variable of the source: its copy, or what stands for it}``.

        Raises:
            GraphError: a name is taken.
        """
        from paddleslim_ng.core import copying

        place = self._legacy_place(self.graph.program.global_block()) if self.graph.ir == 'legacy' else 0
        made, found = copying.copy(self, source, [source.var(item) for item in wanted], known, prefix, place)
        self.built.extend(made)
        if made and self._before is None:
            self._after = made[-1]
        return found

    @property
    def role_number(self) -> int:
        """Paddle's number of the role of what is built here."""
        return self._role

    @contextmanager
    def at_this_place(self, last: Any = None) -> Iterator[None]:
        """Let what Paddle builds within the ``with`` block of a PIR program stand here.

        Args:
            last: operator that was built here last, where places move behind what is built.
        """
        if self._before is not None:
            guard = paddle_compat.insertion_before(self._before)
        else:
            anchor = last if last is not None else self._after
            guard = paddle_compat.insertion_after(
                anchor if anchor is not None else self.graph.program.global_block().ops[-1]
            )
        with guard:
            yield

    def redirect(self, old: VarWrapper | str, new: VarWrapper | str, readers: Sequence[OpWrapper]) -> None:
        """Let some operators read ``new`` wherever they read ``old``.

        Raises:
            GraphError: one of them does not read ``old``; nothing is changed then.
        """
        source, replacement = self._variable(old), self._variable(new)
        for reader in readers:
            if reader not in source._consumers:
                raise GraphError(f'{reader!r} does not read {source.name()!r}')
        for reader in readers:
            if self.graph.ir == 'legacy':
                reader.raw.desc._rename_input(source.name(), replacement.name())
            else:
                _redirect(reader.raw, source.raw, replacement.raw)

    def _variable(self, item: VarWrapper | str) -> VarWrapper:
        if isinstance(item, VarWrapper):
            if item._graph is not self.graph:
                raise GraphError(f'{item.name()!r} belongs to another wrapped program')
            return item
        return self.graph.var(item)

    def _variables(self, given: Given) -> list[VarWrapper]:
        if isinstance(given, (VarWrapper, str)):
            return [self._variable(given)]
        return [self._variable(item) for item in given]

    def _build_pir(
        self, call: PirCall, arguments: list[Any], inputs: dict[str, list[VarWrapper]], target: VarWrapper | None
    ) -> VarWrapper:
        if target is None:
            place = None if call.result is None else call.result[1]
            made = VarWrapper(self.graph, self._emit(call.name, *arguments, place=place))
            if not is_floating(made.dtype()):
                made.raw.stop_gradient = True
            return made
        own = bool(inputs.get('X')) and inputs['X'][0] is target
        if target.persistable():
            if own and paddle_compat.pir_builds(call.name + '_'):
                self._emit(call.name + '_', *arguments)
            else:
                self._emit('assign_out_', self._emit(call.name, *arguments), target.raw)
            return target
        raw = target.raw
        later = self._readers_behind(raw)
        result = self._emit(call.name, *arguments)
        for reader in later:
            _redirect(reader, raw, result)
        naming.supersede(raw, result, f'before_{naming.value_name(result).partition(".")[0]}')
        target.raw = result
        return target

    def _readers_behind(self, raw: Any) -> list[Any]:
        """Return the operators that read a value and stand behind this place."""
        readers = raw.all_used_ops()
        maker = raw.get_defining_op()
        if self._after is not None and maker is not None and self._after.id() == maker.id():
            return list(readers)
        anchor = self._after if self._after is not None else self._before
        if anchor is None:
            return []
        order = {op.id(): place for place, op in enumerate(self.graph.program.global_block().ops)}
        here = order[anchor.id()]
        found = []
        for reader in readers:
            place = order.get(reader.id())
            if place is None:
                raise GraphError('cannot replace a variable that control flow reads')
            if place > here or (place == here and self._before is not None):
                found.append(reader)
        return found

    def _emit(self, name: str, *arguments: Any, place: int | None = None) -> Any:
        """Build a PIR operator here, behind which this place moves; return its result, or the one at ``place``."""
        with self.at_this_place():
            result = paddle_compat.pir_call(name, *arguments)
        if place is not None:
            result = result[place]
        made = result.get_defining_op() if result is not None else None
        if made is None:
            raise GraphError(f'Paddle returned no value for {name}')
        if self._role:
            mark(made, ROLE, str(self._role))
        self.built.append(made)
        if self._before is None:
            self._after = made
        return result

    def _build_legacy(
        self, type: str, inputs: dict[str, list[VarWrapper]], attrs: Mapping[str, Any], target: VarWrapper | None
    ) -> VarWrapper:
        block = self.graph.program.global_block()
        result = None if target is None else target.raw
        place = self._legacy_place(block)
        made, raw = legacy_calls.build(
            block,
            place,
            type,
            inputs,
            {**attrs, 'op_role': self._role},
            result,
            synchronize=not self._synchronized,
        )
        self._synchronized = True
        self.built.append(made)
        if self._before is None:
            self._after = made
        return target if target is not None else VarWrapper(self.graph, raw, raw.name)

    def _legacy_place(self, block: Any) -> int:
        if self._before is not None:
            return int(block.ops.index(self._before))
        return int(block.ops.index(self._after)) + 1 if self._after is not None else len(block.ops)


def _role(name: str) -> int:
    if name not in ROLES:
        raise GraphError(f'unknown role {name!r}; known: {", ".join(ROLES)}')
    return ROLES[name]


def _redirect(reader: Any, old: Any, new: Any) -> None:
    for index, source in enumerate(reader.operands_source()):
        if source.initialized() and source.is_same(old):
            reader.operands()[index].set_source(new)
