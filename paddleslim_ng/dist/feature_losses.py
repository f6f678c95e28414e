"""One kind of loss on several pairs of features at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.additions import Additions
from paddleslim_ng.dist.combine import combine
from paddleslim_ng.dist.feature_pairs import FeaturePair
from paddleslim_ng.dist.losses import LOSSES, loss
from paddleslim_ng.dist.losses_program import check_number, wrap
from paddleslim_ng.errors import ConfigError, nearest_names

__all__ = ['feature_losses']


def feature_losses(
    pairs: Sequence[Any],
    kind: str | Callable[[Any, Any], Any] = 'l2',
    weights: float | Sequence[float] | None = None,
    program: Any = None,
    startup_program: Any = None,
    **options: Any,
) -> Any:
    """Build the same loss for several pairs of a teacher's and a student's feature, and add them up.

    Args:
        pairs: ``(teacher, student)``, each a name, Variable or Value of ``program``; or pairs that
            :func:`match_features` found. For ``'fsp'``: ``((teacher, teacher), (student, student))``.
        kind: name of a loss of this package that compares features or logits, or a function of a teacher's and a
            student's Variable or Value, which may call any function of Paddle and returns a scalar.
        weights: one for all or one for each pair, at least 0; None is 1.
        program: merged program of either IR; the default main program where None.
        startup_program: takes the initial values of adapters; the default startup program where None.
        **options: further arguments of the loss, such as ``adapter='always'`` for ``'regression'``.

    Returns:
        The weighted sum, a scalar Variable or Value; :func:`combine` can give it a schedule.

    Raises:
        ConfigError: no pairs, one that is given twice, an unknown kind or option, or unusable weights.
        GraphError: a feature does not exist, or the two of a pair do not fit together.

    In case of an error, the programs are as they were.

    Example:
        >>> pairs = slim.dist.match_features(program, prefix='teacher_', channels='any')
        >>> distance = slim.dist.feature_losses(pairs[-3:], 'regression', weights=[1, 1, 2])
    """
    build = _builder(kind, options)
    graph = wrap(program)
    named = [_names(graph, kind, pair) for pair in pairs]
    shares = _weights(weights, len(named))
    for place, pair in enumerate(named):
        if pair in named[:place]:
            raise ConfigError(f'the pair {pair} is given twice: give it one weight')
    startup = paddle.static.default_startup_program() if startup_program is None else startup_program
    if 'startup_program' in inspect.signature(build).parameters:
        options = {**options, 'startup_program': startup}
    added = [Additions(one) for one in (graph.program, startup)]
    try:
        parts = [build(*teachers, *students, program=graph.program, **options) for teachers, students in named]
        return combine(list(zip(parts, shares)), graph.program)[0]
    except BaseException:
        for addition in added:
            addition.undo()
        raise


def _builder(kind: Any, options: dict[str, Any]) -> Callable[..., Any]:
    if callable(kind):

        def build(teacher: Any, student: Any, program: Any) -> Any:
            return loss(lambda teacher, student: kind(teacher, student), program, teacher=teacher, student=student)

        found: Callable[..., Any] = build
    elif kind in LOSSES and kind != 'hinton':
        found = LOSSES[kind]
    else:
        known = [name for name in LOSSES if name != 'hinton']
        raise ConfigError(f'unknown kind {kind!r}; known: {", ".join(known)}{nearest_names(str(kind), known)}')
    tensors = 4 if kind == 'fsp' else 2
    own = [name for name in list(inspect.signature(found).parameters)[tensors:] if not name.endswith('program')]
    unknown = [name for name in options if name not in own]
    if unknown:
        raise ConfigError(f'the loss {kind!r} has no option {unknown[0]!r}; it has {own}')
    return found


def _names(graph: GraphWrapper, kind: Any, pair: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the tensors of teacher and student that the loss is to be called with."""
    given = pair.names if isinstance(pair, FeaturePair) else pair
    if isinstance(given, str) or not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ConfigError(f'a pair is (teacher, student), not {pair!r}')
    if kind != 'fsp':
        return (graph.var(given[0]).name(),), (graph.var(given[1]).name(),)
    if any(isinstance(side, str) or not isinstance(side, (tuple, list)) or len(side) != 2 for side in given):
        raise ConfigError(f'a pair for fsp is ((teacher, teacher), (student, student)), not {pair!r}')
    first, second = (tuple(graph.var(item).name() for item in side) for side in given)
    return first, second


def _weights(weights: float | Sequence[float] | None, count: int) -> list[float]:
    if not count:
        raise ConfigError('there are no pairs to build losses for')
    if weights is None or not isinstance(weights, Sequence):
        return [check_number('weights', 1.0 if weights is None else weights, least=0.0)] * count
    if len(weights) != count:
        raise ConfigError(f'there are {count} pairs and {len(weights)} weights')
    return [check_number('a weight', weight, least=0.0) for weight in weights]
