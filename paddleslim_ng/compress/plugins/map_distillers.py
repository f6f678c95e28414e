"""Distillers that compare one tensor of the teacher with one of the network."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from paddleslim_ng.compress.last_layers import last_layers
from paddleslim_ng.compress.plugins.distiller import Distiller, Teacher, of_teacher, prefix_of
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.dist import LOSSES, combine, l2, soft_label
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names

__all__ = ['L2Distiller', 'LossDistiller', 'SoftLabelDistiller']


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
            theirs = [of_teacher(teacher, self.teacher_feature_map)]
        elif self.student_feature_map is not None:
            theirs = [of_teacher(teacher, self.student_feature_map)]
        else:
            theirs = list(last_layers(graph, prefix_of(teacher)))
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
