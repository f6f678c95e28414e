"""Losses on logits: softened targets and what was made of them."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.dist.losses_program import building, check_number, check_shapes, features, labels, prepare, wrap
from paddleslim_ng.dist.losses_vectors import pearson
from paddleslim_ng.errors import GraphError

__all__ = ['correlation', 'dkd', 'hinton', 'skd', 'soft_label']

# Added to a logit, it leaves its class with a probability of exactly zero, and all sums finite.
_NEVER = -1e30


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
    teacher, student = _logits(graph, teacher_var_name, student_var_name)
    with building(graph, 'soft_label') as e:
        t, s = prepare(e, [teacher], [student])
        loss = e.mean(_cross_entropy(e, e.softmax(e.scale(t, 1 / hot)), e.scale(s, 1 / own)))
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
    teacher, student = _logits(graph, teacher, student)
    _classes(teacher, student)
    target = labels(graph, label, student)
    with building(graph, 'hinton') as e:
        t, s = prepare(e, [teacher], [student])
        by_label = e.mean(_cross_entropy(e, _one_hot(e, target, s), s))
        by_teacher = e.mean(_cross_entropy(e, e.softmax(e.scale(t, 1 / heat)), e.scale(s, 1 / heat)))
        loss = e.add(e.scale(by_label, hard), e.scale(by_teacher, soft))
    return loss.raw


def dkd(
    teacher_var_name: Any,
    student_var_name: Any,
    program: Any = None,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    *,
    label: Any = None,
) -> Any:
    """Build the decoupled distillation loss.

    ``T ** 2 * (alpha * KL(b_t, b_s) + beta * KL(n_t, n_s))``, the mean over the rows, where b is the probability of the
    target class against that of all others, and n the probabilities among the others (Zhao et al. 2022, "Decoupled
    knowledge distillation"). PaddleSlim takes the teacher's favourite as the target, too, but passes probabilities
    where its divergence expects logarithms, and divides by the classes as well: its values differ.

    Args:
        teacher_var_name: the teacher's logits [..., C], a name, Variable or Value; two classes or more.
        student_var_name: the student's logits, of the same shape.
        program: merged program of either IR; the default main program where None.
        temperature: T.
        alpha: weight of the target class.
        beta: weight of the other classes.
        label: target classes [...] or [..., 1], int64 or int32; the teacher's most probable ones where None.

    Returns:
        The loss, a scalar Variable or Value.

    Raises:
        GraphError: a variable does not exist, they do not fit together, or the number of classes is unknown or 1.
        ConfigError: the temperature is not above 0, or a weight is not finite.
    """
    heat = check_number('temperature', temperature, positive=True)
    weights = [check_number(name, value) * heat**2 for name, value in (('alpha', alpha), ('beta', beta))]
    graph = wrap(program)
    teacher, student = _logits(graph, teacher_var_name, student_var_name)
    _classes(teacher, student)
    target = None if label is None else labels(graph, label, student)
    with building(graph, 'dkd') as e:
        t, s = prepare(e, [teacher], [student])
        mask = _one_hot(e, e.argmax(t) if target is None else target, t)
        (t_is, t_not, t_others), (s_is, s_not, s_others) = (_decoupled(e, x, heat, mask) for x in (t, s))
        binary = e.add(_divergence(e, t_is, s_is), _divergence(e, t_not, s_not))
        others = e.sum(_divergence(e, t_others, s_others), [-1])
        loss = e.add(e.scale(e.mean(binary), weights[0]), e.scale(e.mean(others), weights[1]))
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
    teacher, student = _logits(graph, teacher_var_name, student_var_name, ranks=(2,))
    classes = _classes(teacher, student)
    with building(graph, 'skd') as e:
        t, s = prepare(e, [teacher], [student])
        moments = [_moments(e, logits) for logits in (t, s)]
        normal = [e.divide(centred, e.sqrt(e.scale(variance, 1.0, 1e-7))) for centred, variance in moments]
        if factor is not None:
            scaled = [e.scale(rows, factor) for rows in normal]
        else:
            deviation = e.sqrt(e.scale(moments[0][1], classes / (classes - 1)))
            scaled = [e.multiply(rows, deviation) for rows in normal]
        loss = e.mean(_cross_entropy(e, e.softmax(scaled[0]), scaled[1]))
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
    teacher, student = _logits(graph, teacher, student, ranks=(2,))
    with building(graph, 'correlation') as e:
        t, s = (e.softmax(e.scale(x, 1 / heat)) for x in prepare(e, [teacher], [student]))
        parts = [e.scale(e.mean(pearson(e, t, s, axis)), -w, w) for axis, w in zip((1, 0), weights)]
        loss = e.add(*parts)
    return loss.raw


def _logits(graph: Any, teacher: Any, student: Any, ranks: tuple[int, ...] = ()) -> list[VarWrapper]:
    found = features(graph, teacher, student, ranks=ranks)
    check_shapes(found[0], found[1])
    return found


def _classes(*logits: VarWrapper) -> int:
    """Return the number of classes."""
    classes = max(var.shape()[-1] for var in logits)
    if classes < 2:
        raise GraphError(
            f'this loss needs a known number of classes, at least two, on the last axis of {logits[-1].name()!r} '
            f'{list(logits[-1].shape())}'
        )
    return classes


def _cross_entropy(e: Expressions, targets: VarWrapper, logits: VarWrapper) -> VarWrapper:
    """Return the cross-entropy of each row; logarithms of a softmax are finite, however far logits lie apart."""
    return e.scale(e.sum(e.multiply(targets, e.log_softmax(logits)), [-1]), -1.0)


def _one_hot(e: Expressions, label: VarWrapper, logits: VarWrapper) -> VarWrapper:
    """Return labels [...] or [..., 1] as rows of zeros with a one, like ``logits`` in rank and element type."""
    shape = logits.shape()
    flat = label if len(label.shape()) < len(shape) else e.reshape(label, [0] * (len(shape) - 2) + [-1])
    return e.cast(e.one_hot(e.stop(flat), _classes(logits)), logits.dtype())


def _decoupled(
    e: Expressions, logits: VarWrapper, temperature: float, mask: VarWrapper
) -> tuple[VarWrapper, VarWrapper, VarWrapper]:
    """Return logarithms: of the target's probability, of all others' together, and of each among the others."""
    logs = e.log_softmax(e.scale(logits, 1 / temperature))
    others = e.add(logs, e.scale(mask, _NEVER))
    return e.sum(e.multiply(mask, logs), [-1]), e.log_sum_exp(others), e.log_softmax(others)


def _divergence(e: Expressions, teacher: VarWrapper, student: VarWrapper) -> VarWrapper:
    """Return the terms of the Kullback-Leibler divergence, given logarithms of probabilities."""
    return e.multiply(e.exp(teacher), e.subtract(teacher, student))


def _moments(e: Expressions, rows: VarWrapper) -> tuple[VarWrapper, VarWrapper]:
    """Return rows without their mean, and their variance."""
    centred = e.subtract(rows, e.mean(rows, [-1], keep=True))
    return centred, e.mean(e.square(centred), [-1], keep=True)
