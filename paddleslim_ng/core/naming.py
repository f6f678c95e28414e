"""Stable names for PIR values.

PIR values have no names of their own. Each operator gets one, in the manner of legacy programs (``conv2d_3``), kept in
a string attribute; it survives ``clone`` and ``minimize`` and is dropped on saving. Result ``i`` is then called
``conv2d_3.tmp_i``. Names are given once: later insertions shift nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.op_table import canonical_type
from paddleslim_ng.errors import GraphError

__all__ = [
    'adopt_names',
    'copy_name',
    'current_name',
    'ensure_names',
    'is_superseded',
    'prefix_names',
    'set_name',
    'set_value_name',
    'supersede',
    'value_name',
]

_PREFIX = 'slim_name'
_EXPLICIT = 'slim_output_name_'
_SUPERSEDED = 'slim_superseded_'
_UNNAMED = frozenset({'builtin.parameter', 'pd_op.data', 'builtin.combine', 'builtin.split', 'builtin.shadow_output'})
# Results of batch norm in the order in which the legacy layer creates its variables.
_LEGACY_ORDER = dict.fromkeys(('pd_op.batch_norm_', 'pd_op.batch_norm', 'pd_op.sync_batch_norm_'), (2, 4, 5, 0, 1, 3))


def ensure_names(program: Any) -> None:
    """Give every operator of the main block that lacks one a name, counting on from the names that exist."""
    ops = [op for op in program.global_block().ops if op.name() not in _UNNAMED]
    unnamed = [op for op in ops if not op.has_attr(_PREFIX)]
    if not unnamed:
        return
    counters: dict[str, int] = {}
    if len(unnamed) < len(ops):
        for op in ops:
            if op.has_attr(_PREFIX):
                kind, _, number = op.str_attr(_PREFIX).rpartition('_')
                counters[kind] = max(counters.get(kind, 0), int(number) + 1)
    kinds: dict[str, str] = {}
    for op in unnamed:
        raw_kind = op.name()
        kind = kinds.get(raw_kind)
        if kind is None:
            kind = kinds[raw_kind] = canonical_type(raw_kind)
        number = counters.get(kind, 0)
        counters[kind] = number + 1
        op.set_str_attr(_PREFIX, f'{kind}_{number}')


def value_name(value: Any) -> str:
    """Return the name of a PIR value: its own (data, parameters), the explicit one, or operator name and index."""
    op = value.get_defining_op()
    if op is None:
        return f'block_argument_{value.id}'
    kind = op.name()
    if kind == 'builtin.parameter':
        return str(op.str_attr('parameter_name'))
    if kind == 'pd_op.data':
        return str(op.str_attr('name'))
    index = _index_in(op, value)
    explicit = f'{_EXPLICIT}{index}'
    if op.has_attr(explicit):
        return str(op.str_attr(explicit))
    if kind == 'builtin.split':
        vector = op.operand_source(0)
        maker = vector.get_defining_op()
        if maker.num_results() == 1:
            return f'{_op_name(maker)}.tmp_{index}'
        # The parts must not take the names of the other results.
        return f'{_op_name(maker)}.tmp_{_index_in(maker, vector)}.{index}'
    order = _LEGACY_ORDER.get(kind)
    return f'{_op_name(op)}.tmp_{order[index] if order else index}'


def current_name(value: Any) -> str:
    """Return the name under which what ``value`` stood for is found now; see :func:`supersede`."""
    op = value.get_defining_op()
    if op is not None:
        key = f'{_SUPERSEDED}{_index_in(op, value)}'
        if op.has_attr(key):
            return str(op.str_attr(key))
    return value_name(value)


def is_superseded(value: Any) -> bool:
    """Tell whether another value has taken over the name of this one; see :func:`supersede`."""
    op = value.get_defining_op()
    return op is not None and bool(op.has_attr(f'{_SUPERSEDED}{_index_in(op, value)}'))


def _op_name(op: Any) -> str:
    if not op.has_attr(_PREFIX):
        ensure_names(op.get_parent_block().program)
    return str(op.str_attr(_PREFIX)) if op.has_attr(_PREFIX) else f'{op.name()}_{op.id()}'


def _index_in(op: Any, value: Any) -> int:
    if op.num_results() == 1:
        return 0
    return next(index for index, result in enumerate(op.results()) if result.is_same(value))


def adopt_names(program: Any, names: Sequence[tuple[Any, str]]) -> None:
    """Name results of a program that has no names yet, as a translation does; names given later clash with none.

    Args:
        program: a PIR program.
        names: pairs of a result and its name; the last name of a result counts.
    """
    counters: dict[str, int] = {}
    for _, name in names:
        kind, _, rest = name.partition('.')[0].rpartition('_')
        if rest.isdigit():
            counters[kind] = max(counters.get(kind, 0), int(rest) + 1)
    for op in program.global_block().ops:
        if op.name() not in _UNNAMED and not op.has_attr(_PREFIX):
            kind = canonical_type(op.name())
            number = counters.get(kind, 0)
            counters[kind] = number + 1
            op.set_str_attr(_PREFIX, f'{kind}_{number}')
    for value, name in names:
        op = value.get_defining_op()
        if op.name() not in ('builtin.parameter', 'pd_op.data'):
            op.set_str_attr(f'{_EXPLICIT}{_index_in(op, value)}', name)


def set_value_name(value: Any, name: str) -> None:
    """Give a PIR value an explicit name.

    Raises:
        GraphError: the value is a parameter, data or block argument, whose name is fixed, or the name is taken.
    """
    op = value.get_defining_op()
    if op is None or op.name() in ('builtin.parameter', 'pd_op.data'):
        raise GraphError(f'cannot rename {value_name(value)!r}: only results of operators can be renamed')
    if value_name(value) == name:
        return
    if _is_taken(op.get_parent_block().program, name):
        raise GraphError(f'the program already has a variable {name!r}')
    op.set_str_attr(f'{_EXPLICIT}{_index_in(op, value)}', name)


def _is_taken(program: Any, name: str) -> bool:
    """Look for ``name`` among explicit names, parameters, data, and results of the operator that it would belong to."""
    owner, dot, _ = name.rpartition('.tmp_')
    for op in program.global_block().ops:
        kind = op.name()
        if kind == 'builtin.parameter':
            taken = op.str_attr('parameter_name') == name
        elif kind == 'pd_op.data':
            taken = op.str_attr('name') == name
        else:
            taken = any(
                op.has_attr(f'{_EXPLICIT}{i}') and op.str_attr(f'{_EXPLICIT}{i}') == name
                for i in range(op.num_results())
            )
            if not taken and dot and op.has_attr(_PREFIX) and op.str_attr(_PREFIX) == owner:
                taken = any(value_name(value) == name for value in op.results() if value.initialized())
        if taken:
            return True
    return False


def supersede(old: Any, new: Any, suffix: str = 'unscaled') -> None:
    """Let ``new`` take over the name of ``old``; ``old`` becomes ``<name>.<suffix>``."""
    name = value_name(old)
    op = old.get_defining_op()
    index = _index_in(op, old)
    op.set_str_attr(f'{_EXPLICIT}{index}', f'{name}.{suffix}')
    op.set_str_attr(f'{_SUPERSEDED}{index}', name)
    target = new.get_defining_op()
    _op_name(target)
    target.set_str_attr(f'{_EXPLICIT}{_index_in(target, new)}', name)


def prefix_names(op: Any, prefix: str) -> None:
    """Put a prefix before the name of a PIR operator and before the names of its results."""
    keys = [_PREFIX]
    for index in range(op.num_results()):
        keys += [f'{_EXPLICIT}{index}', f'{_SUPERSEDED}{index}']
    for key in keys:
        if op.has_attr(key):
            op.set_str_attr(key, prefix + op.str_attr(key))


def copy_name(old: Any, new: Any) -> None:
    """Let ``new`` take over the operator name of ``old``, of which it is the replacement."""
    source = _named_op(old)
    target = _named_op(new)
    if source.has_attr(_PREFIX):
        target.set_str_attr(_PREFIX, source.str_attr(_PREFIX))


def _named_op(value: Any) -> Any:
    op = value.get_defining_op()
    return op.operand_source(0).get_defining_op() if op.name() == 'builtin.split' else op


def set_name(value: Any, name: str) -> Any:
    """Give an intermediate variable or value a stable name on either IR and return it.

    Args:
        value: a PIR value or a legacy Variable.
        name: the new name, unique in its program.

    Raises:
        GraphError: the name cannot be changed or is taken.
    """
    if paddle_compat.is_pir_value(value):
        set_value_name(value, name)
        return value
    block = value.block
    if value.name == name:
        return value
    if block.has_var(name):
        raise GraphError(f'the program already has a variable {name!r}')
    if value.persistable or getattr(value, 'is_data', False):
        raise GraphError(f'cannot rename {value.name!r}: only results of operators can be renamed')
    block._rename_var(value.name, name)
    return block.var(name)
