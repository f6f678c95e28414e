"""Which Paddle this is, which kind of program something is, and whether the bindings we rely on exist."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.base import core as _core
from paddle.base import framework as _framework

from paddleslim_ng.errors import GraphError

__all__ = [
    'BACKWARD_ROLE',
    'OPTIMIZE_ROLE',
    'LegacyProgram',
    'has_pir',
    'in_pir_mode',
    'is_cpu_build',
    'is_legacy_program',
    'is_pir_program',
    'is_pir_value',
    'operators_in_order',
    'self_test',
]

_pir: Any = getattr(_core, 'pir', None)
BACKWARD_ROLE = 1
OPTIMIZE_ROLE = 2
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


# One thread, program order, and what does both on PIR.
_IN_ORDER = (
    'FLAGS_new_executor_serial_run',
    'FLAGS_new_executor_sequential_run',
    'FLAGS_enable_pir_in_executor_trace_run',
)


@contextmanager
def operators_in_order() -> Iterator[None]:
    """Let executors that first run inside run the operators of a program one after the other, in program order.

    Paddle's interpreters else start whatever has its inputs, and what nobody waits for may come last: it keeps its
    inputs alive until then. The flags are Paddle's, of the process; they are as before afterwards.
    """
    before = paddle.get_flags(list(_IN_ORDER))
    paddle.set_flags(dict.fromkeys(_IN_ORDER, True))
    try:
        yield
    finally:
        paddle.set_flags(before)


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


def is_cpu_build() -> bool:
    """Tell whether this Paddle was built for nothing but CPUs."""
    return not (
        paddle.is_compiled_with_cuda()
        or paddle.is_compiled_with_rocm()
        or paddle.is_compiled_with_xpu()
        or paddle.device.get_all_custom_device_type()
    )


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
