"""The loss that looks at the target class and at the others apart from each other."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.dist.losses_logits import count_classes, find_logits, one_hot_like
from paddleslim_ng.dist.losses_program import building, check_number, labels, prepare, wrap

__all__ = ['dkd']

# Added to a logit, it leaves its class with a probability of exactly zero, and all sums finite.
_NEVER = -1e30


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
    teacher, student = find_logits(graph, teacher_var_name, student_var_name)
    classes = count_classes(teacher, student)
    target = None if label is None else labels(graph, label, student)
    with building(graph, 'dkd') as e:
        t, s = prepare(e, [teacher], [student])
        mask = one_hot_like(e, e.argmax(t) if target is None else target, t, classes)
        (t_is, t_not, t_others), (s_is, s_not, s_others) = (_decoupled(e, x, heat, mask) for x in (t, s))
        binary = e.add(_divergence(e, t_is, s_is), _divergence(e, t_not, s_not))
        others = e.sum(_divergence(e, t_others, s_others), [-1])
        loss = e.add(e.scale(e.mean(binary), weights[0]), e.scale(e.mean(others), weights[1]))
    return loss.raw


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
