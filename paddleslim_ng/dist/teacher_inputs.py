"""The inputs that a teacher shares with the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper
from paddleslim_ng.errors import GraphError, nearest_names
from paddleslim_ng.runtime import data_inputs

__all__ = ['match_inputs']


def match_inputs(
    teacher: GraphWrapper,
    student: GraphWrapper,
    names: Mapping[str, str],
    prefix: str,
    keep_others: bool = False,
) -> dict[str, str]:
    """Check which input of the student each input of a teacher stands for.

    Args:
        teacher: the teacher's program in test mode.
        student: the student's program.
        names: ``{input of the teacher: input of the student}``.
        prefix: of the teacher's own inputs.
        keep_others: inputs that ``names`` lacks stay, as the teacher's own.

    Returns:
        ``{input of the teacher: its name in the merged program}``.

    Raises:
        GraphError: an unknown input, shapes or element types that cannot match, or an input that layers of the teacher
            need and ``names`` lacks.
    """
    theirs = {var.name(): var for var in data_inputs(teacher)}
    inputs = {var.name(): var for var in student.vars() if var.is_data and not var.persistable()}
    for name, counterpart in names.items():
        _check_known(name, theirs, 'teacher')
        _check_known(counterpart, inputs, 'student')
        _check_fit(theirs[name], inputs[counterpart])
    others = [name for name in theirs if name not in names]
    if keep_others:
        return {**names, **{name: prefix + name for name in others}}
    for name in others:
        _check_unneeded(theirs[name])
    return dict(names)


def _check_known(name: str, known: Mapping[str, VarWrapper], whose: str) -> None:
    if name not in known:
        raise GraphError(
            f'the {whose} has no input {name!r}; it has {sorted(known)}{nearest_names(str(name), known)}: '
            'data_name_map is {input of the teacher: input of the student}'
        )


def _check_fit(teacher: VarWrapper, student: VarWrapper) -> None:
    sizes: Sequence[tuple[int, int]] = list(zip(teacher.shape(), student.shape()))
    same_rank = len(teacher.shape()) == len(student.shape())
    if teacher.dtype() != student.dtype() or not same_rank or any(a != b and min(a, b) >= 0 for a, b in sizes):
        raise GraphError(
            f'the teacher reads {teacher.dtype()} {list(teacher.shape())} as {teacher.name()!r}, and the student has '
            f'{student.dtype()} {list(student.shape())} as {student.name()!r}'
        )


def _check_unneeded(var: VarWrapper) -> None:
    """Raise if a layer with parameters depends on an input that is not given."""
    pending: list[OpWrapper] = var.outputs()
    seen: set[int] = set()
    while pending:
        op = pending.pop()
        if op.idx() in seen:
            continue
        seen.add(op.idx())
        parameters = [source.name() for source in op.all_inputs() if source.is_parameter()]
        if parameters:
            raise GraphError(
                f'the teacher needs its input {var.name()!r} for {op.type()} with the parameter {parameters[0]!r}, and '
                'data_name_map lacks that input'
            )
        pending.extend(reader for out in op.all_outputs() for reader in out.outputs())
