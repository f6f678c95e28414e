"""Parameters and optimizer accumulators as numpy arrays: reading and writing a Paddle scope."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.errors import GraphError, nearest_names

__all__ = ['has_array', 'load_array', 'shape_of', 'store_array']


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
    return np.array(_existing(scope, name))


def store_array(scope: Any, name: str, array: npt.NDArray[Any], place: Any = None) -> None:
    """Write ``array`` into the tensor called ``name``; its shape may differ from the present one.

    Args:
        scope: a Paddle scope.
        name: tensor name; created where the scope lacks it.
        array: new content.
        place: device; the tensor's present place where None, else the CPU.
    """
    variable = scope.find_var(name)  # in a parent scope, too: a new one of that name would only hide it
    tensor = (scope.var(name) if variable is None else variable).get_tensor()
    tensor.set(np.asarray(array, order='C'), place if place is not None else _place_of(tensor))


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
