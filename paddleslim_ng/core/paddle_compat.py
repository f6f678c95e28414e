"""The only module that reaches into Paddle's internals (``paddle.base`` and the compiled IR bindings).

Everything here is a thin, typed doorway. Should a future Paddle move one of these names, :func:`self_test` says which.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.base import core as _core
from paddle.base import framework as _framework
from paddle.base import unique_name as _unique_name

from paddleslim_ng.errors import GraphError

__all__ = [
    'BACKWARD_ROLE',
    'OPTIMIZE_ROLE',
    'LegacyProgram',
    'add_fetch_operators',
    'add_pir_initial_value',
    'add_pir_state',
    'clone_pir_op',
    'connect_gloo',
    'copy_operators',
    'copy_variable',
    'create_shaped_type',
    'dtype_name',
    'expect_fed',
    'feed_instead',
    'full_constant',
    'full_int_array',
    'generator_state',
    'global_scope',
    'has_pir',
    'in_pir_mode',
    'inplace_operands',
    'insertion_after',
    'insertion_before',
    'is_cpu_build',
    'is_legacy_program',
    'is_pir_program',
    'is_pir_value',
    'legacy_content',
    'legacy_dtype',
    'legacy_state',
    'new_ir_mapping',
    'new_scope',
    'operator_proto',
    'parse_legacy',
    'pir_builds',
    'pir_call',
    'pir_dtype',
    'pir_from_legacy',
    'pir_state',
    'read_pir',
    'self_test',
    'set_generator_state',
    'split_vector',
    'unique_names',
    'unknown_to_pir',
    'used_external_values',
    'write_pir',
]

BACKWARD_ROLE = 1
OPTIMIZE_ROLE = 2

_pir: Any = getattr(_core, 'pir', None)
LegacyProgram: Any = _framework.Program
_PIR_NAMES = (
    'Value',
    'Program',
    'IrMapping',
    'CloneOptions',
    'create_shaped_type',
    'get_used_external_value',
    'get_op_inplace_info',
    'set_insertion_point',
    'set_insertion_point_after',
    'reset_insertion_point_to_end',
)
_OPERATION_NAMES = (
    'str_attr',
    'int_attr',
    'set_str_attr',
    'has_attr',
    'attrs',
    'copy_attrs_from',
    'operands_source',
    'results',
)


def has_pir() -> bool:
    """Tell whether this Paddle can build PIR programs (3.0 and later)."""
    return _pir is not None and not paddle.__version__.startswith('2.')


def in_pir_mode() -> bool:
    """Tell whether ``paddle.static.Program()`` makes a PIR program at this moment."""
    return has_pir() and bool(_framework.in_pir_mode())


def is_pir_program(program: object) -> bool:
    """Tell whether ``program`` is a PIR program."""
    return _pir is not None and isinstance(program, _pir.Program)


def is_legacy_program(program: object) -> bool:
    """Tell whether ``program`` is a ProgramDesc program."""
    return isinstance(program, LegacyProgram)


def is_pir_value(value: object) -> bool:
    """Tell whether ``value`` is a PIR value."""
    return _pir is not None and isinstance(value, _pir.Value)


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


_DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16', 'fp32': 'float32', 'fp64': 'float64', 'undefined': ''}


def dtype_name(dtype: Any) -> str:
    """Spell an element type as numpy does (``'float32'``), given Paddle's object or its number in legacy programs."""
    if isinstance(dtype, int) and not isinstance(dtype, bool) and type(dtype) is int:
        if dtype < 0:
            return ''
        dtype = _core.VarDesc.VarType(dtype)
    name = str(dtype).rsplit('.', 1)[-1].lower()
    return _DTYPES.get(name, name)


_LEGACY_DTYPES = {'float16': 'FP16', 'bfloat16': 'BF16', 'float32': 'FP32', 'float64': 'FP64', '': 'RAW'}


def legacy_dtype(name: str) -> Any:
    """Return the element type of legacy programs that numpy spells ``name``, an enumeration with ``int`` values.

    Raises:
        GraphError: legacy programs have no such type.
    """
    found = getattr(_core.VarDesc.VarType, _LEGACY_DTYPES.get(name, name.upper()), None)
    if found is None:
        raise GraphError(f'legacy programs have no element type {name!r}')
    return found


_PIR_DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16', 'fp32': 'float32', 'fp64': 'float64'}


def pir_dtype(name: str) -> Any:
    """Return the element type of PIR programs that numpy spells ``name``.

    Raises:
        GraphError: PIR has no such type.
    """
    found = getattr(_core.DataType, _PIR_DTYPES.get(name, name).upper(), None)
    if found is None:
        raise GraphError(f'PIR programs have no element type {name!r}')
    return found


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


def operator_proto(type: str) -> Any:
    """Return the running Paddle's declaration of a legacy operator (an ``OpProto``), or None where it has none."""
    return _framework.OpProtoHolder.instance().op_proto_map.get(type)


def attribute_kind(number: int) -> str:
    """Return the name of a kind of legacy attribute, such as ``'INT'``, given its number in an ``OpProto``."""
    return str(_core.AttrType(number).name)


def pir_from_legacy(program: Any) -> Any:
    """Let Paddle translate a legacy inference program; its errors come through as they are."""
    return _pir.translate_to_pir(program.desc)


def unknown_to_pir(program: Any) -> list[str]:
    """Return the types of operators of a legacy program that Paddle cannot translate to PIR, each once."""
    return list(dict.fromkeys(str(name) for name in _pir.check_unregistered_ops(program.desc)))


def add_fetch_operators(program: Any, names: Iterable[str]) -> None:
    """Append operators that fetch variables of a legacy program."""
    block = program.global_block()
    holder = block.create_var(name='fetch', type=_core.VarDesc.VarType.FETCH_LIST, persistable=True)
    for index, name in enumerate(names):
        block.append_op(type='fetch', inputs={'X': [name]}, outputs={'Out': [holder]}, attrs={'col': index})


def expect_fed(variable: Any) -> None:
    """Mark a variable of a legacy program as an input."""
    variable.desc.set_need_check_feed(True)
    variable.is_data = True


def split_vector(vector: Any) -> list[Any]:
    """Insert the operator that takes a PIR vector of tensors apart, right after its maker, and return the parts.

    The vector must not have one yet: a second one ends the process.
    """
    with insertion_after(vector.get_defining_op()):
        return list(pir_call('builtin_split', vector))


_KEEPS_XSHAPE = frozenset({'reshape2', 'transpose2', 'flatten2', 'flatten_contiguous_range', 'squeeze2', 'unsqueeze2'})


def parse_legacy(content: bytes) -> Any:
    """Return the program in a ``.pdmodel``, as Paddle's own loader prepares it; Paddle's errors come through."""
    program = paddle.static.deserialize_program(content)
    promoted = getattr(_framework, 'process_type_promotion', None)
    return program if promoted is None else promoted(program)


def legacy_content(program: Any, feeds: list[Any], fetches: list[Any]) -> tuple[bytes, list[str]]:
    """Return the ``.pdmodel`` of a legacy program, for every Paddle 2 and Paddle Lite, and the names of its state.

    Attributes are written in the form that was common before Paddle 2.5. Paddle's own function leaves the ``XShape``
    outputs out, through which Paddle Lite's converter writes without looking, and writes down where on the user's disk
    each operator was made; here it is the other way round.
    """
    whole = paddle.static.normalize_program(program, feeds, fetches)
    clipped = whole._remove_training_info(clip_extra=True)
    for index in range(whole.desc.num_blocks()):
        before, after = whole.desc.block(index), clipped.desc.block(index)
        for position in range(before.op_size()):
            op = before.op(position)
            after.op(position).remove_attr('op_callstack')
            if op.type() in _KEEPS_XSHAPE and 'XShape' in op.output_names():
                after.op(position).set_output('XShape', op.output('XShape'))
    return bytes(clipped.desc.serialize_to_string(legacy_format=True)), legacy_state(whole)


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


def legacy_state(program: Any) -> list[str]:
    """Return the names of what a legacy program keeps in its parameter file."""
    tensor = _core.VarDesc.VarType.LOD_TENSOR
    return [var.name for var in program.list_vars() if var.persistable and var.type == tensor]


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
    """Build the PIR operator ``name`` at the current insertion point and return its result or results."""
    return getattr(paddle._pir_ops, name)(*arguments)


def full_int_array(values: list[int]) -> Any:
    """Insert a constant int64 vector and return its value."""
    return pir_call('full_int_array', values, _core.DataType.INT64, _core.CPUPlace())


def full_constant(shape: list[int], value: float, dtype: Any) -> Any:
    """Insert a constant tensor of the given shape on the CPU and return its value."""
    return pir_call('full', shape, value, dtype, _core.CPUPlace())


def literal_attributes(values: Any, dtype: Any) -> dict[str, Any]:
    """Return the attributes of a legacy ``assign_value`` operator that makes an array of int64."""
    flat = [int(v) for v in values.reshape(-1)]
    known = {item.name for item in _framework.OpProtoHolder.instance().get_op_proto('assign_value').attrs}
    return {'dtype': dtype, 'shape': list(values.shape), 'values' if 'values' in known else 'int64_values': flat}


def plain_number(value: Any) -> Any:
    """Return the number in one of Paddle's scalars, which some legacy operators hold in attributes; else the value."""
    return value.value() if type(value).__name__ == 'Scalar' and hasattr(value, 'value') else value


def unused_name(block: Any, stem: str) -> str:
    """Return a name for a new variable of a legacy block."""
    number = 0
    while block.has_var(f'{stem}_{number}'):
        number += 1
    return f'{stem}_{number}'


def copy_variable(block: Any, name: str, variable: Any, stop_gradient: bool) -> None:
    """Create a variable of a legacy block like one of another program."""
    kinds = _core.VarDesc.VarType
    described: dict[str, Any] = {}
    if variable.type not in (kinds.STEP_SCOPES, kinds.RAW):
        described = {'shape': variable.shape, 'dtype': variable.dtype}
        if variable.type in (kinds.LOD_TENSOR, kinds.LOD_TENSOR_ARRAY):
            described['lod_level'] = variable.lod_level
    block.create_var(
        name=name, type=variable.type, persistable=variable.persistable, stop_gradient=stop_gradient, **described
    )


def copy_operators(ops: list[Any], source: Any, block: Any, names: Mapping[str, str], prefix: str) -> None:
    """Copy operators of a legacy program to the front of a block of another one, with the blocks that they own.

    Args:
        ops: operators of one block of ``source``.
        source: their program.
        block: block of another program, which has the variables that ``ops`` read and write.
        names: ``{name in the source: name in the target}``.
        prefix: for the names of variables in the blocks that operators own.
    """
    for index, op in enumerate(ops):
        desc = block.desc._insert_op(index)
        desc.copy_from(op.desc)
        for slot in desc.input_names():
            desc.set_input(slot, [names.get(name, name) for name in desc.input(slot)])
        for slot in desc.output_names():
            desc.set_output(slot, [names.get(name, name) for name in desc.output(slot)])
        for attribute in desc.attr_names():
            if desc.attr_type(attribute) == _core.AttrType.BLOCK:
                inner = source.block(op._block_attr_id(attribute))
                desc.set_block_attr(attribute, _copied_block(inner, block, names, prefix).desc)
        block.ops.insert(index, _framework.Operator(block, desc))


def _copied_block(inner: Any, parent: Any, names: Mapping[str, str], prefix: str) -> Any:
    program = parent.program
    current = program.current_block_idx
    block = program._create_block(parent_idx=parent.idx)
    program.current_block_idx = current
    own = {name: prefix + name for name in inner.vars}
    for name, variable in inner.vars.items():
        copy_variable(block, own[name], variable, bool(variable.stop_gradient))
    copy_operators(list(inner.ops), inner.program, block, {**names, **own}, prefix)
    return block


def feed_instead(value: Any, name: str) -> Any:
    """Put an input called ``name`` in the place of a PIR value, for all its readers, and return the input's value."""
    with insertion_after(value.get_defining_op()):
        data = pir_call('data', name, list(value.shape), value.dtype, _core.Place())
        value.replace_all_uses_with(data)
    return data


def global_scope() -> Any:
    """Return the scope that Paddle's executors use by default."""
    return paddle.static.global_scope()


@contextmanager
def unique_names() -> Iterator[None]:
    """Names generated inside start from zero and do not disturb those outside."""
    with _unique_name.guard():
        yield


def new_scope() -> Any:
    """Return an empty scope."""
    return _core.Scope()


def is_cpu_build() -> bool:
    """Tell whether this Paddle was built for nothing but CPUs."""
    return not (
        paddle.is_compiled_with_cuda()
        or paddle.is_compiled_with_rocm()
        or paddle.is_compiled_with_xpu()
        or paddle.device.get_all_custom_device_type()
    )


@functools.lru_cache(maxsize=1)
def connect_gloo(rank: int, size: int) -> None:
    """Connect this process with the other ranks on ring 0, once; the addresses come from Paddle's launcher.

    Paddle must be in static mode. Python's lock is held while the others are waited for. Paddle can neither disconnect
    nor tell whether it is connected, and connecting anew disturbs the other ranks, so this is done once in a process.
    """
    if not has_pir():
        from paddle.distributed import parallel_helper

        if not parallel_helper._is_parallel_ctx_initialized():
            paddle.distributed.init_parallel_env()
        return
    store = _core.create_or_get_global_tcp_store()
    try:
        _core.CommContextManager.create_gloo_comm_context(store, '0', rank, size)
    except RuntimeError as error:
        if 'AlreadyExists' not in str(error):
            raise


def generator_state() -> list[Any]:
    """Return the state of Paddle's random generator for the CPU, as numbers and text that JSON can hold.

    Paddle 2 does not let its generator be read: it is seeded anew, with a number drawn from itself, and the seed is the
    state. What runs on and what is restored thus draw the same numbers.
    """
    generator = _core.default_cpu_generator()
    if not has_pir():
        seed = generator.random() % 2**31
        generator.manual_seed(seed)
        return [seed]
    device, seed, offset, engine = generator.get_state().__getstate__()
    return [device, seed, offset, bytes(engine).decode('ascii')]


def set_generator_state(state: list[Any]) -> None:
    """Put back what :func:`generator_state` returned.

    Raises:
        ValueError: the state comes from another version of Paddle.
    """
    generator = _core.default_cpu_generator()
    if len(state) != (4 if has_pir() else 1):
        raise ValueError(f'a state of {len(state)} parts of the random generator belongs to another Paddle')
    if not has_pir():
        generator.manual_seed(state[0])
        return
    kind = type(generator.get_state())
    fresh = kind.__new__(kind)
    fresh.__setstate__((*state[:3], list(state[3].encode('ascii'))))
    generator.set_state(fresh)


@functools.lru_cache(maxsize=1)
def self_test() -> None:
    """Check that the internals this module relies on exist; done once, when the first program is wrapped.

    Raises:
        GraphError: naming each missing one, with the Paddle version.
    """
    missing = [name for name in _PIR_NAMES if has_pir() and not hasattr(_pir, name)]
    missing += [name for name in _OPERATION_NAMES if has_pir() and not hasattr(_pir.Operation, name)]
    missing += [name for name in ('Scope', 'CPUPlace', 'VarDesc') if not hasattr(_core, name)]
    if missing:
        raise GraphError(
            f'paddle {paddle.__version__} lacks {missing} in its IR bindings; use a tested version (2.6.2 or 3.3.1)'
        )
