"""What the losses on logits share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.dist.losses_program import check_shapes, features
from paddleslim_ng.errors import GraphError

__all__ = ['count_classes', 'cross_entropy', 'find_logits', 'one_hot_like']


def find_logits(graph: GraphWrapper, teacher: Any, student: Any, ranks: Sequence[int] = ()) -> list[VarWrapper]:
    """Find the logits of teacher and student, of one shape; see :func:`~paddleslim_ng.dist.losses_program.features`.

    Raises:
        GraphError: one does not exist, or the two do not fit together.
    """
    found = features(graph, teacher, student, ranks=ranks)
    check_shapes(found[0], found[1])
    return found


def count_classes(*logits: VarWrapper) -> int:
    """Return the number of classes, of whichever logits tell it.

    Raises:
        GraphError: it is unknown, or 1.
    """
    classes = max(var.shape()[-1] for var in logits)
    if classes < 2:
        raise GraphError(
            f'this loss needs a known number of classes, at least two, on the last axis of {logits[-1].name()!r} '
            f'{list(logits[-1].shape())}'
        )
    return classes


def cross_entropy(e: Expressions, targets: VarWrapper, logits: VarWrapper) -> VarWrapper:
    """Return the cross-entropy of each row; logarithms of a softmax are finite, however far logits lie apart."""
    return e.scale(e.sum(e.multiply(targets, e.log_softmax(logits)), [-1]), -1.0)


def one_hot_like(e: Expressions, label: VarWrapper, logits: VarWrapper, classes: int) -> VarWrapper:
    """Return labels [...] or [..., 1] as rows of zeros with a one, like ``logits`` in rank and element type."""
    shape = logits.shape()
    flat = label if len(label.shape()) < len(shape) else e.reshape(label, [0] * (len(shape) - 2) + [-1])
    return e.cast(e.one_hot(e.stop(flat), classes), logits.dtype())
