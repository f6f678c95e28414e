"""What all distillation losses share: finding and checking their variables, building, marking what was built."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle

from paddleslim_ng.core.additions import Additions
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.graph_wrapper import GraphWrapper, VarWrapper
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.teachers import mark_distillation
from paddleslim_ng.errors import ConfigError, GraphError

__all__ = [
    'building',
    'check_axis',
    'check_number',
    'check_shapes',
    'features',
    'labels',
    'prepare',
    'wrap',
]

_logger = logging.getLogger(__name__)
_HALF = frozenset({'float16', 'bfloat16'})
_FULL = frozenset({'float32', 'float64'})
_INTEGERS = frozenset({'int32', 'int64'})


def wrap(program: Any) -> GraphWrapper:
    """Wrap a program; the default main program where None."""
    return GraphWrapper(paddle.static.default_main_program() if program is None else program)


def features(graph: GraphWrapper, *items: Any, ranks: Sequence[int] = ()) -> list[VarWrapper]:
    """Find the tensors that a loss compares.

    Args:
        graph: wrapped program.
        items: names, Variables, Values or VarWrappers; those of another program are looked up by name.
        ranks: numbers of axes that are possible; two or more where empty.

    Raises:
        GraphError: one does not exist, holds no floating-point numbers, has another number of axes, or element types
            differ (half precision goes with float32).
    """
    found = [graph.var(item) for item in items]
    for var in found:
        if var.dtype() not in _HALF | _FULL:
            raise GraphError(f'{_described(var)} holds {var.dtype()}: a loss compares floating-point numbers')
        rank = len(var.shape())
        if (ranks and rank not in ranks) or rank < 2:
            wanted = ' or '.join(map(str, ranks)) if ranks else 'two or more'
            raise GraphError(f'{_described(var)} has {rank} axes; this loss needs {wanted}')
    for var in found[1:]:
        if _computed(var) != _computed(found[0]):
            raise GraphError(
                f'{_described(found[0])} holds {found[0].dtype()}, {_described(var)} holds {var.dtype()}: '
                'cast one of them'
            )
    return found


def labels(graph: GraphWrapper, item: Any, logits: VarWrapper) -> VarWrapper:
    """Find integer class labels for logits [..., C]: of shape [...] or [..., 1].

    Raises:
        GraphError: there are none, or they are no integers, or do not fit.
    """
    label = graph.var(item)
    if label.dtype() not in _INTEGERS:
        raise GraphError(f'{_described(label)} holds {label.dtype()}: class labels are int64 or int32')
    batch = logits.shape()[:-1]
    if not any(_compatible(label.shape(), shape) for shape in (batch, (*batch, 1))):
        raise GraphError(
            f'labels {_described(label)} do not fit logits {_described(logits)}: '
            f'give one label for each row, in the shape {list(batch)} or {[*batch, 1]}'
        )
    return label


def check_shapes(first: VarWrapper, second: VarWrapper, but: Sequence[int] = (), advice: str = '') -> None:
    """Check that two variables have the same shape as far as it is known, but for some axes.

    Raises:
        GraphError: naming both with their shapes.
    """
    shapes = [[-1 if axis in but else size for axis, size in enumerate(var.shape())] for var in (first, second)]
    if not _compatible(*shapes):
        rest = f' but for the axes {list(but)}' if but else ''
        raise GraphError(f'the shapes of {_described(first)} and {_described(second)} must match{rest}{advice}')


def check_number(name: str, value: float, *, positive: bool = False, least: float | None = None) -> float:
    """Check a weight, a temperature or the like and return it as a float.

    Args:
        name: of the argument.
        value: what was given.
        positive: zero and below are refused.
        least: smaller numbers are refused.

    Raises:
        ConfigError: it is no finite number in that range.
    """
    numeric = isinstance(value, (int, float)) or (hasattr(value, 'dtype') and getattr(value, 'shape', None) == ())
    number = float(value) if numeric and not isinstance(value, bool) else math.nan
    wanted = ' above 0' if positive else '' if least is None else f' of at least {least:g}'
    if not math.isfinite(number) or (positive and number <= 0) or (least is not None and number < least):
        raise ConfigError(f'{name} must be a finite number{wanted}, not {value!r}')
    return number


def check_axis(axis: int, var: VarWrapper) -> int:
    """Return an axis of a variable counted from the front.

    Raises:
        ConfigError: there is no such axis.
    """
    rank = len(var.shape())
    if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
        raise ConfigError(f'axis must be an axis of {_described(var)}, not {axis!r}')
    return axis % rank


@contextmanager
def building(graph: GraphWrapper, name: str, *others: Any) -> Iterator[Expressions]:
    """Build a loss at the end of the main block; its operators are marked with the loss's name.

    Args:
        graph: wrapped program.
        name: of the loss.
        others: programs that may grow as well, such as the startup program. Everything is taken out again, here and
            there, when building fails.
    """
    added = [Additions(program) for program in (graph.program, *others)]
    with matching_ir(graph.program), paddle.static.program_guard(graph.program, *others):
        try:
            yield Expressions(Insertion(graph))
        except BaseException:
            for addition in added:
                addition.undo()
            raise
    for op in added[0].operators():
        if not _unmarkable(op):
            mark_distillation(op, name)


def prepare(e: Expressions, teachers: Sequence[VarWrapper], students: Sequence[VarWrapper]) -> list[VarWrapper]:
    """Return the teachers, through which no gradient passes, then the students; half precision becomes float32."""
    for student in students:
        if student.raw.stop_gradient:
            _logger.warning('no gradient passes through %s: this loss teaches nothing', _described(student))
    stopped = [e.stop(teacher) for teacher in teachers]
    return [e.cast(var, _computed(var)) for var in (*stopped, *students)]


def _computed(var: VarWrapper) -> str:
    dtype = var.dtype()
    return 'float32' if dtype in _HALF else dtype


def _compatible(first: Sequence[int], second: Sequence[int]) -> bool:
    return len(first) == len(second) and all(a == b or a < 0 or b < 0 for a, b in zip(first, second))


def _described(var: VarWrapper) -> str:
    return f'{var.name()!r} {list(var.shape())}'


def _unmarkable(op: Any) -> bool:
    """Tell whether an operator must carry no mark: PIR cannot save parameters and inputs that do."""
    return hasattr(op, 'set_str_attr') and (op.name() == 'pd_op.data' or op.name().startswith('builtin.'))
