"""Einstein sums: letters are axes, so the equation says what meets, what passes and what is summed."""

from __future__ import annotations

from collections.abc import Mapping

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Mark, Rule
from paddleslim_ng.prune.rules.common import first_output, follow_weight
from paddleslim_ng.prune.rules.linear import contract

__all__ = ['RULES', 'parse_equation']

_Place = tuple[VarWrapper, int]


def parse_equation(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Name every axis of the operands and of the result of an Einstein sum.

    Args:
        equation: such as ``'bhid,bhjd->bhij'``; an ellipsis stands for axes ``'.1'``, ``'.2'`` counted from the right.
        ranks: number of axes of each operand.

    Returns:
        Names of the operands' axes, and of the result's.
    """
    left, _, right = equation.replace(' ', '').partition('->')
    terms = [_letters(term, rank) for term, rank in zip(left.split(','), ranks)]
    if '->' not in equation:
        once = sorted({a for term in terms for a in term if sum(t.count(a) for t in terms) == 1 and a[0] != '.'})
        return terms, [*_dots(terms), *once]
    head, dots, tail = right.partition('...')
    return terms, [*head, *(_dots(terms) if dots else ()), *tail]


def _letters(term: str, rank: int) -> list[str]:
    head, dots, tail = term.partition('...')
    hidden = rank - len(head) - len(tail) if dots else 0
    return [*head, *(f'.{hidden - index}' for index in range(hidden)), *tail]


def _dots(terms: list[list[str]]) -> list[str]:
    return sorted({name for term in terms for name in term if name[0] == '.'}, key=lambda name: -int(name[1:]))


def einsum(analysis: Analysis, op: OpWrapper) -> None:
    """Axes of one letter meet; a letter that the result lacks is summed over."""
    operands, out = op.inputs('Operands') or op.all_inputs(), first_output(op)
    for var in (*op.outputs('InnerCache'), *op.outputs('XShape')):
        analysis.auxiliary(var)
    terms, result = parse_equation(str(op.attr('equation')), [len(var.shape()) for var in operands])
    places: dict[str, list[_Place]] = {}
    for var, term in zip(operands, terms):
        for axis, letter in enumerate(term):
            places.setdefault(letter, []).append((var, axis))
    layout = {}
    for letter, found in places.items():
        mark = _meet(analysis, op, found, letter in result)
        if mark is not None and letter in result:
            layout[result.index(letter)] = mark
    analysis.set(out, layout)


def _meet(analysis: Analysis, op: OpWrapper, places: list[_Place], stays: bool) -> Mark | None:
    """Let the axes of one letter meet; return what the result has there."""
    wide = [(var, axis) for var, axis in places if var.shape()[axis] != 1]
    weights = [(var, axis) for var, axis in wide if var.is_parameter()]
    others = [(var, axis) for var, axis in wide if not var.is_parameter()]
    if stays and len(weights) == 1 and not others and len(weights[0][0].shape()) > 1:
        return Mark(analysis.makes_channels(*weights[0]), True)
    marks = [(var, axis, analysis.mark(var, axis)) for var, axis in others]
    if not others:
        marks = [(var, axis, Mark(analysis.parameter_axis(var, axis), True)) for var, axis in weights]
    present = [mark for _, _, mark in marks if mark is not None]
    for var, axis in weights if others else ():
        source = next(((x, a, m) for x, a, m in marks if m is not None), marks[0])
        follow_weight(
            analysis, op, var, axis, source[0], source[1], source[2].labels if source[2] is not None else None
        )
    if not present:
        return None
    if not stays and not weights:
        contract(analysis, op, marks)
        return None
    for mark in present[1:]:
        analysis.unite(present[0].labels, mark.labels)
    if len(present) < len(marks):
        analysis.freeze(present[0].labels, op, 'meets an axis of fixed size', *others[0])
    return Mark(present[0].labels, bool(weights) or any(mark.zero for mark in present))


RULES: Mapping[str, Rule] = {'einsum': einsum}
