"""Pairs of feature maps of a teacher and a student that fit together, by depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, overload

from paddleslim_ng.analysis.report import ReportTable
from paddleslim_ng.analysis.shapes import forward_ops
from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.core.teachers import distillation_of, teacher_of, teacher_prefixes
from paddleslim_ng.dist.features import Feature, find_features
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names
from paddleslim_ng.runtime import InferenceModel

__all__ = ['FeaturePair', 'FeaturePairs', 'match_features']

_CHANNELS: Final = ('equal', 'any')
_HEAD: Final = ('student', 'teacher', 'student shape', 'teacher shape', 'student depth', 'teacher depth', 'fit')
InputShapes = Mapping[str, Sequence['int | None']]


@dataclass(frozen=True)
class FeaturePair:
    """Two feature maps of the same size.

    Attributes:
        teacher: of the teacher.
        student: of the student.
    """

    teacher: Feature
    student: Feature

    @property
    def exact(self) -> bool:
        """Whether shapes are equal; else an adapter has to change the number of channels."""
        return self.teacher.channels == self.student.channels

    @property
    def distance(self) -> float:
        """How far apart the two lie, as a fraction of their networks' depths."""
        return abs(self.teacher.relative_depth - self.student.relative_depth)

    @property
    def names(self) -> tuple[str, str]:
        """The names of teacher and student, in the order in which losses take them."""
        return self.teacher.name, self.student.name


@dataclass(frozen=True)
class FeaturePairs(Sequence[FeaturePair]):
    """The pairs that :func:`match_features` found; ``str`` gives a table.

    Attributes:
        pairs: by the student's depth, and for one student feature the nearest first.
        unmatched: student features that no teacher feature fits.
    """

    pairs: tuple[FeaturePair, ...]
    unmatched: tuple[Feature, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> FeaturePair: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[FeaturePair, ...]: ...

    def __getitem__(self, index: int | slice) -> FeaturePair | tuple[FeaturePair, ...]:
        return self.pairs[index]

    def __iter__(self) -> Iterator[FeaturePair]:
        return iter(self.pairs)

    def of_student(self, name: str) -> tuple[FeaturePair, ...]:
        """Return the pairs of one student feature.

        Raises:
            GraphError: the student has no such feature; the nearest names are listed.
        """
        known = {pair.student.name for pair in self.pairs} | {feature.name for feature in self.unmatched}
        if name not in known:
            raise GraphError(f'no student feature is called {name!r}{nearest_names(name, known)}')
        return tuple(pair for pair in self.pairs if pair.student.name == name)

    def table(self) -> ReportTable:
        """Return the pairs as a table of a :class:`paddleslim_ng.analysis.Report`."""
        notes = [f'No teacher feature fits {_listed(self.unmatched)}.'] if self.unmatched else []
        return ReportTable('Pairs of feature maps', _HEAD, [_row(pair) for pair in self.pairs], notes=notes)

    def __str__(self) -> str:
        table = self.table()
        lines = [list(table.head), *map(list, table.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
        texts = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return '\n'.join([*texts, *table.notes])


def match_features(
    teacher: Any,
    student: Any = None,
    *,
    prefix: str | None = None,
    channels: str = 'equal',
    every: bool = False,
    nearest: int | None = 1,
    input_shapes: InputShapes | None = None,
) -> FeaturePairs:
    """List pairs of feature maps of a teacher and a student that have the same size, by depth.

    Depth is the number of operators on the longest path from the inputs, as a fraction of that of the whole network.
    Batch and spatial sizes have to be equal; so have channels, unless an adapter is to change them.

    Args:
        teacher: the teacher's program, or the program it was merged into when ``student`` is None; of either IR, as an
            :class:`InferenceModel`, too.
        student: the student's program, likewise.
        prefix: of two programs: the prefix that the teacher is going to be merged under; its names are given with it.
            Of a merged program: that of the teacher; may be None where there is only one.
        channels: ``'equal'``, or ``'any'`` to use the pairs with a trainable adapter.
        every: take every result for a feature map, between convolution and activation, too; else the last of each.
        nearest: how many teacher features to list for one student feature, the nearest in depth first; None: all.
        input_shapes: ``{data input: whole shape}`` where the programs leave more than the batch open.

    Raises:
        ConfigError: ``channels`` is neither of the two, or ``nearest`` is less than 1.
        GraphError: there is no such teacher in the merged program, ``input_shapes`` names no input, or a shape is not
            to be known.

    Example:
        >>> print(slim.dist.match_features(teacher_program, student_program, prefix='teacher_'))
    """
    if channels not in _CHANNELS:
        raise ConfigError(f"channels is 'equal' or 'any', not {channels!r}")
    if nearest is not None and nearest < 1:
        raise ConfigError(f'nearest is a number of features, at least 1, or None for all, not {nearest!r}')
    if student is None:
        theirs, ours = _sides_of_merged(_wrap(teacher), prefix)
    else:
        theirs, ours = ((graph, _own_ops(graph)) for graph in (_wrap(teacher), _wrap(student)))
    given = _divided(input_shapes or {}, theirs[0], ours[0])
    candidates = find_features(*theirs, every=every, input_shapes=given[0])
    wanted = find_features(*ours, every=every, input_shapes=given[1])
    if student is not None and prefix:
        candidates = [replace(feature, name=prefix + feature.name) for feature in candidates]
    return _match(candidates, wanted, channels == 'any', nearest)


def _match(teacher: list[Feature], student: list[Feature], adapt: bool, nearest: int | None) -> FeaturePairs:
    by_size: dict[tuple[int, ...], list[Feature]] = {}
    for feature in teacher:
        by_size.setdefault(_key(feature, adapt), []).append(feature)
    pairs: list[FeaturePair] = []
    unmatched = []
    for feature in sorted(student, key=lambda feature: feature.depth):
        fitting = [FeaturePair(other, feature) for other in by_size.get(_key(feature, adapt), [])]
        fitting.sort(key=lambda pair: (pair.distance, not pair.exact, pair.teacher.depth))
        pairs += fitting[:nearest]
        if not fitting:
            unmatched.append(feature)
    return FeaturePairs(tuple(pairs), tuple(unmatched))


def _key(feature: Feature, adapt: bool) -> tuple[int, ...]:
    sizes = list(feature.sizes)
    if adapt:
        sizes[feature.channel_axis] = -1
    return tuple(sizes)


def _wrap(given: Any) -> GraphWrapper:
    return GraphWrapper(given.program if isinstance(given, InferenceModel) else given)


def _own_ops(graph: GraphWrapper) -> list[OpWrapper]:
    """Return the forward operators that neither belong to a teacher nor read what one or a loss made."""
    foreign: set[int] = set()
    own = []
    for op in forward_ops(graph):
        marked = teacher_of(op) is not None or distillation_of(op) is not None
        if marked or any(id(var) in foreign for var in op.all_inputs()):
            foreign.update(id(var) for var in op.all_outputs() if not var.persistable())
        else:
            own.append(op)
    return own


def _sides_of_merged(
    graph: GraphWrapper, prefix: str | None
) -> tuple[tuple[GraphWrapper, list[OpWrapper]], tuple[GraphWrapper, list[OpWrapper]]]:
    known = teacher_prefixes(graph)
    if prefix is None and len(known) == 1:
        prefix = known[0]
    if prefix not in known:
        wanted = 'a single teacher' if prefix is None else f'a teacher under the prefix {prefix!r}'
        raise GraphError(
            f'the program holds the teachers {known}, and not {wanted}: give one of their prefixes, or merge first, or '
            'give the programs of teacher and student'
        )
    return (graph, [op for op in forward_ops(graph) if teacher_of(op) == prefix]), (graph, _own_ops(graph))


def _divided(given: InputShapes, *graphs: GraphWrapper) -> list[dict[str, Sequence[int | None]]]:
    for name in given:
        if not any(graph.has_var(name) for graph in graphs):
            raise GraphError(f'input_shapes names {name!r}, which neither teacher nor student has')
    return [{name: shape for name, shape in given.items() if graph.has_var(name)} for graph in graphs]


def _row(pair: FeaturePair) -> list[str]:
    ours, theirs = pair.student, pair.teacher
    fit = 'exact' if pair.exact else 'adapter'
    depths = [f'{feature.relative_depth:.3f}' for feature in (ours, theirs)]
    return [ours.name, theirs.name, str(list(ours.shape)), str(list(theirs.shape)), *depths, fit]


def _listed(features: Sequence[Feature]) -> str:
    shown = ', '.join(f'{feature.name} {list(feature.shape)}' for feature in features[:5])
    return shown + (f' and {len(features) - 5} more' if len(features) > 5 else '')
