"""PaddleSlim's old sensitivity files, which are pickles, read without running anything in them.

The unpickler knows dictionaries, strings, numbers, and numpy scalars; for the latter it uses stand-ins written here, so
not even numpy's own unpickling code sees the file. Whatever else a pickle asks for is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from paddleslim_ng.errors import CheckpointError

__all__ = ['is_pickle', 'read_sensitivity_pickle']

_NUMERIC = frozenset({'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8'})


class _Dtype:
    """Stands in for ``numpy.dtype``: remembers the type code and byte order."""

    def __init__(self, code: object = '', *_flags: object) -> None:
        text = code if isinstance(code, str) else ''
        self.order, self.code = (text[0], text[1:]) if text[:1] in ('<', '>', '=', '|') else ('=', text)
        if self.code not in _NUMERIC:
            raise CheckpointError(f'the pickle holds a numpy value of type {code!r}; only plain numbers are read')

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else '='
        self.order = order if order in ('<', '>', '=') else '='


def _scalar(dtype: object, data: object) -> float:
    if not isinstance(dtype, _Dtype):
        raise CheckpointError('the pickle holds a numpy scalar without a type')
    raw = data.encode('latin1') if isinstance(data, str) else data
    kind = np.dtype(dtype.order + dtype.code)
    if not isinstance(raw, bytes) or len(raw) != kind.itemsize:
        raise CheckpointError('the pickle holds a damaged numpy scalar')
    return float(np.frombuffer(raw, kind)[0])


def _encode(text: object, encoding: object = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding != 'latin1':
        raise CheckpointError('the pickle holds bytes in an unexpected encoding')
    return text.encode('latin1')


class _Function:
    """A function that a pickle may call and nothing else: its instructions to set attributes find no foothold."""

    __slots__ = ('_function',)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise CheckpointError('the pickle tries to change a function')


_ADMITTED: Mapping[tuple[str, str], Callable[..., object]] = MappingProxyType(
    {
        ('numpy', 'dtype'): _Dtype,
        ('numpy.core.multiarray', 'scalar'): _scalar,
        ('numpy._core.multiarray', 'scalar'): _scalar,
        # Python 3 writes bytes this way in the older pickle protocols.
        ('_codecs', 'encode'): _encode,
    }
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ADMITTED.get((module, name))
        if found is None:
            raise CheckpointError(
                f'the pickle asks for {module}.{name}, which a sensitivity file has no use for; it was not loaded. '
                'Do not trust where it came from'
            )
        return _Function(found)


def is_pickle(data: bytes) -> bool:
    """Tell whether ``data`` starts as a pickled dictionary does, in any protocol."""
    return data[:1] == b'\x80' or data[:2] in (b'(d', b'}q')


def read_sensitivity_pickle(data: bytes, path: str) -> dict[str, dict[float, float]]:
    """Decode a pickled ``{parameter: {ratio: loss}}``.

    Args:
        data: the file's content, written by PaddleSlim under Python 2 or 3.
        path: its name, for messages.

    Raises:
        CheckpointError: it holds anything but dictionaries, strings and numbers, or is damaged.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding='latin1').load()
        return _checked(content)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ArithmeticError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        raise CheckpointError(f'{path} is neither a sensitivity file nor a readable pickle of one: {error}') from error


def _checked(content: object) -> dict[str, dict[float, float]]:
    if not isinstance(content, dict):
        raise CheckpointError(f'expected {{parameter: {{ratio: loss}}}}, found {type(content).__name__}')
    checked: dict[str, dict[float, float]] = {}
    for parameter, curve in content.items():
        if not isinstance(parameter, str) or not isinstance(curve, dict):
            raise CheckpointError(f'expected {{parameter: {{ratio: loss}}}}, found an entry {parameter!r}')
        checked[parameter] = {float(ratio): float(loss) for ratio, loss in curve.items()}
    return checked
