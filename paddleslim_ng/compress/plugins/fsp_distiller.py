"""A distiller that compares how a teacher and the network get from one layer to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddleslim_ng.compress.plugins.distiller import Distiller, Teacher, of_teacher
from paddleslim_ng.dist import combine, fsp
from paddleslim_ng.errors import ConfigError

__all__ = ['FSPDistiller']


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
            fsp(of_teacher(teacher, theirs[0]), of_teacher(teacher, theirs[1]), ours[0], ours[1], program)
            for theirs, ours in zip(self.teacher_pairs, self.student_pairs)
        ]
        return losses[0] if len(losses) == 1 else combine([(one, 1.0) for one in losses], program)[0]
