"""Element types, as numpy, legacy programs and PIR programs spell them."""

from __future__ import annotations

from typing import Any

from paddle.base import core as _core

from paddleslim_ng.errors import GraphError

__all__ = [
    'dtype_name',
    'legacy_dtype',
    'pir_dtype',
]

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
