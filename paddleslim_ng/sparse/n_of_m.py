"""N:M sparsity: at most N weights that are not zero in every M consecutive ones along the input channels."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, VarWrapper
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse.scores import Mask, as_floats

__all__ = ['Pattern', 'input_axis', 'keep_n_of_m']

# Slot of the weight and its axis of input channels, by the operator that reads it.
_AXES: dict[str, tuple[str, int]] = {
    'conv2d': ('Filter', 1),
    'depthwise_conv2d': ('Filter', 1),
    'conv3d': ('Filter', 1),
    'conv2d_transpose': ('Filter', 0),
    'depthwise_conv2d_transpose': ('Filter', 0),
    'conv3d_transpose': ('Filter', 0),
    'mul': ('Y', 0),
    'matmul': ('Y', -2),
    'matmul_v2': ('Y', -2),
    'fc': ('W', 0),
}


class Pattern(NamedTuple):
    """A pattern such as 2:4.

    Attributes:
        kept: weights that stay, at most.
        of: consecutive weights that are looked at together.
    """

    kept: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``'2:4'``.

        Raises:
            ConfigError: no pattern, or one that keeps none or all.
        """
        found = re.fullmatch(r'(\d+):(\d+)', text)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ConfigError(f'a pattern is N:M with 0 < N < M, such as 2:4 or 1:4, not {text!r}')
        return cls(int(found[1]), int(found[2]))


def input_axis(graph: GraphWrapper, parameter: VarWrapper) -> int | None:
    """Return the axis of a weight along which its operator sums, or None where N:M does not apply to it."""
    for op in parameter.outputs():
        slot, axis = _AXES.get(op.type(), ('', 0))
        if slot and parameter in op.inputs(slot):
            if op.type().startswith('matmul') and (op.attr('trans_y') or op.attr('transpose_Y')):
                axis = -1
            return axis % len(parameter.shape())
    return None


def keep_n_of_m(weights: npt.NDArray[Any], mask: Mask | None, pattern: Pattern, axis: int) -> npt.NDArray[np.bool_]:
    """Tell which weights stay: the N largest in every M along ``axis``, the first ones among equals.

    A last group that is shorter than M keeps N as well.

    Args:
        weights: any shape.
        mask: what has left already and stays away, or None.
        pattern: N and M.
        axis: axis of the input channels.

    Returns:
        True where a weight stays, in the shape of ``weights``.
    """
    scores = np.moveaxis(np.abs(as_floats(weights)), axis, -1)
    if mask is not None:
        scores = np.where(np.moveaxis(mask, axis, -1) == 0, scores.dtype.type(-1), scores)
    length = scores.shape[-1]
    lacking = -length % pattern.of
    padded = np.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, lacking)], constant_values=-2)
    groups = padded.reshape(-1, pattern.of)
    # How many precede each: larger ones, and equal ones that stand before it.
    rank = np.zeros(groups.shape, np.uint8 if pattern.of < 256 else np.int64)
    for position in range(pattern.of):
        other = groups[:, position : position + 1]
        rank[:, :position] += other > groups[:, :position]
        rank[:, position + 1 :] += other >= groups[:, position + 1 :]
    keep = (rank < pattern.kept).reshape(padded.shape)[..., :length]
    return np.moveaxis(keep, -1, axis)
