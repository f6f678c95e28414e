"""The state of a pruner as arrays, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.errors import CheckpointError
from paddleslim_ng.sparse.masks import read_mask, write_mask

if TYPE_CHECKING:
    from paddleslim_ng.sparse.unstructured_pruner import UnstructuredPruner

__all__ = ['BACKUP', 'load_state', 'pack_state']

Arrays = Mapping[str, npt.NDArray[Any]]
_FORMAT = 1
_MASK, _SHAPE, _THRESHOLD = 'mask/', 'shape/', 'threshold/'
BACKUP = 'backup/'
"""Prefix of the values of weights that have left, in a state."""
_NUMBERS = ('format', 'iteration', 'ratio', 'target_ratio', 'threshold', 'applied')


def pack_state(pruner: UnstructuredPruner) -> dict[str, npt.NDArray[Any]]:
    """Return a pruner's state: numbers, masks as bits, thresholds, and the values of what has left."""
    applied = np.nan if pruner._applied is None else pruner._applied
    state: dict[str, npt.NDArray[Any]] = {
        'format': np.array(_FORMAT),
        'iteration': np.array(pruner.iteration),
        'ratio': np.array(pruner.ratio),
        'target_ratio': np.array(pruner.target_ratio),
        'threshold': np.array(pruner.threshold),
        'applied': np.array(applied),
    }
    for name in pruner.masks:
        mask = read_mask(pruner.scope, name)
        state[_MASK + name] = np.packbits(mask)
        state[_SHAPE + name] = np.array(mask.shape, np.int64)
    for name, value in pruner.thresholds.items():
        state[_THRESHOLD + name] = np.array(value)
    if pruner._backup is not None:
        state.update({BACKUP + name: values for name, values in pruner._backup.arrays().items()})
    return state


def load_state(pruner: UnstructuredPruner, state: Arrays) -> None:
    """Put a state into a pruner of the same parameters.

    Raises:
        CheckpointError: it is incomplete, of another version, or of other parameters.
    """
    masks = _checked_masks(pruner, state)
    backup = _under(state, BACKUP)
    if backup and pruner._backup is None:
        raise CheckpointError('the state holds values that may come back: make the pruner with regrowth=True')
    for name in pruner.masks:
        if backup and (name not in backup or backup[name].shape != masks[name].shape):
            raise CheckpointError(f'the state holds no values of {name!r} that may come back, or of another shape')
    for name, mask in masks.items():
        write_mask(pruner.scope, name, mask, pruner.place)
    if pruner._backup is not None:
        pruner._backup.load(backup)
    pruner.iteration = int(state['iteration'])
    pruner.ratio = float(state['ratio'])
    pruner.target_ratio = float(state['target_ratio'])
    pruner.threshold = float(state['threshold'])
    pruner.thresholds = {name: float(value) for name, value in _under(state, _THRESHOLD).items()}
    applied = float(state['applied'])
    pruner._applied = None if np.isnan(applied) else applied
    pruner.update_params()


def _checked_masks(pruner: UnstructuredPruner, state: Arrays) -> dict[str, npt.NDArray[np.uint8]]:
    missing = [key for key in _NUMBERS if key not in state]
    if missing:
        raise CheckpointError(f'this is no state of a pruner: it lacks {missing}')
    if int(state['format']) != _FORMAT:
        raise CheckpointError(f'the state has format {int(state["format"])}, and this version reads {_FORMAT}')
    packed, shapes = _under(state, _MASK), _under(state, _SHAPE)
    if set(packed) != set(pruner.masks) or set(shapes) != set(packed):
        odd = sorted(set(packed) ^ set(pruner.masks))
        raise CheckpointError(f'the state belongs to other parameters: only one side has {odd[:5]}')
    masks = {}
    for name, bits in packed.items():
        shape = tuple(int(n) for n in shapes[name])
        count = int(np.prod(shape, dtype=np.int64))
        if shape != pruner._shapes[name] or bits.dtype != np.uint8 or bits.size != -(-count // 8):
            raise CheckpointError(f'the mask of {name!r} has the shape {shape}, the parameter {pruner._shapes[name]}')
        masks[name] = np.unpackbits(bits, count=count).reshape(shape)
    return masks


def _under(state: Arrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {key[len(prefix) :]: np.asarray(value) for key, value in state.items() if key.startswith(prefix)}
