"""Parameters and optimizer accumulators as numpy arrays: reading and writing a Paddle scope."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core.paddle_compat import dtype_name
from paddleslim_ng.errors import GraphError, nearest_names

__all__ = ['has_array', 'load_array', 'shape_of', 'share_tensor', 'store_array', 'view_array']

# Element types that numpy reads from DLPack exactly as Paddle means them, on every tested version.
_SHARED = frozenset({'float16', 'float32', 'float64', 'int8', 'int32', 'int64', 'uint8'})
_DLPACK_CPU = (1, 0)


def _tensor(scope: Any, name: str) -> Any:
    variable = scope.find_var(name)
    if variable is None:
        return None
    tensor = variable.get_tensor()
    return tensor if tensor._is_initialized() else None


def has_array(scope: Any, name: str) -> bool:
    """Tell whether ``scope`` holds an initialized tensor called ``name``."""
    return _tensor(scope, name) is not None


def shape_of(scope: Any, name: str) -> tuple[int, ...]:
    """Return the shape of the tensor called ``name`` without copying it.

    Raises:
        GraphError: the scope has no such initialized tensor.
    """
    return tuple(int(n) for n in _existing(scope, name).shape())


def load_array(scope: Any, name: str) -> npt.NDArray[Any]:
    """Copy the tensor called ``name`` out of ``scope``.

    Raises:
        GraphError: the scope has no such initialized tensor.
    """
    return np.array(_view(_existing(scope, name)))


def view_array(scope: Any, name: str) -> npt.NDArray[Any]:
    """Return the content of the tensor called ``name``, read-only and without copying it where numpy can share it.

    Sharing works on the CPU, for the element types that numpy and DLPack both have; else this is a copy. A shared view
    follows what is written into the tensor's memory; ``store_array(..., fresh=True)`` writes elsewhere and leaves the
    view as it is.

    Raises:
        GraphError: the scope has no such initialized tensor.
    """
    array = _view(_existing(scope, name))
    array.flags.writeable = False
    return array


def store_array(scope: Any, name: str, array: npt.NDArray[Any], place: Any = None, *, fresh: bool = False) -> None:
    """Write ``array`` into the tensor called ``name``; its shape may differ from the present one.

    Args:
        scope: a Paddle scope.
        name: tensor name; created where the scope lacks it.
        array: new content.
        place: device; the tensor's present place where None, else the CPU.
        fresh: put the content into new memory, so that views taken with :func:`view_array` keep the old one.
    """
    variable = scope.find_var(name)  # in a parent scope, too: a new one of that name would only hide it
    tensor = (scope.var(name) if variable is None else variable).get_tensor()
    where = place if place is not None else _place_of(tensor)
    content = np.asarray(array, order='C')
    if fresh:
        tensor._clear()
    tensor.set(content, where)


def share_tensor(scope: Any, old: str, new: str, place: Any = None, target: Any = None) -> bool:
    """Let ``new`` name the memory of the tensor called ``old`` as well, where it is on ``place`` already.

    Args:
        scope: a Paddle scope.
        old: name of an initialized tensor.
        new: another name; its content is lost.
        place: device; None is where the tensor is.
        target: scope of the new name; ``scope`` where None.

    Returns:
        Whether it was done.
    """
    tensor = _existing(scope, old)
    where = tensor._place()
    if place is not None and not (where.is_cpu_place() and isinstance(place, paddle.CPUPlace)):
        return False
    (scope if target is None else target).var(new).get_tensor()._share_data_with(tensor)
    return True


class _Shared:
    """Offers a tensor's memory to numpy, which then keeps it alive (the DLPack protocol)."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: object) -> Any:
        return self._tensor._to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU


def _view(tensor: Any) -> npt.NDArray[Any]:
    """Share a tensor's memory where that is possible, else copy it."""
    if _can_share(tensor._dtype()) and tensor._place().is_cpu_place():
        return np.from_dlpack(_Shared(tensor))
    return np.asarray(tensor)


@functools.lru_cache(maxsize=32)
def _can_share(dtype: Any) -> bool:
    return hasattr(np, 'from_dlpack') and dtype_name(dtype) in _SHARED


def _place_of(tensor: Any) -> Any:
    if tensor._is_initialized():
        place = tensor._place()
        if place.is_gpu_place():
            return paddle.CUDAPlace(place.gpu_device_id())
    return paddle.CPUPlace()


def _existing(scope: Any, name: str) -> Any:
    tensor = _tensor(scope, name)
    if tensor is None:
        raise GraphError(
            f'the scope has no initialized tensor {name!r}{nearest_names(name, _names_in(scope))}; '
            'run the startup program or load the parameters into this scope first'
        )
    return tensor


def _names_in(scope: Any) -> list[str]:
    """List the variables of a scope; Paddle 2 cannot."""
    return list(scope.local_var_names()) if hasattr(scope, 'local_var_names') else []
