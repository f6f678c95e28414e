"""A teacher inside the student's program: shared inputs, names under a prefix, frozen, and proved unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import Executor, GraphWrapper, clone_program, cut_program, translate_program, translate_to_pir
from paddleslim_ng.core.merging import MergedProgram, merge_program
from paddleslim_ng.core.paddle_compat import global_scope
from paddleslim_ng.dist.teacher_inputs import match_inputs
from paddleslim_ng.dist.teacher_state import StateTransfer
from paddleslim_ng.errors import ConfigError, EquivalenceError, GraphError, nearest_names
from paddleslim_ng.runtime import InferenceModel, data_inputs, synthesize_feeds
from paddleslim_ng.runtime.inference_outputs import inference_outputs, results_of

__all__ = ['MergedTeacher', 'merge']

_log = logging.getLogger('paddleslim_ng')
_TOLERANCE = 1e-6


class MergedTeacher(Mapping[Any, Any]):
    """Where a teacher's variables are in the merged program.

    A mapping: ``merged[name]``, or ``merged[value]`` with a Variable or Value of the teacher, gives the Variable or
    Value of the student's program that took its place. Iterating gives the teacher's names.

    Attributes:
        program: the student's program.
        prefix: what the teacher's names begin with there.
        names: ``{name in the teacher: name in the student's program}``.
        inputs: ``{input of the teacher: input of the student's program}``.
        outputs: names in the student's program of the results that nothing in the teacher reads.
        left_out: types of the operators that were not copied because they need other inputs, such as a loss.
        difference: largest absolute difference between the teacher's outputs alone and merged; None if not checked.
    """

    def __init__(self, program: Any, merged: MergedProgram, outputs: list[str]) -> None:
        self.program = program
        self.prefix = merged.prefix
        self.names = merged.names
        self.inputs = merged.inputs
        self.outputs = [merged.names[name] for name in outputs]
        self.left_out = [op.type() for op in merged.left_out]
        self.difference: float | None = None
        graph = GraphWrapper(program)
        self._values = {old: graph.var(new).raw for old, new in merged.names.items() if graph.has_var(new)}

    def __getitem__(self, item: Any) -> Any:
        return self._values[GraphWrapper.name_of(item)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f'MergedTeacher({self.prefix!r}, {len(self)} variables, outputs {self.outputs})'


def merge(
    teacher_program: Any,
    student_program: Any,
    data_name_map: Mapping[str, str],
    place: Any = None,
    scope: Any = None,
    teacher_scope: Any = None,
    name_prefix: str = 'teacher_',
    merge_feed: bool = True,
    *,
    check: bool = True,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
) -> MergedTeacher:
    """Copy a teacher into the student's program, to be compared with it by losses (Hinton et al., 2015).

    The teacher runs in test mode on the student's inputs. It is frozen: it gets no gradient and no optimizer state,
    and neither pruning, masks nor quantization touch it. What needs an input that ``data_name_map`` does not name,
    such as its loss, is left out; its backward pass and optimizer always are. Its operators stand before the
    student's: where the executor keeps to that order, its memory is free again when the student's begins to fill.

    Both programs may be of either IR; the teacher is translated to the student's. The teacher's startup program must
    have been run, or its parameters loaded. The student's startup program may be run before or after.

    Args:
        teacher_program: a program, or an :class:`InferenceModel` as ``load_inference_model`` returns.
        student_program: program of the student, before ``minimize``; changed in place.
        data_name_map: ``{input of the teacher: input of the student}``.
        place: device of the copied parameters; where they are now if None.
        scope: has the student's parameters and gets the teacher's; Paddle's global scope where None.
        teacher_scope: has the teacher's parameters, and keeps them. Where it is None, or ``scope`` itself, they move:
            under their old names only what the student has as well remains.
        name_prefix: for the teacher's names; another one for each teacher.
        merge_feed: False keeps the inputs that ``data_name_map`` lacks, as the teacher's own, called
            ``<name_prefix><input of the teacher>``; they have to be fed then. True leaves out what needs them.
        check: run the teacher alone and in the merged program, on the same inputs, and compare.
        feed: ``{input of the teacher: array}`` for the check; what is missing is made up.

    Returns:
        A mapping from the teacher's names, Variables and Values to those in ``student_program``.

    Raises:
        GraphError: an input, or a shape or element type that does not match; a name that is taken; parameters that are
            not initialized; a part of the teacher that has parameters and needs an input that the map lacks.
        UnsupportedOpError: the teacher's operators do not exist on the student's IR; all of them are listed.
        EquivalenceError: the merged teacher computes something else.
        ConfigError: an unusable prefix.

    In case of an error, program and scopes are as they were.

    Example:
        >>> merged = slim.dist.merge(teacher_program, student_program, {'image': 'image'}, paddle.CPUPlace())
        >>> with paddle.static.program_guard(student_program, student_startup):
        ...     distance = slim.dist.soft_label(merged[teacher_logits], student_logits)
        ...     optimizer.minimize(loss + distance)
    """
    if not isinstance(name_prefix, str) or not name_prefix:
        raise ConfigError(f'name_prefix is a text to begin names with, not {name_prefix!r}')
    student = GraphWrapper(student_program)
    if isinstance(teacher_program, InferenceModel) and teacher_scope is None:
        teacher_scope = teacher_program.scope
    scope = scope if scope is not None else global_scope()
    home = teacher_scope if teacher_scope is not None else scope
    teacher = _prepared(teacher_program, student, list(data_name_map))
    inputs = match_inputs(teacher, student, data_name_map, name_prefix, not merge_feed)
    merged = merge_program(
        student, teacher, inputs, name_prefix, frozen=True, own_inputs=set(inputs) - set(data_name_map)
    )
    transfer = StateTransfer(scope, home, merged, teacher, student, place)
    try:
        transfer.check()
        result = MergedTeacher(student.program, merged, _outputs(teacher, merged))
        expected = _run_teacher(teacher, student, result, home, feed, place) if check else None
        transfer.copy()
        if expected is not None:
            result.difference = _compare(result, *expected, scope, place)
    except BaseException:
        transfer.undo()
        merged.undo()
        raise
    shared = transfer.shared_names()
    transfer.finish()
    if shared:
        _log.warning(
            'teacher and student share %d names in one scope, such as %r: what was written there last is the teacher '
            'now. If that was the student, give the teacher a scope of its own (teacher_scope)',
            len(shared),
            shared[0],
        )
    if result.left_out:
        _log.info('left out of the teacher %r: %s', name_prefix, ', '.join(result.left_out))
    return result


def _prepared(given: Any, student: GraphWrapper, feeds: list[str]) -> GraphWrapper:
    """Return the teacher in test mode and in the student's IR."""
    program = getattr(given, 'program', given)
    teacher = GraphWrapper(program)
    if program is student.program:
        raise GraphError('teacher and student are the same program: build the teacher into a program of its own')
    evaluation = GraphWrapper(clone_program(program, for_test=True))
    if teacher.ir == student.ir:
        return evaluation
    known = [name for name in feeds if teacher.has_var(name)]
    fetches = [var.name() for var in inference_outputs(teacher, evaluation, known)]
    translate = translate_program if student.ir == 'legacy' else translate_to_pir
    return GraphWrapper(translate(program, known, fetches))


def _outputs(teacher: GraphWrapper, merged: MergedProgram) -> list[str]:
    """Return what the copied part of the teacher makes and does not read."""
    left_out = {op.idx() for op in merged.left_out}
    copied = [op for op in teacher.ops() if op.idx() not in left_out]
    read = {id(var) for op in copied for var in op.all_inputs()}
    ends = [op for op in copied if not any(id(var) in read for var in op.all_outputs())]
    return [var.name() for op in ends for var in results_of(op) if var.name() in merged.names]


def _run_teacher(
    teacher: GraphWrapper,
    student: GraphWrapper,
    result: MergedTeacher,
    scope: Any,
    given: Mapping[str, npt.NDArray[Any]] | None,
    place: Any,
) -> tuple[dict[str, npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Return inputs for the teacher, under its own names, and what it makes of them on its own."""
    needed = [var.name() for var in data_inputs(teacher) if var.name() in result.inputs]
    for name in given or {}:
        if name not in needed:
            raise GraphError(f'feed has {name!r}, and the teacher reads {needed}{nearest_names(name, needed)}')
    missing = [name for name in needed if name not in (given or {})]
    shapes = {name: _joint_shape(teacher, student, name, result.inputs[name]) for name in missing}
    feeds = synthesize_feeds(teacher, missing, shapes=shapes)
    feeds.update({name: np.asarray(array) for name, array in (given or {}).items()})
    back = {new: old for old, new in result.names.items()}
    part = cut_program(teacher.program, needed, [back[name] for name in result.outputs])
    try:
        outputs = Executor(place).run(part, feeds, [back[name] for name in result.outputs], scope=scope)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = next((line for line in str(error).splitlines()[::-1] if 'Error' in line), type(error).__name__)
        raise GraphError(
            'the teacher cannot be run on its own, to be compared with the merged one; give real inputs in feed=, or '
            f'check=False: {reason.strip()}'
        ) from error
    return feeds, outputs


def _joint_shape(teacher: GraphWrapper, student: GraphWrapper, name: str, shared: str) -> list[int]:
    """Return the shape of an input where either program knows a size."""
    own = teacher.var(name).shape()
    other = student.var(shared).shape() if student.has_var(shared) else own
    return [mine if mine >= 0 else size for mine, size in zip(own, other)]


def _compare(
    result: MergedTeacher,
    feeds: Mapping[str, npt.NDArray[Any]],
    expected: list[npt.NDArray[Any]],
    scope: Any,
    place: Any,
) -> float:
    """Run the merged teacher and return the largest difference of its outputs from the expected ones."""
    shared = {result.inputs[name]: array for name, array in feeds.items()}
    part = cut_program(result.program, list(shared), result.outputs)
    found = Executor(place).run(part, shared, result.outputs, scope=scope)
    largest = 0.0
    for name, want, got in zip(result.outputs, expected, found):
        if not want.size or (want.shape == got.shape and np.array_equal(want, got, equal_nan=want.dtype.kind == 'f')):
            continue
        fits = want.shape == got.shape and want.dtype.kind == 'f'
        difference = float(np.abs(want - got).max()) if fits else float('inf')
        if not difference <= _TOLERANCE * float(np.abs(want).max()):
            raise EquivalenceError(
                f'output {name!r} of the merged teacher differs by {difference:.3g} from that of the teacher'
            )
        largest = max(largest, difference)
    return largest
