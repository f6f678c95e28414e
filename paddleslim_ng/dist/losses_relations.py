"""Losses on how the samples of a batch lie to each other; teacher and student may have features of any size."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.dist.losses_program import building, features, prepare, wrap
from paddleslim_ng.dist.losses_vectors import TINY, flatten, guarded_root, huber, unit
from paddleslim_ng.errors import GraphError

__all__ = ['rkd_angle', 'rkd_distance', 'similarity']


def rkd_distance(teacher: Any, student: Any, program: Any = None) -> Any:
    """Build the relational loss on distances between the samples of a batch.

    Euclidean distances of all pairs, divided by the mean of those that are not zero, compared by Huber's function; the
    mean over N x N (Park et al. 2019, "Relational knowledge distillation"). Takes N * N * D numbers of memory: give it
    pooled features. A batch of one, or of equal samples, gives 0.

    Args:
        teacher: the teacher's features [N, ...], a name, Variable or Value.
        student: the student's features [N, ...], of any size.
        program: merged program of either IR; the default main program where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
    """
    graph = wrap(program)
    teacher, student = _samples(graph, teacher, student)
    with building(graph, 'rkd_distance') as e:
        t, s = (_distances(e, x) for x in prepare(e, [teacher], [student]))
        loss = e.mean(huber(e, e.subtract(s, t)))
    return loss.raw


def rkd_angle(teacher: Any, student: Any, program: Any = None) -> Any:
    """Build the relational loss on the angles of the triangles that three samples of a batch form.

    Cosines of all N x N x N angles, compared by Huber's function; the mean (Park et al. 2019, "Relational knowledge
    distillation"). Where two corners coincide, the cosine counts as 0.

    Args:
        teacher: the teacher's features [N, ...], a name, Variable or Value.
        student: the student's features [N, ...], of any size.
        program: merged program of either IR; the default main program where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
    """
    graph = wrap(program)
    teacher, student = _samples(graph, teacher, student)
    with building(graph, 'rkd_angle') as e:
        t, s = (_angles(e, x) for x in prepare(e, [teacher], [student]))
        loss = e.mean(huber(e, e.subtract(s, t)))
    return loss.raw


def similarity(teacher: Any, student: Any, program: Any = None) -> Any:
    """Build the similarity-preserving loss: samples that are alike for the teacher are so for the student.

    The mean square difference of the N x N matrices ``F . F^T``, each row of Euclidean norm 1 (Tung and Mori 2019,
    "Similarity-preserving knowledge distillation").

    Args:
        teacher: the teacher's features [N, ...], a name, Variable or Value.
        student: the student's features [N, ...], of any size.
        program: merged program of either IR; the default main program where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
    """
    graph = wrap(program)
    teacher, student = _samples(graph, teacher, student)
    with building(graph, 'similarity') as e:
        matrices = []
        for x in prepare(e, [teacher], [student]):
            rows = flatten(e, x)
            matrices.append(unit(e, e.matmul(rows, rows, transpose_y=True), [1]))
        loss = e.mean(e.square(e.subtract(matrices[1], matrices[0])))
    return loss.raw


def _samples(graph: GraphWrapper, teacher: Any, student: Any) -> list[VarWrapper]:
    found = features(graph, teacher, student)
    first, second = (var.shape()[0] for var in found)
    if first > 0 and second > 0 and first != second:
        raise GraphError(
            f'{found[0].name()!r} {list(found[0].shape())} and {found[1].name()!r} {list(found[1].shape())} '
            'hold different numbers of samples'
        )
    return found


def _differences(e: Expressions, x: VarWrapper) -> tuple[VarWrapper, VarWrapper]:
    """Return the differences of all pairs [N, N, D], and the mean square norm of the samples [1, 1]."""
    rows = flatten(e, x)
    size = e.mean(e.sum(e.square(rows), [1], keep=True), [0], keep=True)
    return e.subtract(e.unsqueeze(rows, 0), e.unsqueeze(rows, 1)), size


def _distances(e: Expressions, x: VarWrapper) -> VarWrapper:
    differences, size = _differences(e, x)
    roots, zero = guarded_root(e, e.sum(e.square(differences), [2]), size)
    distances = e.subtract(roots, zero)
    apart = e.sum(e.scale(zero, -1.0, 1.0), [0, 1], keep=True)
    mean = e.divide(e.sum(distances, [0, 1], keep=True), e.clip(apart, 1.0, 1e30))
    none = e.at_most(e.stop(mean), e.scale(e.stop(mean), 0.0, TINY))
    return e.divide(distances, e.add(mean, none))


def _angles(e: Expressions, x: VarWrapper) -> VarWrapper:
    differences, size = _differences(e, x)
    directions = unit(e, differences, [2], e.unsqueeze(size, 2))
    return e.matmul(directions, directions, transpose_y=True)
