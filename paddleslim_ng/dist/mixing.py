"""One teacher of several: the mean of what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from paddleslim_ng.core import VarWrapper
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.dist.losses_program import building, check_number, check_shapes, features, prepare, wrap
from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['mix']


def mix(
    values: Sequence[Any], weights: Sequence[float] | None = None, program: Any = None, *, kind: str = 'logits'
) -> Any:
    """Average the logits of several teachers, for losses that take the logits of one.

    ``'logits'`` is their weighted mean, of which the softmax is the geometric mean of the teachers' probabilities.
    ``'probability'`` is the logarithm of the weighted mean of their probabilities (You et al., 2017, "Learning from
    multiple teacher networks"): at temperature 1, its softmax is that mean.

    Args:
        values: logits [..., C] of the teachers, as names, Variables or Values, all of one shape.
        weights: one for each, at least 0; they are divided by their sum. None gives all the same.
        program: merged program of either IR; the default main program where None.
        kind: what is averaged, ``'logits'`` or ``'probability'``.

    Returns:
        Logits of the same shape, a Variable or Value through which no gradient passes; float32 where the teachers'
        are of half precision.

    Raises:
        GraphError: a variable does not exist, or they do not fit together.
        ConfigError: no values, one that is given twice, an unknown kind, or unusable weights; at least one has to be
            positive.

    Example:
        >>> logits = slim.dist.mix([first[logits_1], second[logits_2]], weights=[2, 1])
        >>> distance = slim.dist.soft_label(logits, student_logits, teacher_temperature=4, student_temperature=4)
    """
    if kind not in _MEANS:
        raise ConfigError(f'unknown kind {kind!r}; known: {", ".join(_MEANS)}{nearest_names(str(kind), _MEANS)}')
    if isinstance(values, str) or not len(values):
        raise ConfigError(f'values are the logits of one or more teachers, not {values!r}')
    shares = _shares(weights, len(values))
    graph = wrap(program)
    teachers = features(graph, *values)
    for place, teacher in enumerate(teachers):
        check_shapes(teachers[0], teacher)
        if any(teacher is other for other in teachers[:place]):
            raise ConfigError(f'the logits {teacher.name()!r} are given twice: give them one weight')
    with building(graph, 'mix') as e:
        logits = prepare(e, [teacher for teacher, share in zip(teachers, shares) if share], [])
        return _MEANS[kind](e, logits, [share for share in shares if share]).raw


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else [check_number('a weight', weight, least=0.0) for weight in weights]
    if len(given) != count:
        raise ConfigError(f'there are {count} values and {len(given)} weights')
    total = sum(given)
    if not 0 < total < math.inf:
        raise ConfigError(f'weights {given} must have a positive, finite sum')
    return [weight / total for weight in given]


def _mean_of_logits(e: Expressions, logits: Sequence[VarWrapper], shares: Sequence[float]) -> VarWrapper:
    return e.here.op('sum', {'X': [e.scale(x, share) for x, share in zip(logits, shares)]})


def _mean_of_probabilities(e: Expressions, logits: Sequence[VarWrapper], shares: Sequence[float]) -> VarWrapper:
    """Stay among logarithms: the probabilities themselves may all be too small for a number."""
    axis = len(logits[0].shape())
    weighted = [e.scale(e.log_softmax(x), 1.0, math.log(share)) for x, share in zip(logits, shares)]
    stacked = e.here.op('concat', {'X': [e.unsqueeze(x, axis) for x in weighted]}, {'axis': axis})
    return e.log_sum_exp(stacked, axis)


_MEANS: Final[Mapping[str, Callable[[Expressions, Sequence[VarWrapper], Sequence[float]], VarWrapper]]] = {
    'logits': _mean_of_logits,
    'probability': _mean_of_probabilities,
}
