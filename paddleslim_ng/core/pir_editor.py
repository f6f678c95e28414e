"""Editing PIR programs (Paddle 3.x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import naming, paddle_compat
from paddleslim_ng.core.editor import arriving_gradient, single_grad_op
from paddleslim_ng.core.graph_wrapper import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.core.pir_reader import PirReader
from paddleslim_ng.core.pir_vocabulary import CONSTANT_OPS, is_vector, set_plain_attribute
from paddleslim_ng.errors import GraphError

__all__ = ['PirEditor']


class PirEditor(PirReader):
    """Editor of a PIR program."""

    @classmethod
    def of(cls, graph: GraphWrapper) -> PirEditor:
        """Return the editor of a wrapped PIR program.

        Raises:
            GraphError: the program is a legacy one.
        """
        if not isinstance(graph.editor, cls):
            raise GraphError('expected a PIR program, got a legacy one')
        return graph.editor

    def set_shape(self, var: VarWrapper, shape: tuple[int, ...]) -> None:
        raw = var.raw
        if is_vector(raw) or not raw.is_dense_tensor_type():
            raise GraphError(f'{var.name()!r} is no tensor and has no shape')
        raw.set_type(paddle_compat.create_shaped_type(raw, shape))
        if var.is_data:
            raw.get_defining_op().set_int_array_attr('shape', list(shape))

    def set_attr(self, op: OpWrapper, name: str, value: Any) -> None:
        if op.cache and name in op.cache:
            self._set_constant(op, name, value)
            return
        key = self.vocabulary_of(op).attrs.get(name, name)
        if key not in self._attrs(op):
            raise GraphError(f'operator {op.type()} has no attribute {name!r}')
        set_plain_attribute(op.raw, key, value)
        op.attrs = None
        for var in op.all_outputs():
            var._shape = None

    def _set_constant(self, op: OpWrapper, name: str, value: Any) -> None:
        index = self.vocabulary_of(op).operand_of(name)
        if index is None or op.cache is None or name not in op.cache:
            raise GraphError(f'operator {op.type()} takes no constant operand {name!r}')
        old = op.cache[name]
        is_list = old.name() == 'pd_op.full_int_array'
        if is_list != isinstance(value, (list, tuple)) or (not is_list and not isinstance(value, (int, float))):
            raise GraphError(f'{name!r} of {op.type()} is {"a list of int" if is_list else "a number"}, not {value!r}')
        with paddle_compat.insertion_before(op.raw):
            if is_list:
                new = paddle_compat.full_int_array([int(v) for v in value])
            else:
                attrs = old.attrs()
                new = paddle_compat.full_constant(list(attrs['shape']), float(value), attrs['dtype'])
        op.raw.operands()[index].set_source(new)
        op.cache[name] = new.get_defining_op()
        self._drop_unread(old)

    def split_into(self, op: OpWrapper, sections: Sequence[int]) -> None:
        raw, sizes = op.raw, [int(n) for n in sections]
        self._check_split(op, sizes)
        if raw.name() == 'pd_op.split':
            self._set_constant(op, 'sections', sizes)
            return
        axis = int(self.attr(op, 'axis'))
        vector = raw.result(0)
        with paddle_compat.insertion_before(raw):
            parts = paddle_compat.pir_call('split', raw.operand_source(0), sizes, axis)
        unpack = parts[0].get_defining_op()
        replacement = unpack.operand_source(0)
        made = replacement.get_defining_op()
        naming.copy_name(vector, replacement)
        for var, part in zip(op.all_outputs(), parts):
            var.raw.set_type(part.type())
            var._shape = None
        block = raw.get_parent_block()
        block.remove_op(unpack)
        vector.replace_all_uses_with(replacement)
        block.remove_op(raw)
        op.raw, op.attrs = made, None
        names = self._vocabulary(made, made.name())
        op.cache = {
            name: made.operand_source(index).get_defining_op()
            for index, name in enumerate(names.constants)
            if name is not None
        }

    def scale_after(self, var: VarWrapper, factor: float) -> None:
        if not var._producers:
            raise GraphError(f'{var.name()!r} is an input or parameter: no operator makes it')
        grad = single_grad_op(self, var, bool(var.raw.stop_gradient))
        arriving = arriving_gradient(grad, var).raw if grad is not None else None
        raw = var.raw
        with paddle_compat.insertion_after(raw.get_defining_op()):
            scaled = paddle_compat.pir_call('scale', raw, float(factor), 0.0, True)
        exempt = {scaled.get_defining_op().id()} | ({grad.raw.id()} if grad is not None else set())
        for reader in raw.all_used_ops():
            if reader.id() not in exempt:
                _redirect(reader, raw, scaled)
        naming.supersede(raw, scaled)
        if grad is not None:
            with paddle_compat.insertion_before(grad.raw):
                _redirect(grad.raw, arriving, paddle_compat.pir_call('scale', arriving, float(factor), 0.0, True))

    def feed_constant(
        self, op: OpWrapper, slot: str, values: npt.NDArray[np.int64], gradients: Sequence[OpWrapper] = ()
    ) -> None:
        var = self._only(op, slot)
        old = var.raw
        with paddle_compat.insertion_before(op.raw):
            new = paddle_compat.full_int_array([int(v) for v in values.reshape(-1)])
            if values.ndim != 1:
                new = paddle_compat.pir_call('reshape', new, list(values.shape))
        for reader in (op, *gradients):
            _redirect(reader.raw, old, new)
        for maker in var._producers:
            if all(value.use_empty() for value in maker.raw.results() if value.initialized()):
                self.remove(maker)

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
        old = var.raw
        with paddle_compat.insertion_before(op.raw):
            picked = self._index_select(old, positions, axis)
        picked.stop_gradient = old.stop_gradient
        for reader in (op, *gradients):
            _redirect(reader.raw, old, picked)
        for gradient in gradients:
            for grad in gradient._outs.get(slot + '@GRAD', ()):
                raw = grad.raw
                raw.set_type(paddle_compat.create_shaped_type(raw, tuple(picked.shape)))
                paddings = [0] * (2 * len(raw.shape))
                paddings[2 * axis + 1] = 1
                with paddle_compat.insertion_after(gradient.raw):
                    padded = paddle_compat.pir_call('pad', raw, paddings, 0.0)
                    spread = self._index_select(padded, self._spread(positions, size), axis)
                for reader in raw.all_used_ops():
                    if reader.id() != padded.get_defining_op().id():
                        _redirect(reader, raw, spread)
                naming.supersede(raw, spread)
                grad.raw, grad._shape = spread, None

    @staticmethod
    def _index_select(value: Any, positions: Sequence[int], axis: int) -> Any:
        return paddle_compat.pir_call('index_select', value, paddle_compat.full_int_array(list(positions)), axis)

    def remove(self, op: OpWrapper) -> None:
        raw = op.raw
        unpackers = []
        for value in raw.results():
            if not value.initialized() or value.use_empty():
                continue
            readers = value.all_used_ops()
            if any(r.name() != 'builtin.split' or any(not part.use_empty() for part in r.results()) for r in readers):
                raise GraphError(f'cannot remove {op!r}: a result is still read')
            unpackers.extend(readers)
        block = raw.get_parent_block()
        sources = [source.get_defining_op() for source in raw.operands_source() if source.initialized()]
        for unpacker in unpackers:
            block.remove_op(unpacker)
        block.remove_op(raw)
        for maker in {source.id(): source for source in sources if source is not None}.values():
            if maker.name() in CONSTANT_OPS or maker.name() == 'builtin.combine':
                self._drop_unread(maker)

    @staticmethod
    def _drop_unread(constant: Any) -> None:
        if constant.result(0).use_empty():
            constant.get_parent_block().remove_op(constant)


def _redirect(reader: Any, old: Any, new: Any) -> None:
    for index, source in enumerate(reader.operands_source()):
        if source.initialized() and source.is_same(old):
            reader.operands()[index].set_source(new)
