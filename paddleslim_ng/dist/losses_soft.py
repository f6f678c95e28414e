"""Losses on logits: softened targets and what was made of them."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.dist.losses_logits import count_classes, cross_entropy, find_logits, one_hot_like
from paddleslim_ng.dist.losses_program import building, check_number, labels, prepare, wrap
from paddleslim_ng.dist.losses_vectors import pearson

__all__ = ['correlation', 'hinton', 'skd', 'soft_label']


def soft_label(
    teacher_var_name: Any,
    student_var_name: Any,
    program: Any = None,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    *,
    scale_by_temperature: bool = False,
) -> Any:
    """Build the cross-entropy between the softmax of the teacher's logits and that of the student's.

    The value is PaddleSlim's: the mean over the rows of ``-sum(softmax(t / T_t) * log_softmax(s / T_s))``.

    Args:
        teacher_var_name: the teacher's logits [..., C], a name, Variable or Value.
        student_var_name: the student's logits, of the same shape.
        program: merged program of either IR; the default main program where None.
        teacher_temperature: T_t.
        student_temperature: T_s.
        scale_by_temperature: multiply with ``T_t * T_s``, so that gradients keep their size (Hinton et al. 2015).

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
        ConfigError: a temperature is not above 0.
    """
    hot = check_number('teacher_temperature', teacher_temperature, positive=True)
    own = check_number('student_temperature', student_temperature, positive=True)
    graph = wrap(program)
    teacher, student = find_logits(graph, teacher_var_name, student_var_name)
    with building(graph, 'soft_label') as e:
        t, s = prepare(e, [teacher], [student])
        loss = e.mean(cross_entropy(e, e.softmax(e.scale(t, 1 / hot)), e.scale(s, 1 / own)))
        if scale_by_temperature:
            loss = e.scale(loss, hot * own)
    return loss.raw


def hinton(
    teacher: Any,
    student: Any,
    label: Any,
    program: Any = None,
    *,
    temperature: float,
    hard_weight: float = 0.5,
    soft_weight: float = 0.5,
    scale_by_temperature: bool = True,
) -> Any:
    """Build Hinton's loss: cross-entropy with the labels, mixed with that against softened targets.

    ``hard_weight * CE(label, s) + soft_weight * T ** 2 * CE(softmax(t / T), softmax(s / T))``, each a mean over the
    rows (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network"). PocketFlow's loss is
    ``temperature=4, hard_weight=1, soft_weight=4, scale_by_temperature=False``.

    Args:
        teacher: the teacher's logits [..., C], a name, Variable or Value.
        student: the student's logits, of the same shape.
        label: class numbers [...] or [..., 1], int64 or int32.
        program: merged program of either IR; the default main program where None.
        temperature: T.
        hard_weight: of the cross-entropy with the labels.
        soft_weight: of the cross-entropy against the teacher.
        scale_by_temperature: multiply the latter with T ** 2.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or they do not fit together.
        ConfigError: the temperature is not above 0, or a weight is not finite.
    """
    heat = check_number('temperature', temperature, positive=True)
    hard = check_number('hard_weight', hard_weight)
    soft = check_number('soft_weight', soft_weight) * (heat**2 if scale_by_temperature else 1.0)
    graph = wrap(program)
    teacher, student = find_logits(graph, teacher, student)
    classes = count_classes(teacher, student)
    target = labels(graph, label, student)
    with building(graph, 'hinton') as e:
        t, s = prepare(e, [teacher], [student])
        by_label = e.mean(cross_entropy(e, one_hot_like(e, target, s, classes), s))
        by_teacher = e.mean(cross_entropy(e, e.softmax(e.scale(t, 1 / heat)), e.scale(s, 1 / heat)))
        loss = e.add(e.scale(by_label, hard), e.scale(by_teacher, soft))
    return loss.raw


def skd(teacher_var_name: Any, student_var_name: Any, program: Any = None, multiplier: float | None = None) -> Any:
    """Build the spherical distillation loss: logits of both are brought to the same norm first.

    The value is PaddleSlim's: logits are centred and divided by their deviation, multiplied with ``multiplier``, and
    compared by ``-sum(softmax(t) * log_softmax(s))``, the mean over the rows (Guo et al. 2020, "Reducing the
    teacher-student gap via spherical knowledge distillation").

    Args:
        teacher_var_name: the teacher's logits [N, C], a name, Variable or Value; two classes or more.
        student_var_name: the student's logits, of the same shape.
        program: merged program of either IR; the default main program where None.
        multiplier: deviation of the compared logits; that of the teacher's logits, row by row, where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, they do not fit together, or the number of classes is unknown or 1.
        ConfigError: the multiplier is not above 0.
    """
    factor = None if multiplier is None else check_number('multiplier', multiplier, positive=True)
    graph = wrap(program)
    teacher, student = find_logits(graph, teacher_var_name, student_var_name, ranks=(2,))
    classes = count_classes(teacher, student)
    with building(graph, 'skd') as e:
        t, s = prepare(e, [teacher], [student])
        moments = [_moments(e, logits) for logits in (t, s)]
        normal = [e.divide(centred, e.sqrt(e.scale(variance, 1.0, 1e-7))) for centred, variance in moments]
        if factor is not None:
            scaled = [e.scale(rows, factor) for rows in normal]
        else:
            deviation = e.sqrt(e.scale(moments[0][1], classes / (classes - 1)))
            scaled = [e.multiply(rows, deviation) for rows in normal]
        loss = e.mean(cross_entropy(e, e.softmax(scaled[0]), scaled[1]))
    return loss.raw


def correlation(
    teacher: Any,
    student: Any,
    program: Any = None,
    *,
    temperature: float = 1.0,
    between: float = 1.0,
    within: float = 1.0,
) -> Any:
    """Build the loss of DIST: predictions need to be correlated with the teacher's, not equal to them.

    ``between * (1 - mean over samples of r) + within * (1 - mean over classes of r)``, where r is Pearson's correlation
    of the softmax of both, over the classes of a sample and over the samples of a class (Huang et al. 2022, "Knowledge
    distillation from a stronger teacher", the relations between and within classes). What is constant, such as any
    class in a batch of one, has the correlation 0.

    Args:
        teacher: the teacher's logits [N, C], a name, Variable or Value.
        student: the student's logits, of the same shape.
        program: merged program of either IR; the default main program where None.
        temperature: that logits are divided by.
        between: weight of the correlation over classes.
        within: weight of the correlation over samples.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, or the two do not fit together.
        ConfigError: the temperature is not above 0, or a weight is not finite.
    """
    heat = check_number('temperature', temperature, positive=True)
    weights = [check_number(name, value) for name, value in (('between', between), ('within', within))]
    graph = wrap(program)
    teacher, student = find_logits(graph, teacher, student, ranks=(2,))
    with building(graph, 'correlation') as e:
        t, s = (e.softmax(e.scale(x, 1 / heat)) for x in prepare(e, [teacher], [student]))
        parts = [e.scale(e.mean(pearson(e, t, s, axis)), -w, w) for axis, w in zip((1, 0), weights)]
        loss = e.add(*parts)
    return loss.raw


def _moments(e: Expressions, rows: VarWrapper) -> tuple[VarWrapper, VarWrapper]:
    """Return rows without their mean, and their variance."""
    centred = e.subtract(rows, e.mean(rows, [-1], keep=True))
    return centred, e.mean(e.square(centred), [-1], keep=True)
