"""Norms, unit vectors and the like in distillation losses, safe where a vector is zero."""

from __future__ import annotations

from collections.abc import Sequence

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import VarWrapper

__all__ = ['TINY', 'flatten', 'guarded_root', 'huber', 'pearson', 'unit']

# The square of what counts as rounding, relative to what it came from; and the least square norm that is no zero.
ROUNDING = 1e-12
TINY = 1e-30


def flatten(e: Expressions, x: VarWrapper) -> VarWrapper:
    """Return ``x`` as a matrix with a row for each sample."""
    return x if len(x.shape()) == 2 else e.reshape(x, [0, -1])


def guarded_root(e: Expressions, squares: VarWrapper, floor: VarWrapper | None = None) -> tuple[VarWrapper, VarWrapper]:
    """Return the roots of squares, 1 instead of zero, and a 1 where that was done, else 0.

    The gradient of the root at zero would be infinite; this one's is finite.

    Args:
        e: where to build.
        squares: numbers that are not negative.
        floor: what counts as zero, a tensor that broadcasts to ``squares``; a tiny constant where None.
    """
    limit = e.scale(e.stop(squares), 0.0, TINY) if floor is None else e.scale(e.stop(floor), ROUNDING, TINY)
    zero = e.at_most(e.stop(squares), limit)
    return e.sqrt(e.add(squares, zero)), zero


def unit(e: Expressions, x: VarWrapper, axes: Sequence[int], floor: VarWrapper | None = None) -> VarWrapper:
    """Return ``x`` divided by its Euclidean norm over some axes; vectors of zeros stay zeros.

    Args:
        e: where to build.
        x: vectors.
        axes: axes that a vector extends over.
        floor: square norms of what ``x`` is a difference of; see :func:`guarded_root`.
    """
    return e.divide(x, guarded_root(e, e.sum(e.square(x), axes, keep=True), floor)[0])


def pearson(e: Expressions, x: VarWrapper, y: VarWrapper, axis: int) -> VarWrapper:
    """Return Pearson's correlation along an axis; 0 where one of the two is constant."""
    units = []
    for values in (x, y):
        centred = e.subtract(values, e.mean(values, [axis], keep=True))
        units.append(unit(e, centred, [axis], e.sum(e.square(values), [axis], keep=True)))
    return e.sum(e.multiply(*units), [axis])


def huber(e: Expressions, x: VarWrapper) -> VarWrapper:
    """Return Huber's function: ``x ** 2 / 2`` up to 1, and ``|x| - 1 / 2`` beyond."""
    held = e.clip(x, -1.0, 1.0)
    return e.multiply(held, e.subtract(x, e.scale(held, 0.5)))
