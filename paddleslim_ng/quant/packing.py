"""Two integers of four bits in every byte, and the operators that take them apart again.

A byte holds ``16 * high + low + 8``, where ``high`` is from the first half of the integers and ``low`` from the second.
Float32 holds all of it exactly, so that what comes out is what went in: ``high = floor(byte / 16)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions

__all__ = ['build_unpacked', 'pack', 'packs', 'unpack']

# Integers of more bits have bytes of their own, and so have those of small weights: the operators that take them apart
# take 1 to 4 kilobytes of a program file.
_BITS: Final = 4
SMALLEST = 8192
_BASE: Final = 16
_OFFSET: Final = 8


def packs(bits: int, size: int) -> bool:
    """Tell whether so many integers of a width are packed."""
    return bits <= _BITS and size >= SMALLEST


def pack(integers: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return integers from -8 to 7 of any shape as int8 ``[ceil(size / 2)]``."""
    flat = integers.reshape(-1).astype(np.int16)
    half = -(-flat.size // 2)
    low = np.zeros(half, np.int16)
    low[: flat.size - half] = flat[half:]
    return (flat[:half] * _BASE + low + _OFFSET).astype(np.int8)


def unpack(packed: npt.NDArray[np.int8], shape: Sequence[int]) -> npt.NDArray[np.int8]:
    """Return the integers that :func:`pack` was given."""
    values = packed.astype(np.int16)
    high = values // _BASE
    both = np.concatenate([high, values - high * _BASE - _OFFSET]).astype(np.int8)
    found: npt.NDArray[np.int8] = both[: int(np.prod(shape))].reshape(shape)
    return found


def build_unpacked(e: Expressions, packed: VarWrapper, shape: Sequence[int]) -> VarWrapper:
    """Build the operators that take packed integers apart; the result is float32 in ``shape``."""
    values = e.cast(packed, 'float32')
    high = e.floor(e.scale(values, 1 / _BASE))
    both = e.concat([high, e.subtract(values, e.scale(high, _BASE, _OFFSET))])
    size = int(np.prod(shape))
    if size % 2:
        both = e.slice(both, 0, 0, size)
    return e.reshape(both, shape)
