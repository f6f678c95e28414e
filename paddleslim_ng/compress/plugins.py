"""The pruners and distillers that a configuration names; strategies use them."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from paddleslim_ng.compress.last_layers import last_layers
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.dist import LOSSES, combine, fsp, l2, soft_label
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.criterion import ChannelCriterion, finite_values, get_criterion

__all__ = ['Distiller', 'FSPDistiller', 'L2Distiller', 'LossDistiller', 'SoftLabelDistiller', 'StructurePruner']

Teacher = Union[str, Mapping[str, Any]]
_OTHERS = '*'


class StructurePruner:
    """How channels are scored, parameter by parameter, and which of them leave.

    Args:
        pruning_axis: kept from older files; the axis of output channels, 0, for all parameters.
        criterions: ``{regular expression of whole parameter names: criterion}``; ``'*'`` is for all others.
        idx_selector: how channels are chosen by their scores.
        heads: what may leave where channels are split into heads.

    Raises:
        ConfigError: another axis, an unknown criterion or selector, or no entry ``'*'``.

    Example:
        >>> pruner = StructurePruner(criterions={'*': 'l1_norm', 'fc.*': 'geometry_median'}).make(round_to=8)
        >>> pruned, _, _ = pruner.prune(program, scope, names, ratios)
    """

    def __init__(
        self,
        pruning_axis: Mapping[str, int] | None = None,
        criterions: Mapping[str, str] | None = None,
        idx_selector: str = 'default_idx_selector',
        heads: str = 'auto',
    ) -> None:
        wrong = {name: axis for name, axis in (pruning_axis or {}).items() if axis != 0}
        if wrong:
            raise ConfigError(f'pruning_axis is 0, the output channels, which all readers follow; not {wrong}')
        self.criterions = dict(criterions if criterions is not None else {_OTHERS: 'l1_norm'})
        if _OTHERS not in self.criterions:
            raise ConfigError(f'criterions needs an entry {_OTHERS!r} for the parameters that no other entry names')
        for name in self.criterions.values():
            get_criterion(name)
        self.idx_selector, self.heads = idx_selector, heads

    def make(self, round_to: int = 1) -> Pruner:
        """Return a pruner of this kind.

        Args:
            round_to: bring the number of channels that stay to a multiple of this.
        """
        names = list(self.criterions.values())
        criterion = names[0] if len(names) == 1 else _ByParameter(self.criterions)
        return Pruner(criterion, self.idx_selector, round_to=round_to, heads=self.heads)


class _ByParameter:
    """Scores each parameter by the criterion of the first expression that its name matches."""

    def __init__(self, criterions: Mapping[str, str]) -> None:
        self._others = criterions[_OTHERS]
        self._rows = [(re.compile(key), name) for key, name in criterions.items() if key != _OTHERS]

    def __repr__(self) -> str:
        # In files of sensitivities, which belong to one way of scoring.
        return f'criterions({dict([*((row.pattern, name) for row, name in self._rows), (_OTHERS, self._others)])})'

    def score(self, session: Any, requests: Sequence[Any]) -> Mapping[str, npt.NDArray[np.float64]]:
        """Return one score per channel of each requested parameter."""
        scores: dict[str, npt.NDArray[np.float64]] = {}
        for request in requests:
            name = next((name for key, name in self._rows if key.fullmatch(request.name)), self._others)
            found = get_criterion(name)
            if isinstance(found, ChannelCriterion):
                scores.update(found.score(session, [request]))
            else:
                scores[request.name] = found(finite_values(session, request.name), request.axis)
        return scores


class Distiller(ABC):
    """A loss between a teacher and the network.

    Args:
        weight: factor of the loss in the sum that is minimized.
        teacher: number of the teacher, counted from 0.
    """

    def __init__(self, weight: float = 1.0, teacher: int = 0) -> None:
        self.weight, self.teacher = weight, teacher

    @abstractmethod
    def loss(self, program: Any, teacher: Teacher, startup_program: Any = None) -> Any:
        """Build the loss, without its weight.

        Args:
            program: the network's program with the teacher merged into it, before ``minimize``.
            teacher: what :func:`slim.dist.merge` returned, ``{name in the teacher: what took its place}``, or the
                prefix of the teacher's names.
            startup_program: takes initial values of what a loss has to learn.

        Returns:
            A scalar Variable or Value.

        Raises:
            GraphError: a tensor does not exist, or two do not fit together.
        """


class _MapsDistiller(Distiller):
    """Compares one tensor of the teacher with one of the network."""

    def __init__(
        self,
        student_feature_map: str | None = None,
        teacher_feature_map: str | None = None,
        weight: float = 1.0,
        teacher: int = 0,
    ) -> None:
        super().__init__(weight, teacher)
        self.student_feature_map, self.teacher_feature_map = student_feature_map, teacher_feature_map

    @abstractmethod
    def compare(self, teacher: Any, student: Any, program: Any, startup_program: Any) -> Any:
        """Build the loss of a pair of tensors."""

    def loss(self, program: Any, teacher: Teacher, startup_program: Any = None) -> Any:
        """Build the loss; see :meth:`Distiller.loss`.

        Where no tensor is named, those of the last layers are compared, in their order, and their losses added up.
        """
        pairs = self._pairs(GraphWrapper(program), teacher)
        losses = [self.compare(theirs, ours, program, startup_program) for theirs, ours in pairs]
        return losses[0] if len(losses) == 1 else combine([(one, 1.0) for one in losses], program)[0]

    def _pairs(self, graph: GraphWrapper, teacher: Teacher) -> list[tuple[Any, Any]]:
        ours = [self.student_feature_map] if self.student_feature_map else last_layers(graph)
        if self.teacher_feature_map is not None:
            theirs = [_of_teacher(teacher, self.teacher_feature_map)]
        elif self.student_feature_map is not None:
            theirs = [_of_teacher(teacher, self.student_feature_map)]
        else:
            theirs = list(last_layers(graph, _prefix(teacher)))
        if len(theirs) != len(ours):
            raise GraphError(
                f'the network ends in {ours} and the teacher in {[GraphWrapper.name_of(one) for one in theirs]}: name '
                'the tensors to compare in student_feature_map and teacher_feature_map'
            )
        return list(zip(theirs, ours))


class L2Distiller(_MapsDistiller):
    """The mean square difference of two tensors.

    Args:
        student_feature_map: the network's tensor; what its last layer computes where None.
        teacher_feature_map: the teacher's, by its own name; the one called as the network's where None.
        weight: factor of the loss in the sum.
        teacher: number of the teacher.
    """

    def compare(self, teacher: Any, student: Any, program: Any, startup_program: Any) -> Any:
        """Build the loss of a pair of tensors."""
        return l2(teacher, student, program)


class SoftLabelDistiller(_MapsDistiller):
    """The cross-entropy between the softened outputs of a teacher and those of the network.

    Args:
        student_feature_map: the network's logits; what its last layer computes where None.
        teacher_feature_map: the teacher's, by its own name.
        student_temperature: divides the network's logits.
        teacher_temperature: divides the teacher's logits.
        scale_by_temperature: multiply with both, so that gradients keep their size.
        weight: factor of the loss in the sum.
        teacher: number of the teacher.
    """

    def __init__(
        self,
        student_feature_map: str | None = None,
        teacher_feature_map: str | None = None,
        student_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        scale_by_temperature: bool = False,
        weight: float = 1.0,
        teacher: int = 0,
    ) -> None:
        super().__init__(student_feature_map, teacher_feature_map, weight, teacher)
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.scale_by_temperature = scale_by_temperature

    def compare(self, teacher: Any, student: Any, program: Any, startup_program: Any) -> Any:
        """Build the loss of a pair of tensors."""
        return soft_label(
            teacher,
            student,
            program,
            self.teacher_temperature,
            self.student_temperature,
            scale_by_temperature=self.scale_by_temperature,
        )


class LossDistiller(_MapsDistiller):
    """Any loss of ``slim.dist`` that compares two tensors.

    Args:
        loss: name of the function.
        options: its further arguments.
        student_feature_map: the network's tensor; what its last layer computes where None.
        teacher_feature_map: the teacher's, by its own name.
        weight: factor of the loss in the sum.
        teacher: number of the teacher.

    Raises:
        ConfigError: an unknown loss, one of more than two tensors, or an unknown option.
    """

    def __init__(
        self,
        loss: str,
        options: Mapping[str, Any] | None = None,
        student_feature_map: str | None = None,
        teacher_feature_map: str | None = None,
        weight: float = 1.0,
        teacher: int = 0,
    ) -> None:
        super().__init__(student_feature_map, teacher_feature_map, weight, teacher)
        known = [name for name in LOSSES if name not in ('fsp', 'hinton')]
        if loss not in known:
            raise ConfigError(f'unknown loss {loss!r}{nearest_names(loss, known)}; known: {", ".join(known)}')
        self.function, self.options = LOSSES[loss], dict(options or {})
        self._arguments = list(inspect.signature(self.function).parameters)
        free = [name for name in self._arguments[2:] if name not in ('program', 'startup_program')]
        for name in self.options:
            if name not in free:
                raise ConfigError(f'{loss} has no option {name!r}{nearest_names(name, free)}; known: {free}')

    def compare(self, teacher: Any, student: Any, program: Any, startup_program: Any) -> Any:
        """Build the loss of a pair of tensors."""
        options = dict(self.options)
        if 'startup_program' in self._arguments:
            options['startup_program'] = startup_program
        return self.function(teacher, student, program=program, **options)


class FSPDistiller(Distiller):
    """The mean square difference of Gram matrices between layers, added up over pairs (Yim et al., 2017).

    Args:
        student_pairs: pairs of the network's feature maps.
        teacher_pairs: as many pairs of the teacher's, by their own names.
        weight: factor of the loss in the sum.
        teacher: number of the teacher.

    Raises:
        ConfigError: the numbers of pairs differ, or there are none.
    """

    def __init__(
        self,
        student_pairs: Sequence[Sequence[str]],
        teacher_pairs: Sequence[Sequence[str]],
        weight: float = 1.0,
        teacher: int = 0,
    ) -> None:
        super().__init__(weight, teacher)
        if len(student_pairs) != len(teacher_pairs) or not student_pairs:
            raise ConfigError(
                f'{len(student_pairs)} student_pairs need as many teacher_pairs, not {len(teacher_pairs)}'
            )
        for pair in (*student_pairs, *teacher_pairs):
            if isinstance(pair, str) or len(pair) != 2:
                raise ConfigError(f'a pair is two names of feature maps, not {pair!r}')
        self.student_pairs = [tuple(pair) for pair in student_pairs]
        self.teacher_pairs = [tuple(pair) for pair in teacher_pairs]

    def loss(self, program: Any, teacher: Teacher, startup_program: Any = None) -> Any:
        """Build the loss; see :meth:`Distiller.loss`."""
        losses = [
            fsp(_of_teacher(teacher, theirs[0]), _of_teacher(teacher, theirs[1]), ours[0], ours[1], program)
            for theirs, ours in zip(self.teacher_pairs, self.student_pairs)
        ]
        return losses[0] if len(losses) == 1 else combine([(one, 1.0) for one in losses], program)[0]


def _of_teacher(teacher: Teacher, name: str) -> Any:
    if isinstance(teacher, str):
        return teacher + name
    if name not in teacher:
        raise GraphError(f'the teacher has no tensor {name!r}{nearest_names(name, map(str, teacher))}')
    return teacher[name]


def _prefix(teacher: Teacher) -> str:
    prefix = teacher if isinstance(teacher, str) else getattr(teacher, 'prefix', None)
    if not isinstance(prefix, str):
        raise GraphError('the last layers of a teacher are found by its prefix: give what slim.dist.merge returned')
    return prefix
