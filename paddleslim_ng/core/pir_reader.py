"""Reading PIR programs (Paddle 3.x): the wrappers of their operators and values, shapes, attributes and roles."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.editor import Editor
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.pir_roles import find_roles
from paddleslim_ng.core.pir_vocabulary import CONSTANT_OPS, Vocabulary, constant_value, is_vector

__all__ = ['PirReader']

_PRODUCER_OF_OUTPUTS = frozenset({'builtin.shadow_output', 'builtin.set_parameter', 'pd_op.fetch'})
_HIDDEN_ATTRS = ('op_callstack', 'stop_gradient', 'struct_name')
# Attributes that are read one by one; reading all of an operator takes fifty times as long.
_QUICK_READERS = {'data_format': 'str_attr', 'data_layout': 'str_attr', 'groups': 'int_attr'}


class PirReader(Editor):
    """The half of a PIR program's editor that changes nothing."""

    ir = 'pir'

    def __init__(self, program: Any) -> None:
        super().__init__(program)
        self._roles: dict[int, int] | None = None
        self._graph: GraphWrapper | None = None
        self._values: dict[int, VarWrapper] = {}
        self._members: dict[int, list[VarWrapper]] = {}
        self._vocabularies: dict[str, Vocabulary] = {}
        self.keeps: list[VarWrapper] = []

    def index(self, graph: GraphWrapper) -> None:
        naming.ensure_names(self.program)
        self._graph, self._roles, self.keeps = graph, None, []
        self._values, self._members = {}, {}
        values, members = self._values, self._members
        makers: dict[int, OpWrapper] = {}
        for op in self.program.global_block().ops:
            name = op.name()
            if name == 'builtin.parameter':
                self._add(graph, op.result(0), op.str_attr('parameter_name'))
            elif name == 'pd_op.data':
                self._add(graph, op.result(0), op.str_attr('name')).is_data = True
            elif name == 'builtin.combine':
                members[op.result(0).hash()] = [values[v.hash()] for v in op.operands_source()]
            elif name == 'builtin.split':
                self._unpack(graph, op, makers)
            elif name in _PRODUCER_OF_OUTPUTS:
                self.keeps.extend(values[v.hash()] for v in op.operands_source() if v.hash() in values)
            else:
                graph._ops.append(self._wrap(graph, op, self._vocabulary(op, name), makers))
        graph._ops = [op for op in graph._ops if not self._is_plumbing(op)]

    def _add(self, graph: GraphWrapper, raw: Any, name: str | None = None) -> VarWrapper:
        var = self._values[raw.hash()] = VarWrapper(graph, raw, name)
        graph._vars.append(var)
        return var

    def _unpack(self, graph: GraphWrapper, op: Any, makers: dict[int, OpWrapper]) -> None:
        """Take the parts of a vector as the results of the operator that made the vector."""
        vector = op.operand_source(0).hash()
        parts = self._members.setdefault(vector, [])
        known = bool(parts)
        for position, value in enumerate(op.results()):
            if known:
                self._values[value.hash()] = parts[position]
                continue
            part = self._add(graph, value)
            parts.append(part)
            if vector in makers:
                part._producers.append(makers[vector])

    def _vocabulary(self, op: Any, name: str) -> Vocabulary:
        vocabulary = self._vocabularies.get(name)
        if vocabulary is None:
            vocabulary = self._vocabularies[name] = Vocabulary(op, self._vocabularies)
        return vocabulary

    def _wrap(self, graph: GraphWrapper, op: Any, vocabulary: Vocabulary, makers: dict[int, OpWrapper]) -> OpWrapper:
        ins: dict[str, list[VarWrapper]] = {}
        wrapper = OpWrapper(graph, op, vocabulary.type, ins, {})
        slots, constants, values, members = vocabulary.operands, vocabulary.constants, self._values, self._members
        known = len(slots)
        has_regions = op.num_regions() > 0
        for index, source in enumerate(paddle_compat.used_external_values(op) if has_regions else op.operands_source()):
            key = source.hash()
            var = values.get(key)
            slot = slots[index] if index < known else 'X'
            if var is None:
                group = members.get(key)
                if group:
                    ins.setdefault(slot, []).extend(group)
                continue
            if index < known and constants[index] is not None and var._producers:
                maker = var._producers[0].raw
                if maker.name() in CONSTANT_OPS:
                    wrapper.cache = wrapper.cache or {}
                    wrapper.cache[constants[index] or ''] = maker
                    continue
            ins.setdefault(slot, []).append(var)
        for group in ins.values():
            for var in group:
                readers = var._consumers
                if not readers or readers[-1] is not wrapper:
                    readers.append(wrapper)
        self._add_results(graph, wrapper, vocabulary, makers, None if has_regions else vocabulary.vectors)
        return wrapper

    def _add_results(
        self,
        graph: GraphWrapper,
        wrapper: OpWrapper,
        vocabulary: Vocabulary,
        makers: dict[int, OpWrapper],
        vectors: dict[int, bool] | None,
    ) -> None:
        """Wrap the results; ``vectors`` remembers, kind by kind, which are vectors of tensors."""
        slots = vocabulary.results
        for index, value in enumerate(wrapper.raw.results()):
            if not value.initialized():
                continue
            slot = slots[index] if index < len(slots) else 'Out'
            vector = vectors.get(index) if vectors is not None else is_vector(value)
            if vector is None and vectors is not None:
                vector = vectors[index] = is_vector(value)
            if vector:
                makers[value.hash()] = wrapper
                wrapper._outs[slot] = self._members.setdefault(value.hash(), [])
            else:
                var = self._add(graph, value)
                var._producers.append(wrapper)
                wrapper._outs.setdefault(slot, []).append(var)

    @staticmethod
    def _is_plumbing(op: OpWrapper) -> bool:
        return op.raw.name() in CONSTANT_OPS and not any(var._consumers for var in op.all_outputs())

    def wrapper_of(self, value: Any) -> VarWrapper | None:
        """Return the variable of a value, or None where it has none, as absent optional operands and vectors."""
        return self._values.get(value.hash()) if value.initialized() else None

    def vocabulary_of(self, op: OpWrapper) -> Vocabulary:
        """Return the canonical names of an operator's operands, results and attributes."""
        return self._vocabulary(op.raw, op.raw.name())

    def variable_name(self, var: VarWrapper) -> str:
        return naming.value_name(var.raw)

    def shape(self, var: VarWrapper) -> tuple[int, ...]:
        try:
            return tuple(n if n >= 0 else -1 for n in var.raw.shape)
        except (ValueError, RuntimeError):
            return ()

    def dtype(self, var: VarWrapper) -> str:
        try:
            return paddle_compat.dtype_name(var.raw.dtype)
        except (ValueError, RuntimeError):
            return ''

    def is_parameter(self, var: VarWrapper) -> bool:
        return bool(var.raw.is_parameter)

    def persistable(self, var: VarWrapper) -> bool:
        return bool(var.raw.persistable)

    def parameters(self, graph: GraphWrapper) -> list[VarWrapper]:
        found = [var for var in graph._vars if var.is_parameter()]
        last = len(graph._ops)
        return sorted(found, key=lambda var: var._consumers[0]._idx if var._consumers else last)

    @staticmethod
    def _attrs(op: OpWrapper) -> dict[str, Any]:
        """Return the operator's own attributes, read once: Paddle renders the call stack each time."""
        if op.attrs is None:
            op.attrs = {key: value for key, value in op.raw.attrs().items() if key not in _HIDDEN_ATTRS}
        return op.attrs

    def attr(self, op: OpWrapper, name: str) -> Any:
        if op.cache and name in op.cache:
            return constant_value(op.cache[name])
        names = self.vocabulary_of(op)
        key = names.attrs.get(name, name)
        if op.raw.has_attr(key) and key not in _HIDDEN_ATTRS:
            if op.attrs is None and key in _QUICK_READERS:
                return getattr(op.raw, _QUICK_READERS[key])(key)
            value = self._attrs(op)[key]
            return paddle_compat.dtype_name(value) if name.endswith('dtype') else value
        if name in names.derived:
            return names.derived[name](lambda other: self.attr(op, other))
        default = names.defaults.get(name)
        return list(default) if isinstance(default, list) else default

    def role(self, op: OpWrapper) -> int:
        if self._roles is None:
            self._roles = find_roles(self._graph._ops if self._graph else [])
        return self._roles.get(op._idx, 0)

    def grad_ops(self, op: OpWrapper) -> list[OpWrapper]:
        wanted = op._type + '_grad'
        found: dict[int, OpWrapper] = {}
        for var in (*op.all_inputs(), *op.all_outputs()):
            for reader in var._consumers:
                if reader._type == wanted and all(
                    not group or [v.raw.id for v in group] == [v.raw.id for v in reader._ins[slot]]
                    for slot, group in {**op._ins, **op._outs}.items()
                    if slot in reader._ins
                ):
                    found[reader._idx] = reader
        mine = [source.result(0).id for source in (op.cache or {}).values()]
        return [
            reader
            for reader in found.values()
            if not mine or not reader.cache or any(s.result(0).id in mine for s in reader.cache.values())
        ]

    def infer_shape(self, graph: GraphWrapper) -> None:
        """PIR operators carry their result types; editors set them, so there is nothing to recompute."""
