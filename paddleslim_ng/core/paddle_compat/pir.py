"""Bindings of PIR programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.base import core as _core

__all__ = [
    'ANY_PLACE',
    'add_pir_initial_value',
    'add_pir_state',
    'clone_pir_op',
    'create_shaped_type',
    'feed_instead',
    'full_constant',
    'full_int_array',
    'inplace_operands',
    'inplace_results',
    'insertion_after',
    'insertion_before',
    'new_ir_mapping',
    'pir_builds',
    'pir_call',
    'pir_from_legacy',
    'pir_state',
    'read_pir',
    'split_vector',
    'unknown_to_pir',
    'used_external_values',
    'write_pir',
]

_pir: Any = getattr(_core, 'pir', None)
ANY_PLACE: Any = _core.Place()  # wherever the program runs
_mixed_precision: Any = getattr(_core, '_get_amp_attrs', None)


def new_ir_mapping() -> Any:
    """Return an empty map from the values of one PIR program to those of another."""
    return _pir.IrMapping()


def clone_pir_op(op: Any, mapping: Any) -> Any:
    """Clone ``op`` with its regions at the current insertion point, its operands taken through ``mapping``."""
    return op.clone(mapping, _pir.CloneOptions(True, True, False))


def create_shaped_type(value: Any, shape: tuple[int, ...]) -> Any:
    """Return ``value``'s type with another shape."""
    return _pir.create_shaped_type(value.type(), list(shape))


def used_external_values(op: Any) -> list[Any]:
    """Return the outer values that the regions of a PIR control-flow operator read: operands first, then captured."""
    return list(_pir.get_used_external_value(op))


def inplace_operands(op: Any) -> list[int]:
    """Return the indices of the operands that a PIR operator overwrites."""
    return list(inplace_results(op).values())


def inplace_results(op: Any) -> dict[int, int]:
    """Return, by the index of a result of a PIR operator, the index of the operand whose memory it overwrites."""
    if not op.name().startswith('pd_op.') or not op.name().endswith('_'):
        return {}
    return {int(result): int(operand) for result, operand in _pir.get_op_inplace_info(op).items()}


def add_pir_state(program: Any, name: str, shape: list[int], dtype: Any) -> Any:
    """Put a persistable tensor at the beginning of a PIR program and return its value."""
    with paddle.static.program_guard(program):
        first = next(iter(program.global_block().ops), None)
        if first is not None:
            _pir.set_insertion_point(first)
        try:
            value = pir_call('data', name, shape, dtype, _core.Place())
        finally:
            _pir.reset_insertion_point_to_end()
    value.persistable = True
    value.stop_gradient = True
    return value


def add_pir_initial_value(program: Any, name: str, shape: list[int], value: float, dtype: Any) -> None:
    """Let a PIR startup program store a constant tensor under ``name``, as Paddle does for optimizer state."""
    with paddle.static.program_guard(program):
        made = pir_call('full', shape, float(value), dtype, _core.Place())
        made.persistable = True
        pir_call('set_persistable_value', made, name)


def pir_from_legacy(program: Any) -> Any:
    """Let Paddle translate a legacy inference program; its errors come through as they are."""
    return _pir.translate_to_pir(program.desc)


def unknown_to_pir(program: Any) -> list[str]:
    """Return the types of operators of a legacy program that Paddle cannot translate to PIR, each once."""
    return list(dict.fromkeys(str(name) for name in _pir.check_unregistered_ops(program.desc)))


def split_vector(vector: Any) -> list[Any]:
    """Insert the operator that takes a PIR vector of tensors apart, right after its maker, and return the parts.

    The vector must not have one yet: a second one ends the process.
    """
    with insertion_after(vector.get_defining_op()):
        return list(pir_call('builtin_split', vector))


def read_pir(path: str) -> Any:
    """Return the program in a ``.json`` file; Paddle's errors come through."""
    program = paddle.static.Program()
    _core.deserialize_pir_program(path, program)
    return program


def write_pir(program: Any, feeds: list[Any], fetches: list[Any], path: str) -> list[str]:
    """Write the ``.json`` of a PIR program and return the names of its parameters and state."""
    whole = paddle.static.normalize_program(program, feeds, fetches)
    _core.serialize_pir_program(whole, path, True, False, True)
    return pir_state(whole)


def pir_state(program: Any, kept: bool = True) -> list[str]:
    """Return the names of what a PIR program keeps in its parameter file.

    Args:
        program: a PIR program.
        kept: False gives the parameters that are in no file, such as the state of a recurrent layer's dropout.
    """
    found = []
    for op in program.global_block().ops:
        if op.name() == 'builtin.parameter' and bool(op.result(0).persistable) == kept:
            found.append(str(op.str_attr('parameter_name')))
        elif op.name() == 'pd_op.data' and op.result(0).persistable and kept:
            found.append(str(op.str_attr('name')))
    return found


def pir_builds(name: str) -> bool:
    """Tell whether this Paddle has the PIR operator ``pd_op.<name>``; looking at others ends the process."""
    return hasattr(paddle._pir_ops, name)


@contextmanager
def insertion_before(op: Any) -> Iterator[None]:
    """New PIR operators go immediately before ``op``."""
    with paddle.static.program_guard(op.get_parent_block().program):
        _pir.set_insertion_point(op)
        try:
            yield
        finally:
            _pir.reset_insertion_point_to_end()


@contextmanager
def insertion_after(op: Any) -> Iterator[None]:
    """New PIR operators go immediately after ``op``."""
    with paddle.static.program_guard(op.get_parent_block().program):
        _pir.set_insertion_point_after(op)
        try:
            yield
        finally:
            _pir.reset_insertion_point_to_end()


def pir_call(name: str, *arguments: Any) -> Any:
    """Build the PIR operator ``name`` at the current insertion point and return its result or results.

    Within ``paddle.amp.auto_cast``, too, it computes in the element types of its operands.
    """
    mixing = _mixed_precision()
    level = mixing._amp_level
    mixing._amp_level = _core.AmpLevel.O0
    try:
        return getattr(paddle._pir_ops, name)(*arguments)
    finally:
        mixing._amp_level = level


def full_int_array(values: list[int]) -> Any:
    """Insert a constant int64 vector and return its value."""
    return pir_call('full_int_array', values, _core.DataType.INT64, _core.CPUPlace())


def full_constant(shape: list[int], value: float, dtype: Any) -> Any:
    """Insert a constant tensor of the given shape on the CPU and return its value."""
    return pir_call('full', shape, value, dtype, _core.CPUPlace())


def feed_instead(value: Any, name: str) -> Any:
    """Put an input called ``name`` in the place of a PIR value, for all its readers, and return the input's value."""
    with insertion_after(value.get_defining_op()):
        data = pir_call('data', name, list(value.shape), value.dtype, _core.Place())
        value.replace_all_uses_with(data)
    return data
