"""Losses on feature maps: what the layers of teacher and student compute, compared sample by sample."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.dist.losses_program import building, check_axis, check_number, check_shapes, features, prepare, wrap
from paddleslim_ng.dist.losses_resize import check_windows, resize
from paddleslim_ng.dist.losses_vectors import flatten, unit

__all__ = ['attention_transfer', 'cosine', 'fsp', 'l2']


def l2(teacher_var_name: Any, student_var_name: Any, program: Any = None) -> Any:
    """Build the mean square difference of two tensors.

    Args:
        teacher_var_name: the teacher's tensor of two axes or more, a name, Variable or Value.
        student_var_name: the student's, of the same shape; see :func:`regression` for other shapes.
        program: merged program of either IR; the default main program where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
    """
    graph = wrap(program)
    teacher, student = features(graph, teacher_var_name, student_var_name)
    check_shapes(teacher, student, advice='; slim.dist.regression compares maps of other shapes through an adapter')
    with building(graph, 'l2') as e:
        t, s = prepare(e, [teacher], [student])
        loss = e.mean(e.square(e.subtract(s, t)))
    return loss.raw


def fsp(
    teacher_var1_name: Any,
    teacher_var2_name: Any,
    student_var1_name: Any,
    student_var2_name: Any,
    program: Any = None,
) -> Any:
    """Build the loss on the flow of the solution procedure: the mean square difference of two Gram matrices.

    The matrix of two maps of one network is ``F1 . F2^T / (H * W)`` over their places, C1 x C2 for each sample (Yim et
    al. 2017, "A gift from knowledge distillation").

    Args:
        teacher_var1_name: a map of the teacher [N, C1, H, W], a name, Variable or Value.
        teacher_var2_name: another one [N, C2, H, W].
        student_var1_name: a map of the student [N, C1, H', W'].
        student_var2_name: another one [N, C2, H', W'].
        program: merged program of either IR; the default main program where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or they do not fit together.
    """
    graph = wrap(program)
    names = (teacher_var1_name, teacher_var2_name, student_var1_name, student_var2_name)
    t1, t2, s1, s2 = features(graph, *names, ranks=(4,))
    for first, second in ((t1, t2), (s1, s2)):
        check_shapes(first, second, (1,), ': the two maps of a network have one size')
    for first, second in ((t1, s1), (t2, s2)):
        check_shapes(first, second, (2, 3), ': teacher and student have as many channels')
    with building(graph, 'fsp') as e:
        t1, t2, s1, s2 = prepare(e, [t1, t2], [s1, s2])
        loss = e.mean(e.square(e.subtract(_flow(e, s1, s2), _flow(e, t1, t2))))
    return loss.raw


def attention_transfer(teacher: Any, student: Any, program: Any = None, *, power: float = 2.0) -> Any:
    """Build the loss on attention maps: where the channels of both are large, however many they have.

    The map of a tensor is the mean over channels of ``|A| ** power``, of Euclidean norm 1 for each sample; the loss is
    the mean square difference (Zagoruyko and Komodakis 2017, "Paying more attention to attention", the activation-based
    form as their code computes it).

    Args:
        teacher: the teacher's map [N, C, H, W], a name, Variable or Value.
        student: the student's [N, C', H', W']. Where the sizes differ by a whole factor, the larger attention map is
            averaged over windows.
        program: merged program of either IR; the default main program where None.
        power: at least 1.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
        ConfigError: the power is below 1.
    """
    exponent = check_number('power', power, least=1.0)
    graph = wrap(program)
    teacher, student = features(graph, teacher, student, ranks=(4,))
    check_shapes(teacher, student, (1, 2, 3))
    windows = check_windows(teacher, student)
    with building(graph, 'attention_transfer') as e:
        maps = []
        for x, window in zip(prepare(e, [teacher], [student]), windows):
            strength = resize(e, e.mean(_to_power(e, x, exponent), [1], keep=True), window)
            maps.append(unit(e, flatten(e, strength), [1]))
        loss = e.mean(e.square(e.subtract(maps[1], maps[0])))
    return loss.raw


def cosine(teacher: Any, student: Any, program: Any = None, *, axis: int = 1) -> Any:
    """Build the mean of ``1 - cos`` of the angles between two tensors' vectors along an axis.

    A vector of zeros is at right angles to all others.

    Args:
        teacher: the teacher's tensor of two axes or more, a name, Variable or Value.
        student: the student's, of the same shape.
        program: merged program of either IR; the default main program where None.
        axis: along which the vectors lie: 1 for channels, -1 for the embeddings of a sequence.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
        ConfigError: there is no such axis.
    """
    graph = wrap(program)
    teacher, student = features(graph, teacher, student)
    check_shapes(teacher, student)
    along = check_axis(axis, student)
    with building(graph, 'cosine') as e:
        t, s = (unit(e, x, [along]) for x in prepare(e, [teacher], [student]))
        loss = e.scale(e.mean(e.sum(e.multiply(t, s), [along])), -1.0, 1.0)
    return loss.raw


def _flow(e: Expressions, first: VarWrapper, second: VarWrapper) -> VarWrapper:
    rows = [e.reshape(x, [0, 0, -1]) for x in (first, second)]
    product = e.matmul(*rows, transpose_y=True)
    height, width = first.shape()[2:]
    if height > 0 and width > 0:
        return e.scale(product, 1.0 / (height * width))
    ones = e.scale(e.stop(rows[0]), 0.0, 1.0)
    return e.divide(product, e.sum(ones, [2], keep=True))


def _to_power(e: Expressions, x: VarWrapper, exponent: float) -> VarWrapper:
    if exponent == 2:
        return e.square(x)
    size = e.abs(x)
    return size if exponent == 1 else e.power(size, exponent)
