"""Reading and editing legacy ProgramDesc programs (Paddle 2.x, and 3.x without PIR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.editor import Editor, arriving_gradient, single_grad_op
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.op_table import OPTIMIZER_OPS, canonical_slot
from paddleslim_ng.errors import GraphError, UnsupportedOpError

__all__ = ['LegacyEditor']

_HOLDERS = frozenset({'feed', 'fetch'})
_DTYPE_ATTRS = frozenset({'dtype', 'in_dtype', 'out_dtype'})


class LegacyEditor(Editor):
    """Editor of a ProgramDesc program."""

    ir = 'legacy'
    _loaded = False

    def index(self, graph: GraphWrapper) -> None:
        block = self.program.global_block()
        wrappers: dict[str, VarWrapper] = {}
        for name, raw in block.vars.items():
            var = wrappers[name] = VarWrapper(graph, raw, name)
            var.is_data = bool(getattr(raw, 'is_data', False))
            graph._vars.append(var)
        self._loaded = not any(hasattr(var.raw, 'trainable') for var in graph._vars)
        for op in block.ops:
            desc = op.desc
            wrapper = OpWrapper(graph, op, desc.type(), {}, {})
            for slot in desc.input_names():
                group = [wrappers[name] for name in desc.input(slot) if name in wrappers]
                if group:
                    wrapper._ins[slot if slot[0].isupper() else _spelled(slot)] = group
                    for var in group:
                        if not var._consumers or var._consumers[-1] is not wrapper:
                            var._consumers.append(wrapper)
            for slot in desc.output_names():
                group = [wrappers[name] for name in desc.output(slot) if name in wrappers]
                if group:
                    wrapper._outs[slot if slot[0].isupper() else _spelled(slot)] = group
                    for var in group:
                        var._producers.append(wrapper)
                        var.is_data |= wrapper._type == 'feed'
            graph._ops.append(wrapper)
        if self._loaded:
            for var in graph._vars:
                var.is_data |= not var._producers and bool(var._consumers) and not var.raw.persistable

    def variable_name(self, var: VarWrapper) -> str:
        return str(var.raw.name)

    def shape(self, var: VarWrapper) -> tuple[int, ...]:
        try:
            return tuple(n if n >= 0 else -1 for n in var.raw.shape)
        except (ValueError, RuntimeError):
            return ()

    def set_shape(self, var: VarWrapper, shape: tuple[int, ...]) -> None:
        var.raw.desc.set_shape(list(shape))

    def dtype(self, var: VarWrapper) -> str:
        try:
            return paddle_compat.dtype_name(var.raw.dtype)
        except (ValueError, RuntimeError):
            return ''

    def is_parameter(self, var: VarWrapper) -> bool:
        if hasattr(var.raw, 'trainable'):
            return True
        # A loaded inference model has plain persistable variables where it had parameters.
        return self._loaded and self.persistable(var) and bool(var._consumers)

    def persistable(self, var: VarWrapper) -> bool:
        return bool(var.raw.persistable) and var.raw.name not in _HOLDERS

    def parameters(self, graph: GraphWrapper) -> list[VarWrapper]:
        return [var for var in graph._vars if self.is_parameter(var)]

    def attr(self, op: OpWrapper, name: str) -> Any:
        if not op.raw.has_attr(name):
            return None
        value = op.raw.attr(name)
        if name == 'values':
            return [paddle_compat.plain_number(item) for item in value]
        return paddle_compat.dtype_name(value) if name in _DTYPE_ATTRS and isinstance(value, int) else value

    def set_attr(self, op: OpWrapper, name: str, value: Any) -> None:
        if not op.raw.has_attr(name):
            raise GraphError(f'operator {op.type()} has no attribute {name!r}')
        present = op.raw.attr(name)
        if not _fits(present, value):
            raise GraphError(
                f'cannot store {value!r} in attribute {name!r} of {op.type()}: it holds a {type(present).__name__}'
            )
        op.raw._set_attr(name, list(value) if isinstance(value, tuple) else value)

    def role(self, op: OpWrapper) -> int:
        if op._type in OPTIMIZER_OPS:
            return paddle_compat.OPTIMIZE_ROLE
        role = int(op.raw.attr('op_role')) if op.raw.has_attr('op_role') else 0
        if role & paddle_compat.BACKWARD_ROLE:
            return paddle_compat.BACKWARD_ROLE
        return paddle_compat.OPTIMIZE_ROLE if role & 0xFF else 0

    def grad_ops(self, op: OpWrapper) -> list[OpWrapper]:
        wanted = op._type + '_grad'
        found: dict[int, OpWrapper] = {}
        for var in (*op.all_inputs(), *op.all_outputs()):
            for reader in var._consumers:
                if reader._type == wanted and self._belongs(reader, op):
                    found[reader._idx] = reader
        return list(found.values())

    @staticmethod
    def _belongs(reader: OpWrapper, op: OpWrapper) -> bool:
        for slot, group in {**op._ins, **op._outs}.items():
            if slot in reader._ins and reader._ins[slot] != group:
                return False
            grads = reader._ins.get(slot + '@GRAD')
            if grads is not None and slot in op._outs and len(grads) == len(group):
                for grad, var in zip(grads, group):
                    if not grad.name().startswith(var.name() + '@GRAD'):
                        return False
        return True

    def infer_shape(self, graph: GraphWrapper) -> None:
        block = self.program.global_block()
        for op in graph._ops:
            if op._type in ('feed', 'fetch') or op.raw.has_attr('sub_block'):
                continue
            try:
                op.raw.desc.infer_shape(block.desc)
            except ValueError as error:
                raise GraphError(f'the shapes around {op!r} do not fit together: {error}') from error

    def split_into(self, op: OpWrapper, sections: Sequence[int]) -> None:
        sizes = [int(n) for n in sections]
        self._check_split(op, sizes)
        op.raw._set_attr('sections', sizes)
        op.raw._set_attr('num', 0)

    def scale_after(self, var: VarWrapper, factor: float) -> None:
        if not var._producers:
            raise GraphError(f'{var.name()!r} is an input or parameter: no operator makes it')
        if len(var._producers) > 1 or var.persistable():
            raise UnsupportedOpError(
                f'cannot scale {var.name()!r}: {[op.type() for op in var._producers]} write to it',
                op=var._producers[-1].type(),
                variable=var.name(),
            )
        grad = single_grad_op(self, var, bool(var.raw.stop_gradient))
        arriving = arriving_gradient(grad, var).name() if grad is not None else ''
        name = var.name()
        unscaled = self._insert_scale(var._producers[0], name, name + '.unscaled', factor, after=True)
        var._producers[0].raw.desc._rename_output(name, unscaled)
        if grad is not None:
            grad.raw.desc._rename_input(name, unscaled)
            scaled = self._insert_scale(grad, arriving, unscaled + '@GRAD', factor, after=False)
            grad.raw.desc._rename_input(arriving, scaled)

    def _insert_scale(self, op: OpWrapper, name: str, fresh: str, factor: float, *, after: bool) -> str:
        """Insert ``name = scale(fresh)`` after ``op``, or ``fresh = scale(name)`` before it; return ``fresh``."""
        block = self.program.global_block()
        old = block.var(name)
        new = block.create_var(name=fresh, shape=old.shape, dtype=old.dtype, stop_gradient=old.stop_gradient)
        source, target = (new, old) if after else (old, new)
        attrs: dict[str, Any] = {'scale': float(factor), 'bias': 0.0, 'bias_after_scale': True}
        if op.raw.has_attr('op_role'):
            attrs['op_role'] = op.raw.attr('op_role')
        position = block.ops.index(op.raw) + (1 if after else 0)
        block._insert_op(position, type='scale', inputs={'X': [source]}, outputs={'Out': [target]}, attrs=attrs)
        return fresh

    def feed_constant(
        self, op: OpWrapper, slot: str, values: npt.NDArray[np.int64], gradients: Sequence[OpWrapper] = ()
    ) -> None:
        var = self._only(op, slot)
        new = self._insert_constant(op, values)
        for reader in (op, *gradients):
            reader.raw.desc._rename_input(var.name(), new)

    def pick_before(
        self,
        op: OpWrapper,
        slot: str,
        axis: int,
        size: int,
        positions: Sequence[int],
        gradients: Sequence[OpWrapper] = (),
    ) -> None:
        var = self._check_pick(op, slot, axis, size, positions)
        old = var.name()
        index = self._insert_constant(op, np.asarray(positions, dtype=np.int64))
        picked = self._insert(op, 'index_select', {'X': old, 'Index': index}, old, {'dim': axis})
        for reader in (op, *gradients):
            reader.raw.desc._rename_input(old, picked)
        for gradient in gradients:
            for grad in gradient._outs.get(slot + '@GRAD', ()):
                name = grad.name()
                inner = self._like(name)
                gradient.raw.desc._rename_output(name, inner)
                paddings = [0] * (2 * len(var.raw.shape))
                paddings[2 * axis + 1] = 1
                index = self._insert_constant(gradient, np.asarray(self._spread(positions, size), dtype=np.int64))
                padded = self._insert(gradient, 'pad', {'X': inner}, inner, {'paddings': paddings, 'pad_value': 0.0}, 1)
                self._insert(gradient, 'index_select', {'X': padded, 'Index': index}, name, {'dim': axis}, 2, name)

    def _like(self, name: str) -> str:
        """Make a variable of the element type and shape of another, and return its name."""
        block = self.program.global_block()
        old = block.var(name)
        fresh = paddle_compat.unused_name(block, name + '.picked')
        block.create_var(name=fresh, shape=old.shape, dtype=old.dtype, stop_gradient=old.stop_gradient)
        return fresh

    def _insert(
        self,
        op: OpWrapper,
        kind: str,
        inputs: dict[str, str],
        like: str,
        attrs: dict[str, Any],
        offset: int = 0,
        target: str | None = None,
    ) -> str:
        """Insert an operator ``offset`` places from ``op``; return the name of its result, new where no ``target``."""
        block = self.program.global_block()
        target = target or self._like(like)
        if op.raw.has_attr('op_role'):
            attrs = {**attrs, 'op_role': op.raw.attr('op_role')}
        block._insert_op(
            block.ops.index(op.raw) + offset,
            type=kind,
            inputs={slot: [block.var(name)] for slot, name in inputs.items()},
            outputs={'Out': [block.var(target)]},
            attrs=attrs,
        )
        return target

    def _insert_constant(self, op: OpWrapper, values: npt.NDArray[np.int64]) -> str:
        block = self.program.global_block()
        name = paddle_compat.unused_name(block, 'constant')
        var = block.create_var(name=name, shape=values.shape, dtype='int64', stop_gradient=True)
        attrs = paddle_compat.literal_attributes(values, var.dtype)
        if op.raw.has_attr('op_role'):
            attrs['op_role'] = op.raw.attr('op_role')
        block._insert_op(block.ops.index(op.raw), type='assign_value', outputs={'Out': [var]}, attrs=attrs)
        return name

    def remove(self, op: OpWrapper) -> None:
        written = {var.name() for var in op.all_outputs()}
        for block in self.program.blocks:
            for other in block.ops:
                if other is not op.raw and written.intersection(other.desc.input_arg_names()):
                    raise GraphError(f'cannot remove {op!r}: a result is still read')
        block = self.program.global_block()
        block._remove_op(block.ops.index(op.raw))


def _spelled(slot: str) -> str:
    """Spell a slot of an operator that has lower-case slots (``learning_rate`` of newer optimizers) as all others."""
    base, at, suffix = slot.partition('@')
    return canonical_slot(base) + at + suffix


def _fits(present: Any, value: Any) -> bool:
    if isinstance(present, (list, tuple)):
        return isinstance(value, (list, tuple))
    if isinstance(present, bool) or isinstance(value, bool):
        return isinstance(present, bool) and isinstance(value, bool)
    if isinstance(present, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(present))
